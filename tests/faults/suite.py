"""What every networked store must survive, in one suite: a server's class gives fixtures, and the answers to lose."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.domain import transition as move
from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.domain.state import JobState
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND, make_job, make_stamp
from perdure.testing.jobs.base import ALL, BRIEF, LEASE, added, added_many, everything, read
from tests.servers.proxy import Proxy, tcp_proxy

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


class Server(Protocol):
    """A server of a test's own."""

    port: int

    def start(self) -> None: ...
    def kill(self) -> None: ...


class Line(Protocol):
    """The way to a server, on which answers get lost.

    Attributes:
        url: of the store, this way.
        lost: how many answers got lost so far.
    """

    url: str

    @property
    def lost(self) -> int: ...
    def lose(self, call: str, times: int) -> None:
        """Lose the next answers to `call`: add, add_many, claim, extend, apply, delete or purge."""


class ProxyLine:
    """A line through a proxy.

    Args:
        words: call → what the question and the answer must hold that is lost; "": of other calls.
    """

    def __init__(self, url: str, proxy: Proxy, words: Mapping[str, tuple[bytes, bytes]]) -> None:
        self.url, self._proxy, self._words = url, proxy, words

    @property
    def lost(self) -> int:
        return self._proxy.lost

    def lose(self, call: str, times: int) -> None:
        asked, answered = self._words.get(call) or self._words[""]
        self._proxy.lose(times, asked=asked, answered=answered)


class Stores:
    """The hooks that both suites have; `url` and what else is asked for are fixtures of each class."""

    batch: ClassVar[int] = 50
    """Jobs of one call under load; fewer where the tests' server is slow."""

    def make(self, url: str, patience: float) -> JobStore:
        """Make a store whose calls take at most about `patience` seconds, where they have a limit."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, url: str, patience: float = 30.0) -> AsyncIterator[JobStore]:
        store = self.make(url, patience)
        while True:
            try:
                await store.setup()
                break
            except StoreUnavailable:  # an impatient one, on a slow machine; each time it comes further
                continue
        try:
            yield store
        finally:
            await store.close()


class AnswerSuite(Stores):
    """Many processes at one queue; answers that get lost after the write was done."""

    total: ClassVar[int] = 10_000
    """Jobs that four processes run."""

    words: ClassVar[Mapping[str, tuple[bytes, bytes]]] = {}
    """See `ProxyLine`."""

    asks_first: ClassVar[bool] = False
    """Whether the driver asks something else when it meets a statement first: that is not the answer to lose."""

    async def forgotten(self, store: JobStore) -> None:
        """Let the time pass after which the store forgets what an add that was cut off has left."""

    @pytest_asyncio.fixture
    async def line(self, server: Any, url: str) -> AsyncIterator[Line]:
        async with tcp_proxy(server.port) as proxy:
            yield ProxyLine(url.replace(f":{server.port}", f":{proxy.port}"), proxy, self.words)

    @pytest_asyncio.fixture
    async def store(self, url: str) -> AsyncIterator[JobStore]:
        async with self.opened(url) as store:
            yield store

    @pytest_asyncio.fixture
    async def lossy(self, line: Line) -> AsyncIterator[JobStore]:
        """The same, its answers coming over the line."""
        async with self.opened(line.url, 4.0) as store:
            if self.asks_first:
                await self.meet(store)
            yield store

    async def meet(self, store: JobStore) -> None:
        """Make each call once, and leave nothing."""
        await added_many(store, 2)
        await added(store)
        jobs = await store.claim("w", [KIND], 3, LEASE)
        await store.extend("w", {job.id: job.epoch for job in jobs}, LEASE)
        await store.apply([move.complete(job, None, make_stamp(job.created_at)) for job in jobs])
        await store.purge(5)
        for job in jobs:
            await store.delete(job.tenant, job.id)

    async def share_out(self, url: str, total: int) -> None:
        """Let four processes set up, add and run that many jobs; each must run once."""
        arguments = [url, str(total), str(total // 4), str(self.batch)]
        command = [sys.executable, "-m", "tests.faults.child", *arguments]
        start = partial(asyncio.create_subprocess_exec, cwd=ROOT, stdout=PIPE, stderr=PIPE)
        workers = [await start(*command) for _ in range(4)]
        told = await asyncio.gather(*(worker.communicate() for worker in workers))
        assert [worker.returncode for worker in workers] == [0] * 4, [said.decode() for _, said in told]
        runs = Counter(line.split()[1].decode() for out, _ in told for line in out.splitlines())
        async with self.opened(url) as store:
            jobs = await everything(store, size=1000)
            assert len(jobs) == total
            assert runs == {job.id: 1 for job in jobs}
            assert {(job.state, job.epoch, job.attempt) for job in jobs} == {(JobState.COMPLETED, 1, 1)}
            assert (await store.stats(None)).counts == {KIND: {JobState.COMPLETED: total}}
            for job in jobs[:: total // 100]:
                assert len(await store.history(job.tenant, job.id)) == 1

    @pytest.mark.timeout(900)
    async def test_four_processes_run_each_job_once(self, url: str) -> None:
        await self.share_out(url, self.total)

    async def unheard(self, line: Line, call: str, times: int, make: Callable[[], Awaitable[T]]) -> T | None:
        """Make a call whose answers get lost: what it gave in the end, or None where it was given up."""
        before = line.lost
        line.lose(call, times)
        try:
            return await make()
        except StoreUnavailable:
            return None
        finally:
            line.lose(call, 0)
            assert line.lost > before, "no answer was lost"

    async def run(self, store: JobStore, number: int) -> list[Job]:
        await added_many(store, number)
        return await store.claim("worker-1", [KIND], number, LEASE)

    @pytest.mark.parametrize("times", [1, 1000])
    @pytest.mark.parametrize("number", [1, 5, 150])
    async def test_an_add_adds_once(
        self, store: JobStore, lossy: JobStore, line: Line, number: int, times: int
    ) -> None:
        now = await store.now()
        jobs = [make_job(now, idempotency_key=f"order-{n}", user_id="ann") for n in range(number)]
        await self.unheard(line, "add" if number == 1 else "add_many", times, lambda: lossy.add(jobs))
        if self.asks_first:  # and gives up at once
            assert await store.count(ALL) == number, "it was written before the answer got lost"
        await self.forgotten(store)
        assert await store.add(jobs) == jobs
        assert await store.count(JobFilter(tenant="default", user_id="ann")) == number
        assert (await store.stats(None)).total == number

    @pytest.mark.parametrize("times", [1, 1000])
    async def test_a_claim_claims_once(
        self, store: JobStore, lossy: JobStore, line: Line, times: int
    ) -> None:
        since = await store.now() - LEASE
        jobs = await added_many(store, 4, due_at=since)
        taken = await self.unheard(line, "claim", times, lambda: lossy.claim("w", [KIND], 4, BRIEF))
        assert taken is None or [(job.id, job.epoch) for job in taken] == [(job.id, 1) for job in jobs]
        gone: set[str] = set()
        while (await store.stats(None)).by_state[JobState.RUNNING]:
            overdue = await store.expired(9)
            assert {(job.worker, job.epoch) for job in overdue} <= {("w", 1)}
            now = await store.now()
            assert all(await store.apply([move.rescue(job, make_stamp(now)) for job in overdue]))
            gone |= {job.id for job in overdue}
        assert gone
        again = await store.claim("other", [KIND], 9, LEASE)
        assert {job.id: job.epoch for job in again} == {job.id: 1 + (job.id in gone) for job in jobs}

    @pytest.mark.parametrize("times", [1, 1000])
    async def test_a_heartbeat_loses_no_job(
        self, store: JobStore, lossy: JobStore, line: Line, times: int
    ) -> None:
        epochs = {job.id: job.epoch for job in await self.run(store, 2)}
        await self.unheard(line, "extend", times, lambda: lossy.extend("worker-1", epochs, 2 * LEASE))
        assert await store.extend("worker-1", epochs, 2 * LEASE) == set()
        for job in await everything(store):
            assert job.lease is not None
            assert job.lease.expires_at >= await store.now() + LEASE

    @pytest.mark.parametrize("times", [1, 1000])
    async def test_an_ack_counts_once(self, store: JobStore, lossy: JobStore, line: Line, times: int) -> None:
        jobs = await self.run(store, 30)
        moves = [move.complete(job, {"n": 1}, make_stamp(await store.now())) for job in jobs]
        await self.unheard(line, "apply", times, lambda: lossy.apply(moves))
        if self.asks_first:
            assert (await store.stats(None)).counts == {KIND: {JobState.COMPLETED: 30}}
        assert await store.apply(moves) == [True] * 30
        for job, done in zip(jobs, moves, strict=True):
            kept = await read(store, job)
            assert kept == replace(done.after, version=job.version + 1)
            assert await store.history(job.tenant, job.id) == [done.entry]
        assert (await store.stats(None)).counts == {KIND: {JobState.COMPLETED: 30}}

    @pytest.mark.parametrize("times", [1, 1000])
    async def test_a_delete_leaves_nothing(
        self, store: JobStore, lossy: JobStore, line: Line, times: int
    ) -> None:
        [job] = await self.run(store, 1)
        await self.unheard(line, "delete", times, lambda: lossy.delete(job.tenant, job.id))
        await store.delete(job.tenant, job.id)
        assert await store.get(job.tenant, job.id) is None
        assert not await store.delete(job.tenant, job.id)
        assert (await store.stats(None)).total == 0


class Load:
    """Adds, claims and completes without pause, each call until it is answered; notes what was acknowledged."""

    def __init__(self, store: JobStore, name: str, batch: int) -> None:
        self.store, self.name, self.batch = store, name, batch
        self.added: set[str] = set()
        self.done: list[str] = []
        self.failures = 0

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            now = await self.insist(self.store.now)
            jobs = [make_job(now) for _ in range(random.choice((1, 3, self.batch)))]
            self.added |= {job.id for job in await self.insist(lambda jobs=jobs: self.store.add(jobs))}  # type: ignore[misc]  # bound now
            await self.settle(
                await self.insist(lambda: self.store.claim(self.name, [KIND], self.batch, LEASE))
            )

    async def settle(self, jobs: Sequence[Job]) -> None:
        now = await self.insist(self.store.now)
        moves = [move.complete(job, self.name, make_stamp(now, self.name)) for job in jobs]
        assert all(await self.insist(lambda: self.store.apply(moves))), "an ack that was repeated must stand"
        self.done += [job.id for job in jobs]

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until it is answered, as the service does."""
        for _ in range(2000):
            try:
                return await call()
            except StoreUnavailable:
                self.failures += 1
                await asyncio.sleep(0.02)
        raise AssertionError("the store never came back")


class Counting:
    """Counts a value up, by way of removing it now and then; after each doubt it looks what is there."""

    def __init__(self, load: Load) -> None:
        self._load, self._values = load, load.store.values
        self.number = 0
        self.versions: list[int] = []

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            self.number += 1
            await self._put({"n": self.number} if self.number % 3 else self.number)
            await asyncio.sleep(0.02)
        self.number += 1
        await self._put(self.number)

    async def _put(self, wanted: Json) -> None:
        while True:
            found = (await self._load.insist(lambda: self._values.read("counts", ["n"]))).get("n")
            if found is not None and found.value == wanted:
                self.versions.append(found.version)
                return
            value = None if found is not None and isinstance(found.value, dict) else wanted
            with suppress(StoreUnavailable):
                await self._values.write("counts", "n", value, expect=found.version if found else 0)


class Following:
    """Reads the log on, whatever happens to the server."""

    def __init__(self, load: Load) -> None:
        self._load, self._position = load, ""
        self.heard: set[str] = set()

    async def begin(self) -> None:
        self._position = (await self._load.store.entries(None, 1)).next

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.read()
            await asyncio.sleep(0.02)

    async def read(self) -> None:
        page = await self._load.insist(lambda: self._load.store.entries(self._position, 100))
        self.heard |= {line.job_id for line in page.lines}
        self._position = page.next


class KillSuite(Stores):
    """A server that is killed, and comes again."""

    @asynccontextmanager
    async def killed(self, server: Server) -> AsyncIterator[None]:
        await asyncio.to_thread(server.kill)
        try:
            yield
        finally:
            await asyncio.to_thread(server.start)

    @pytest.mark.timeout(900)
    async def test_a_kill_under_load_loses_nothing_that_was_acknowledged(
        self, server: Server, url: str
    ) -> None:
        async with self.opened(url, 1.5) as store:
            loads, over = [Load(store, f"worker-{n}", self.batch) for n in range(3)], asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for load in loads:
                    group.create_task(load.run(over))
                for _ in range(4):
                    target = sum(len(load.done) for load in loads) + 5
                    while sum(len(load.done) for load in loads) < target:
                        await asyncio.sleep(0.02)
                    await asyncio.sleep(random.uniform(0, 0.5))
                    async with self.killed(server):
                        while not any(load.failures for load in loads):
                            await asyncio.sleep(0.02)
                over.set()
        async with self.opened(url) as store:
            await self.check(store, loads)

    @pytest.mark.timeout(300)
    async def test_after_kills_the_log_has_no_gap_and_values_are_what_was_written(
        self, server: Server, url: str
    ) -> None:
        """Whoever read on with the same position met every run; a version never came twice."""
        async with self.opened(url, 1.5) as store:
            load, over = Load(store, "worker-0", min(self.batch, 10)), asyncio.Event()
            counter, reader = Counting(load), Following(load)
            await reader.begin()
            async with asyncio.TaskGroup() as group:
                for part in (load, counter, reader):
                    group.create_task(part.run(over))
                for _ in range(3):
                    done, before = len(load.done) + 5, load.failures
                    while len(load.done) < done:
                        await asyncio.sleep(0.02)
                    async with self.killed(server):
                        while load.failures == before:
                            await asyncio.sleep(0.02)
                over.set()
            async with asyncio.timeout(60):
                while not set(load.done) <= reader.heard:
                    await reader.read()
            found = await load.insist(lambda: store.values.read("counts", ["n"]))
        assert found["n"].value == counter.number >= 3
        assert len(set(counter.versions)) == len(counter.versions)

    async def check(self, store: JobStore, loads: Sequence[Load]) -> None:
        jobs = {job.id: job for job in await everything(store, size=1000)}
        done = [job_id for load in loads for job_id in load.done]
        assert len(done) == len(set(done)), "two workers completed the same job"
        assert {job_id for load in loads for job_id in load.added} <= jobs.keys()
        assert {(jobs[job_id].state, jobs[job_id].epoch) for job_id in done} == {(JobState.COMPLETED, 1)}
        assert (await store.stats(None)).counts == {KIND: Counter(job.state for job in jobs.values())}
        for job_id in done[::20]:
            assert len(await store.history("default", job_id)) == 1
        # What was claimed in an answer that nobody heard still has its lease; the others go on at once.
        left = {job.id for job in jobs.values() if job.state is JobState.PENDING}
        while taken := await store.claim("last", [KIND], self.batch, LEASE):
            left -= {job.id for job in taken}
        assert not left

    async def test_hints_go_on_after_a_kill(self, server: Server, url: str) -> None:
        heard: set[str | None] = set()

        async def listen(store: JobStore) -> None:
            while True:
                try:
                    async for change in store.changes():
                        heard.add(change.job_id)
                    return
                except StoreUnavailable:
                    await asyncio.sleep(0.02)

        async def hinted(load: Load) -> None:
            told: set[str | None] = {None}
            while not heard & told:
                job = make_job(await load.insist(load.store.now))
                await load.insist(lambda job=job: load.store.add([job]))  # type: ignore[misc]  # bound now
                told.add(job.id)
                await asyncio.sleep(0.05)

        async with self.opened(url) as store, self.opened(url) as other, asyncio.timeout(240):
            load, listening = Load(store, "w", 1), asyncio.create_task(listen(other))
            await hinted(load)
            async with self.killed(server):
                pass
            heard.clear()
            await hinted(load)
            listening.cancel()
            await asyncio.wait([listening])

    async def test_a_server_that_is_away_is_named_and_found_again(self, server: Server, url: str) -> None:
        async with self.opened(url, 1.0) as store:
            job = await added(store)
            another = make_job(await store.now())
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "add": lambda: store.add([another]),
                "get": lambda: store.get(job.tenant, job.id),
                "claim": lambda: store.claim("w", [KIND], 1, LEASE),
                "apply": lambda: store.apply([move.cancel(job, make_stamp(job.created_at))]),
                "stats": lambda: store.stats(None),
                "now": store.now,
            }
            async with self.killed(server):
                for call in calls.values():
                    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port}"):
                        await call()
            load = Load(store, "w", 1)
            assert await load.insist(lambda: store.add([another])) == [another]
            assert await store.get(job.tenant, job.id) == job
