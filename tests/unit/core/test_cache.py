"""How old an answer from the cache may be, and what must not find its way into it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.cache import CachedJobStore
from perdure.core.jobs import JobService
from perdure.domain import transition
from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Failure, Job, NewJob
from perdure.domain.state import JobState
from perdure.ports.job_store import Change
from perdure.stores.memory import MemoryJobStore
from perdure.testing.builders import KIND, make_job, make_stamp
from perdure.testing.clock import MovableClock

LEASE = timedelta(minutes=5)


class Store(MemoryJobStore):
    """Counts its reads, holds their answers back while `held` is set, and tells of changes only if `tells`."""

    def __init__(self, clock: MovableClock, *, tells: bool = True) -> None:
        super().__init__(clock)
        self.reads = 0
        self.tells = tells
        self.broken = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def get(self, tenant: str, job_id: str) -> Job | None:
        self.reads += 1
        job = await super().get(tenant, job_id)
        await self.go_on.wait()
        return job

    async def changes(self) -> AsyncIterator[Change]:
        async for change in super().changes():
            if self.broken.is_set():
                raise StoreUnavailable("the feed broke off")
            if self.tells:
                yield change


class Times:
    """The store's clock and the cache's, moved together."""

    def __init__(self) -> None:
        self.clock = MovableClock()
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.advance(timedelta(seconds=seconds))


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def store(times: Times) -> Store:
    """What another process writes to: the cache hears of it by the feed only."""
    return Store(times.clock)


@pytest_asyncio.fixture
async def cache(store: Store, times: Times) -> AsyncIterator[CachedJobStore]:
    cache = CachedJobStore(store, monotonic=times.monotonic)
    await cache.setup()
    await asyncio.sleep(0)  # it listens
    yield cache
    await cache.close()


async def read(store: CachedJobStore | Store, job: Job) -> Job:
    found = await store.get(job.tenant, job.id)
    assert found is not None
    return found


async def ended(store: Store | CachedJobStore, job: Job, *, failed: bool = False) -> Job:
    """Claim and end it."""
    [claimed] = await store.claim("w", [job.kind], 1, LEASE)
    stamp = make_stamp(await store.now())
    if failed:
        move = transition.fail(claimed, Failure(type="E", message="no", fatal=True), LEASE, stamp)
    else:
        move = transition.complete(claimed, {"n": 1}, stamp)
    assert await store.apply([move]) == [True]
    found = await store.get(job.tenant, job.id)
    assert found is not None
    return found


async def edited(store: Store, job: Job, priority: int) -> None:
    move = transition.edit(await read(store, job), make_stamp(await store.now()), priority=priority)
    assert await store.apply([move]) == [True]


async def heard() -> None:
    """Let hints arrive."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_who_ask_at_once_ask_the_store_once(store: Store, cache: CachedJobStore) -> None:
    [job] = await store.add([make_job(await store.now())])
    found = await asyncio.gather(*(cache.get("default", job.id) for _ in range(100)))
    assert found == [job] * 100
    assert store.reads == 1
    assert await read(cache, job) == job
    stats = cache.cache_stats
    assert (store.reads, stats.hits, stats.misses, stats.entries) == (1, 1, 100, 1)
    assert stats.hit_ratio == pytest.approx(1 / 101)


async def test_a_job_that_is_not_there_is_asked_for_again(store: Store, cache: CachedJobStore) -> None:
    job = make_job(await store.now())
    assert await cache.get("default", job.id) is None
    await store.add([job])
    assert await read(cache, job) == job


async def test_one_who_gives_up_leaves_the_answer_to_the_others(store: Store, cache: CachedJobStore) -> None:
    [job] = await store.add([make_job(await store.now())])
    store.go_on.clear()
    first, second = (asyncio.create_task(cache.get("default", job.id)) for _ in range(2))
    await heard()
    first.cancel()
    store.go_on.set()
    assert await second == job
    assert store.reads == 1


async def test_what_was_added_here_is_kept_as_the_store_has_it(store: Store, cache: CachedJobStore) -> None:
    [job] = await cache.add([make_job(await store.now())])
    assert await read(cache, job) == job
    assert store.reads == 0


async def test_a_reading_that_began_before_a_write_is_not_kept(store: Store, cache: CachedJobStore) -> None:
    [job] = await store.add([make_job(await store.now())])
    store.go_on.clear()
    early = asyncio.create_task(cache.get("default", job.id))
    await heard()
    await cache.claim("w", [KIND], 1, LEASE)
    late = asyncio.create_task(cache.get("default", job.id))
    await heard()
    store.go_on.set()
    before, after = await early, await late
    assert before is not None
    assert after is not None
    assert (before.state, after.state) == (JobState.PENDING, JobState.RUNNING)
    assert (await read(cache, job)).state is JobState.RUNNING


async def test_a_reading_that_began_before_a_hint_is_not_kept(store: Store, cache: CachedJobStore) -> None:
    [job] = await store.add([make_job(await store.now())])
    await heard()
    store.go_on.clear()
    early = asyncio.create_task(cache.get("default", job.id))
    await heard()
    store.go_on.set()
    await edited(store, job, 7)
    await heard()
    await early
    assert (await read(cache, job)).priority == 7


async def test_nobody_joins_a_reading_that_is_older_than_an_answer_may_be(
    store: Store, cache: CachedJobStore, times: Times
) -> None:
    store.tells = False
    [job] = await store.add([make_job(await store.now())])
    store.go_on.clear()
    early = asyncio.create_task(cache.get("default", job.id))
    await heard()
    store.go_on.set()
    await edited(store, job, 7)
    store.go_on.clear()
    times.advance(1)
    late = asyncio.create_task(cache.get("default", job.id))
    await heard()
    store.go_on.set()
    await early
    found = await late
    assert found is not None
    assert found.priority == 7


async def test_an_unfinished_job_is_read_again_when_its_answer_is_a_second_old(
    store: Store, cache: CachedJobStore, times: Times
) -> None:
    store.tells = False
    [job] = await store.add([make_job(await store.now())])
    assert await read(cache, job) == job
    await edited(store, job, 7)
    times.advance(0.999)
    assert (await read(cache, job)).priority == 0
    assert cache.cache_stats.oldest == pytest.approx(0.999)
    times.advance(0.001)
    assert (await read(cache, job)).priority == 7


async def test_a_finished_job_is_kept_for_an_hour(store: Store, cache: CachedJobStore, times: Times) -> None:
    [job] = await store.add([make_job(await store.now())])
    job = await ended(store, job)
    await heard()
    reads = store.reads
    for _ in range(60):
        assert await read(cache, job) == job
        times.advance(60)
    assert store.reads == reads + 1
    await read(cache, job)
    assert store.reads == reads + 2


async def test_a_finished_job_is_hidden_once_it_expires_by_the_stores_clock(
    store: Store, cache: CachedJobStore, times: Times
) -> None:
    times.clock.advance(timedelta(hours=3))  # this machine's clock is hours behind the store's
    await cache._clock.sync()
    [job] = await store.add([make_job(await store.now(), ttl=timedelta(minutes=10))])
    await ended(store, job)
    await heard()
    await read(cache, job)
    times.advance(599)
    await read(cache, job)
    times.advance(1)
    assert await cache.get("default", job.id) is None


async def test_a_hint_drops_its_job_finished_or_not(store: Store, cache: CachedJobStore) -> None:
    jobs = await store.add([make_job(await store.now()) for _ in range(2)])
    first = await ended(store, jobs[0], failed=True)
    await heard()
    assert [await read(cache, job) for job in jobs] == [first, jobs[1]]
    reads = store.reads
    await store.apply([transition.requeue(first, make_stamp(await store.now()))])
    await heard()
    assert (await read(cache, first)).state is JobState.PENDING
    await read(cache, jobs[1])
    assert store.reads == reads + 1


async def test_a_hint_that_names_no_job_drops_all(store: Store, cache: CachedJobStore) -> None:
    [job] = await store.add([make_job(await store.now())])
    await heard()
    await read(cache, job)
    assert cache.cache_stats.entries == 1
    for listener in store._listeners:
        listener.tell(Change())
    await heard()
    assert cache.cache_stats.entries == 0
    assert cache.cache_stats.size == 0


async def test_a_feed_that_breaks_drops_all_and_is_taken_up_again(
    store: Store, cache: CachedJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []
    pause = asyncio.sleep

    async def quick(seconds: float) -> None:
        pauses.append(seconds)
        await pause(0)

    [job, other] = await store.add([make_job(await store.now()) for _ in range(2)])
    failed = await ended(store, job, failed=True)
    await heard()
    await read(cache, failed)
    store.tells = False
    store.broken.set()
    monkeypatch.setattr(asyncio, "sleep", quick)
    await store.apply([transition.requeue(failed, make_stamp(await store.now()))])
    await edited(store, other, 1)
    for _ in range(10):
        await pause(0)
    assert 1 in pauses
    assert (await read(cache, failed)).state is JobState.PENDING
    store.broken.clear()
    store.tells = True
    await pause(0)
    reads = store.reads
    await edited(store, other, 2)
    for _ in range(10):
        await pause(0)
    await read(cache, other)
    assert store.reads > reads


async def test_memory_is_bounded_and_what_is_asked_for_stays(store: Store, times: Times) -> None:
    cache = CachedJobStore(store, megabytes=0.1, monotonic=times.monotonic)
    await cache.setup()
    hot = (await cache.add([make_job(await store.now())]))[0]
    for _ in range(50):
        await cache.add([make_job(await store.now(), payload={"text": "x" * 5000}) for _ in range(5)])
        await read(cache, hot)
    assert store.reads == 0
    assert 10 < cache.cache_stats.entries < 20
    assert cache.cache_stats.size <= 100_000
    [giant] = await cache.add([make_job(await store.now(), payload={"text": "x" * 200_000})])
    assert await read(cache, giant) == giant
    assert cache.cache_stats.size <= 100_000
    await cache.close()


async def test_old_entries_go_without_being_asked_for(
    store: Store, cache: CachedJobStore, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.add([make_job(await store.now())])
    assert cache.cache_stats.entries == 1
    times.advance(2)
    monkeypatch.setattr("perdure.core.cache.TIDY", 0.0)
    tidying = asyncio.create_task(cache._tidy())
    await heard()
    tidying.cancel()
    assert (cache.cache_stats.entries, cache.cache_stats.size) == (0, 0)


async def test_no_tenant_is_given_anothers(store: Store, cache: CachedJobStore) -> None:
    [job] = await store.add([make_job(await store.now(), tenant="acme")])
    store.go_on.clear()
    theirs = asyncio.create_task(cache.get("acme", job.id))
    others = asyncio.create_task(cache.get("bolt", job.id))
    await heard()
    store.go_on.set()
    assert (await theirs, await others) == (job, None)
    assert await cache.get("bolt", job.id) is None
    assert await read(cache, job) == job


async def test_what_one_caller_does_to_an_answer_no_other_sees(store: Store, cache: CachedJobStore) -> None:
    [job] = await store.add([make_job(await store.now(), payload={"list": [1]})])
    for _ in range(2):
        first, second = await asyncio.gather(read(cache, job), read(cache, job))
        first.payload["list"] = "spoilt"
        assert second == job


async def test_an_error_is_told_and_not_kept(store: Store, cache: CachedJobStore) -> None:
    [job] = await store.add([make_job(await store.now())])
    store._open = False
    for outcome in await asyncio.gather(*(cache.get("default", job.id),) * 2, return_exceptions=True):
        assert isinstance(outcome, StoreUnavailable)
    store._open = True
    assert await read(cache, job) == job


async def test_a_decision_on_an_old_answer_is_taken_again_on_a_new_one(
    store: Store, cache: CachedJobStore
) -> None:
    store.tells = False
    service = JobService(cache)
    await service.start()
    job = await service.add(NewJob(kind=KIND))
    await edited(store, job, 7)
    assert (await service.get(job.id, tenant="default")).priority == 0
    assert (await service.cancel(job.id, tenant="default")).priority == 7
    await service.close()


@given(seed=st.integers(0, 2**32), tells=st.booleans())
async def test_no_answer_is_older_than_promised_whatever_is_done_in_whatever_order(
    seed: int, tells: bool
) -> None:
    """Two replicas on one store, whose hints may all get lost."""
    chance, times = random.Random(seed), Times()
    store = Store(times.clock, tells=tells)
    caches = [CachedJobStore(store, monotonic=times.monotonic) for _ in range(2)]
    for cache in caches:
        await cache.setup()
    jobs = await store.add([make_job(await store.now()) for _ in range(3)])
    superseded: dict[tuple[str, int], float] = {}

    async def write(job: Job) -> None:
        writer = chance.choice(caches)
        current = await store.get("default", job.id)
        assert current is not None
        if current.state is JobState.PENDING and chance.random() < 0.5:
            await writer.claim("w", [KIND], 1, LEASE)
        else:
            move = transition.edit(current, make_stamp(await store.now()), priority=chance.randint(0, 9))
            await writer.apply([move])
        for other in jobs:
            now_there = store._jobs[other.id].version
            for version in range(now_there):
                superseded.setdefault((other.id, version), times.seconds)

    async def ask(job: Job) -> None:
        asked = times.seconds
        found = await chance.choice(caches).get("default", job.id)
        assert found is not None
        assert superseded.get((found.id, found.version), asked) >= asked - 1

    tasks = []
    for _ in range(120):
        job = chance.choice(jobs)
        match chance.choice(["write", "ask", "ask", "time", "hold", "go on"]):
            case "write":
                store.go_on.set()
                await write(job)
            case "ask":
                tasks.append(asyncio.create_task(ask(job)))
            case "time":
                times.advance(chance.choice([0.1, 0.6, 1.0]))
            case "hold":
                store.go_on.clear()
            case _:
                store.go_on.set()
        await heard()
    store.go_on.set()
    await asyncio.gather(*tasks)
    for cache in caches:
        assert cache.cache_stats.oldest < 1
        await cache.close()
