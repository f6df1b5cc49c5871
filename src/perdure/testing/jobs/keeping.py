"""What comes in, and how long it stays: `add`, expiry, `purge` and `delete`."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace

from perdure.domain import transition as move
from perdure.domain.job import Entry, Failure, Job, Question
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND, make_id, make_job
from perdure.testing.jobs.base import (
    ALL,
    BRIEF,
    LEASE,
    MOMENT,
    JobStoreSuite,
    added,
    claimed,
    everything,
    history,
    ids,
    read,
    running,
    stamp,
    written,
)

DAY = timedelta(days=1)
KEY = "order-7"


class AddSuite(JobStoreSuite):
    """New jobs are durable, all or none, and once however often they are said."""

    async def test_add_gives_the_jobs_in_order_and_keeps_them(self, store: JobStore) -> None:
        assert await store.add([]) == []
        now = await store.now()
        jobs = [make_job(now, priority=number) for number in (3, 1, 2)]
        assert await store.add(jobs) == jobs
        assert [await store.get(job.tenant, job.id) for job in jobs] == jobs
        assert [await history(store, job) for job in jobs] == [[], [], []]
        assert await store.count(ALL) == 3

    @pytest.mark.parametrize("state", [JobState.PENDING, JobState.WAITING, JobState.FAILED])
    async def test_a_job_of_another_store_comes_in_as_it_was(self, store: JobStore, state: JobState) -> None:
        """Its record at an older version, then each entry of its history by a step that may be said again."""
        now = await store.now()
        whole = replace(
            make_job(
                now, max_attempts=9, idempotency_key=KEY, user_id="ann", document_id="doc", created_by="bob"
            ),
            state=state,
            due_at=now + DAY,
            epoch=7,
            version=12,
            attempt=2,
            rescues=1,
            worker="gone",
            started_at=now - DAY,
            labels={"a": "b"},
            checkpoint={"page": 3},
            questions=(Question(key="go", prompt="Go on?", asked_at=now - DAY, choices=("yes",)),),
            failure=Failure(type="ValueError", message="no", detail="line 1"),
            completed_at=now if state.terminal else None,
        )
        start = whole if state.terminal else replace(whole, state=JobState.PENDING, due_at=None)
        entries = [
            Entry(
                id=make_id(now),
                event=Event.RETRIED,
                at=now,
                state=state,
                actor="gone",
                epoch=epoch,
                attempt=epoch,
                rescues=1,
            )
            for epoch in (5, 6, 7)
        ]
        steps = [
            move.Transition(
                before=start.state,
                after=replace(whole if number == 12 else start, version=number),
                epoch=None,
                version=number - 1,
                entry=entry,
            )
            for number, entry in zip((10, 11, 12), entries, strict=True)
        ]
        await store.add([replace(start, version=9)])
        assert await store.claim("early", [whole.kind], 9, LEASE) == []
        assert await store.apply(steps[:2]) == [True, True]
        assert await store.apply(steps) == [True, True, True]
        assert await read(store, whole) == whole
        assert await history(store, whole) == entries
        assert (await store.stats(whole.tenant)).counts == {KIND: {state: 1}}

    async def test_adding_an_id_again_gives_the_job_that_is_there(self, store: JobStore) -> None:
        job = await added(store)
        taken = await claimed(store)
        assert await store.add([job]) == [taken]
        assert await read(store, job) == taken
        assert (await store.stats(job.tenant)).counts == {KIND: {JobState.RUNNING: 1}}

    async def test_what_is_said_twice_is_added_once(self, store: JobStore) -> None:
        """In one call, and in two; each comes back in its place; without a key equal contents are no repeat."""
        now = await store.now()
        one, keyed, three, again = (make_job(now, idempotency_key=key) for key in (None, KEY, None, KEY))
        assert await store.add([keyed]) == [keyed]
        for _ in range(2):
            assert await store.add([one, again, one, three, keyed]) == [one, keyed, one, three, keyed]
            assert await store.count(ALL) == (await store.stats(None)).total == 3
        other = make_job(now, idempotency_key="order-8")
        assert await store.add([other, replace(other, id=make_id(now))]) == [other, other]

    async def test_the_same_idempotency_key_gives_the_job_that_is_there(self, store: JobStore) -> None:
        first = await added(store, idempotency_key=KEY, payload={"n": 1})
        later = make_job(await store.now(), idempotency_key=KEY, payload={"n": 2})
        assert await store.add([later]) == [first]
        assert await store.get(later.tenant, later.id) is None
        assert await written(store, move.cancel(first, await stamp(store)))
        assert await store.add([later]) == [await read(store, first)], "a key holds when its job has ended"
        elsewhere = replace(later, tenant="acme")
        assert await store.add([elsewhere]) == [elsewhere], "a key belongs to its tenant"
        assert await store.count(ALL) == (await store.stats(None)).total == 2

    async def test_a_key_holds_for_its_time_and_then_makes_a_new_job(self, store: JobStore) -> None:
        brief = timedelta(seconds=2.0)
        first = await added(store, idempotency_key=KEY, unique_for=brief, labels={"a": "b"})
        plain = await added(store, idempotency_key="order-8", user_id="ann")
        later = make_job(await store.now(), idempotency_key=KEY, unique_for=DAY)
        assert await store.add([later]) == [first] == [await read(store, first)]
        [taken] = await store.claim("worker-1", [KIND], 1, LEASE)
        assert taken.id == first.id
        await self.advance(store, 2.0 + MOMENT)
        assert await store.add([first]) == [taken], "said again it is still that job, with its key"
        third = make_job(await store.now(), idempotency_key=KEY, unique_for=DAY)
        again = make_job(await store.now(), idempotency_key="order-8")
        assert await store.add([third, again]) == [third, plain]
        assert await store.add([third, later]) == [third, third]
        async with asyncio.timeout(self.patience):  # a cache hears of it by the store's hint
            while (await read(store, first)).idempotency_key is not None:
                await self.advance(store, MOMENT)
        assert await read(store, first) == taken.unkeyed()
        assert await written(store, move.complete(taken, None, await stamp(store))), "its worker goes on"
        done = await read(store, first)
        assert (done.idempotency_key, done.state) == (None, JobState.COMPLETED)
        assert await store.count(ALL) == (await store.stats(None)).total == 3

    async def test_a_lapsed_key_from_many_at_once_makes_one_job(
        self, store: JobStore, other: JobStore
    ) -> None:
        old = await added(store, idempotency_key=KEY, unique_for=timedelta(milliseconds=1))
        await self.advance(store, MOMENT)
        now = await store.now()
        jobs = [make_job(now, idempotency_key=KEY, unique_for=DAY) for _ in range(6)]
        answers = await asyncio.gather(*((store, other)[n % 2].add([job]) for n, job in enumerate(jobs)))
        [new] = {job.id for answer in answers for job in answer}
        assert new != old.id
        assert await store.count(ALL) == (await store.stats(None)).total == 2

    async def test_the_same_key_from_many_at_once_is_one_job(self, store: JobStore, other: JobStore) -> None:
        now = await store.now()
        jobs = [make_job(now, idempotency_key=KEY) for _ in range(8)]
        answers = await asyncio.gather(*((store, other)[n % 2].add([job]) for n, job in enumerate(jobs)))
        assert len({job.id for answer in answers for job in answer}) == 1
        assert await store.count(ALL) == (await store.stats(None)).total == 1

    async def test_readers_see_all_of_a_call_or_none(self, store: JobStore, other: JobStore) -> None:
        now = await store.now()
        seen: set[int] = set()
        async with asyncio.TaskGroup() as group:
            adding = group.create_task(store.add([make_job(now) for _ in range(200)]))
            while not adding.done():
                seen.add(await other.count(ALL))
                await asyncio.sleep(0)
        assert len(adding.result()) == 200
        assert seen <= {0, 200}

    async def test_what_the_caller_does_to_a_job_later_does_not_change_it(self, store: JobStore) -> None:
        payload = {"pages": [1, 2]}
        given = make_job(await store.now(), payload=payload, labels={"team": "a"})
        kept = replace(given, payload={"pages": [1, 2]}, labels={"team": "a"})
        await store.add([given])
        payload["pages"].append(3)
        got = await read(store, given)
        assert got == kept
        got.labels["team"] = "b"
        assert await everything(store) == [kept]


class ExpirySuite(JobStoreSuite):
    """Finished jobs go when their time is over, unfinished ones never."""

    async def _ended(self, store: JobStore, *, ago: timedelta = 3 * DAY, **over: object) -> Job:
        """Add a job that was cancelled some time ago; by default its record outlived its `ttl` of a day."""
        job = await added(store, **{"ttl": DAY, **over})
        assert await written(store, move.cancel(job, await stamp(store, ago=ago)))
        return job

    async def test_an_expired_job_is_hidden_everywhere(self, store: JobStore) -> None:
        jobs = [await (added(store) if n % 3 == 0 else self._ended(store)) for n in range(9)]
        assert await store.get(jobs[1].tenant, jobs[1].id) is None
        assert await history(store, jobs[1]) == []
        assert await everything(store, size=2) == jobs[::3][::-1]
        assert await store.count(ALL) == await store.count(JobFilter(tenant=jobs[0].tenant)) == 3
        assert await store.count(JobFilter(tenant=None, states=(JobState.CANCELLED,))) == 0

    async def test_a_job_lives_for_its_ttl_after_its_end(self, store: JobStore) -> None:
        job = await self._ended(store, ago=timedelta(0), ttl=timedelta(seconds=2.0))
        ended = await read(store, job)
        assert ended.completed_at is not None
        assert ended.expires_at == ended.completed_at + timedelta(seconds=2.0)
        await self.advance(store, 2.0 + MOMENT)
        assert await store.get(job.tenant, job.id) is None
        assert await store.count(ALL) == 0

    async def test_every_end_expires(self, store: JobStore) -> None:
        failure = Failure(type="E", message="m", fatal=True)
        for number in range(4):
            job = await running(store, ttl=DAY)
            at = await stamp(store, ago=2 * DAY)
            ends = (
                move.complete(job, 1, at),
                move.complete(job, 1, at, failure=failure),
                move.fail(job, failure, DAY, at),
                move.cancel(job, at),
            )
            assert await written(store, ends[number])
            assert await store.get(job.tenant, job.id) is None

    async def test_what_has_time_left_or_no_end_stays(self, store: JobStore) -> None:
        left = await self._ended(store, ago=DAY - timedelta(minutes=5))
        forever = await self._ended(store, ago=timedelta(days=4000), ttl=None)
        requeued = await self._ended(store, ago=timedelta(0))
        again = move.requeue(await read(store, requeued), await stamp(store, ago=3 * DAY))
        assert await written(store, again)
        assert await store.purge(10) == 0
        assert ids(await everything(store)) == ids([requeued, forever, left])
        assert (await read(store, forever)).expires_at is None
        assert (await claimed(store)).id == requeued.id

    async def test_an_expired_job_frees_its_idempotency_key(self, store: JobStore) -> None:
        old = await self._ended(store, idempotency_key=KEY)
        new = make_job(await store.now(), idempotency_key=KEY)
        assert await store.add([new]) == [new]
        assert await read(store, new) == new
        await store.purge(10)
        assert await store.get(old.tenant, old.id) is None
        assert await store.add([make_job(await store.now(), idempotency_key=KEY)]) == [new]

    async def test_purge_removes_expired_jobs_in_bites(self, store: JobStore) -> None:
        kept = await added(store)
        for _ in range(5):
            await self._ended(store)
        counted = (await store.stats(None)).counts
        removed = [await store.purge(2) for _ in range(4)]
        if not self.capabilities.native_ttl:
            assert counted == {KIND: {JobState.PENDING: 1, JobState.CANCELLED: 5}}, "they count till they go"
            assert removed == [2, 2, 1, 0]
        assert await everything(store) == [kept]
        assert (await store.stats(None)).counts == (await store.stats(kept.tenant)).counts
        assert (await store.stats(None)).counts == {KIND: {JobState.PENDING: 1}}

    async def test_a_purged_job_can_be_written_no_more(self, store: JobStore) -> None:
        job = await running(store)
        ended = move.cancel(job, await stamp(store, ago=3 * DAY))
        assert await written(store, ended)
        await store.purge(10)
        completed = move.complete(job, 1, await stamp(store))
        requeued = move.requeue(ended.after, await stamp(store))
        assert await store.apply([ended, completed, requeued]) == [False] * 3
        assert await everything(store) == []

    async def test_purge_never_takes_an_unfinished_job(self, store: JobStore) -> None:
        long_ago = await store.now() - 30 * DAY
        waiting = await running(store, ttl=DAY)
        question = Question(key="k", prompt="p", asked_at=long_ago, deadline=long_ago + DAY)
        assert await written(store, move.ask(waiting, question, await stamp(store, ago=20 * DAY)))
        lost = await running(store, lease=BRIEF, ttl=DAY)
        [pending] = await store.add([make_job(long_ago, ttl=DAY)])
        await self.advance(store, MOMENT)
        assert await store.purge(10) == 0
        assert sorted(ids(await everything(store))) == sorted(ids([waiting, lost, pending]))

    async def test_delete_removes_a_job_in_any_state_for_its_tenant(self, store: JobStore) -> None:
        for end in ("pending", "running", "cancelled"):
            job = await added(store, tenant="acme", idempotency_key=KEY)
            if end == "running":
                await claimed(store)
            if end == "cancelled":
                assert await written(store, move.cancel(job, await stamp(store)))
            assert not await store.delete("bolt", job.id)
            assert (await read(store, job)).state == end
            assert await store.delete("acme", job.id)
            assert await store.get("acme", job.id) is None
            assert await history(store, job) == []
            assert await everything(store) == await store.claim("w", [KIND], 5, LEASE) == []
            assert (await store.stats(None)).counts == (await store.stats("acme")).counts == {}
            assert not await store.delete("acme", job.id)
