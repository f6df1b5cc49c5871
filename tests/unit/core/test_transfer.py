"""One store into another: nothing lost, nothing twice, whoever works meanwhile and whenever the copy dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.check import check
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.transfer import Transfer, TransferReport
from perdure.core.worker import Worker
from perdure.domain.errors import InvalidInput
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.domain.transition import Transition
from perdure.stores.memory import MemoryJobStore
from perdure.testing.builders import new_job

Answer = TypeVar("Answer")
POLL = timedelta(milliseconds=20)


class Died(Exception):
    """The copying process was killed here."""


class Mortal(MemoryJobStore):
    """Dies after so many writes: before one is done, or after it when nobody hears the answer."""

    lives: int | None = None
    late = False

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await self._spend(lambda: super(Mortal, self).add(jobs))

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        return await self._spend(lambda: super(Mortal, self).apply(transitions))

    async def _spend(self, write: Callable[[], Awaitable[Answer]]) -> Answer:
        if self.lives == 0 and not self.late:
            raise Died
        answer = await write()
        if self.lives == 0:
            raise Died
        if self.lives is not None:
            self.lives -= 1
        return answer


async def service(store: MemoryJobStore) -> JobService:
    jobs = JobService(store, poll=POLL)
    await jobs.start()
    return jobs


@pytest_asyncio.fixture
async def source() -> AsyncIterator[JobService]:
    jobs = await service(Mortal())
    yield jobs
    await jobs.close()


@pytest.fixture
def target() -> Mortal:
    return Mortal()


async def nothing(_job: Job) -> None:
    """No job here refers to anything."""


async def copy(source: JobService, target: MemoryJobStore) -> TransferReport:
    return await Transfer(source, target, "target", origin="source", carry=nothing).run()


async def filled(source: JobService) -> list[Job]:
    """A job in each state that a store at rest can have, in two tenants; one that runs for the third time."""
    worker, lease = "worker-1", timedelta(minutes=5)
    handlers = Handlers()

    async def work(ctx: Any, how: str) -> str:
        if how == "ask":
            await ctx.ask("Go on?", choices=["yes", "no"], default="no")
        if how == "fail":
            raise ValueError("no")
        return how

    handlers.register("work", work)
    runner = Worker(source, handlers, name=worker, lease=lease, poll=POLL)
    running = asyncio.create_task(runner.run())
    jobs = [
        await source.add(new_job(tenant=tenant, payload={"how": how}, max_attempts=1, idempotency_key=how))
        for tenant in ("one", "two")
        for how in ("good", "fail", "ask")
    ]
    while (stats := (await source.stats(None)).by_state)[JobState.PENDING] or stats[JobState.RUNNING]:
        await asyncio.sleep(0.005)
    runner.stop()
    await running
    later = source.clock.now()
    jobs += [
        await source.add(new_job(payload={"how": "good"})),
        await source.add(new_job(payload={"how": "good"}, run_at=later + timedelta(days=1))),
    ]
    return jobs


async def test_all_goes_on_as_it_was(source: JobService, target: Mortal) -> None:
    before = {job.id: job for job in await filled(source)}
    before = {job_id: await source.get(job_id, tenant=job.tenant) for job_id, job in before.items()}
    report = await copy(source, target)
    assert (report.copied, report.moved, report.equal) == (4, 4, True)
    assert {tenant: (one.source, one.target) for tenant, one in report.tenants.items()} == {
        "default": (2, 2),
        "one": (3, 3),
        "two": (3, 3),
    }
    for job in before.values():
        there = await target.get(job.tenant, job.id)
        assert there is not None
        assert (there.state, there.due_at, there.payload) == (job.state, job.due_at, job.payload)
        assert (there.epoch, there.questions, there.result) == (job.epoch, job.questions, job.result)
        here = await source.get(job.id, tenant=job.tenant)
        assert here.finished
        assert here == job or (here.failure is not None and "goes on in target" in here.failure.message)
    assert [finding async for finding in check(target)] == []
    again = await copy(source, target)
    assert (again.copied, again.moved, again.known, again.equal) == (0, 0, 8, True)


@pytest.mark.parametrize("lives", [2, 4])
async def test_a_store_into_which_a_copy_was_interrupted_says_so_and_lets_nothing_go(
    source: JobService, target: Mortal, lives: int
) -> None:
    """What the source let go may be in neither store, and some of what is there is half written."""
    await filled(source)
    target.lives = lives
    with pytest.raises(Died):
        await copy(source, target)
    target.lives = None
    found = [finding async for finding in check(target)]
    mark = next(finding for finding in found if finding.what == "copy")
    assert "has not come to its end" in mark.message
    assert "perdure store copy source target" in mark.remedy
    half = [finding for finding in found if finding is not mark]
    assert half
    assert all("run" in finding.remedy and "again" in finding.remedy for finding in half)
    there, third = await service(target), Mortal()
    with pytest.raises(InvalidInput, match=r"perdure store copy source target\), or"):
        await Transfer(there, third, "third", origin="target", carry=nothing).run()
    assert (await third.stats(None)).total == 0
    assert (await copy(source, target)).equal
    assert (await Transfer(there, third, "third", origin="target", carry=nothing).run()).equal
    for store in (target, third):
        assert [finding async for finding in check(store)] == []
    await there.close()


async def test_what_was_asked_here_is_answered_there(source: JobService, target: Mortal) -> None:
    jobs = await filled(source)
    await copy(source, target)
    there = await service(target)
    answered = await there.respond(jobs[2].id, "yes", tenant="one", actor="ann")
    assert answered.state is JobState.PENDING
    with pytest.raises(Exception, match="cannot be"):
        await source.respond(jobs[2].id, "yes", tenant="one", actor="ann")
    assert await source.requeue_all(JobFilter(tenant="one", states=(JobState.CANCELLED,))) == 0
    await there.close()


async def test_a_job_whose_key_is_taken_there_is_named_and_left(source: JobService, target: Mortal) -> None:
    there = await service(target)
    kept = await there.add(new_job(idempotency_key="same"))
    job = await source.add(new_job(idempotency_key="same"))
    report = await copy(source, target)
    assert report.keyed == (job.id,)
    assert await target.find(JobFilter(tenant=None), 9) == [kept]
    await there.close()


async def test_a_job_that_was_sent_round_again_since_is_brought_up_to_date(
    source: JobService, target: Mortal
) -> None:
    jobs = await filled(source)
    failed = jobs[1]
    await Transfer(source, target, "target", origin="source", carry=nothing)._copy_finished()
    await source.requeue(failed.id, tenant="one")
    report = await copy(source, target)
    assert report.equal
    there = await target.get("one", failed.id)
    assert there is not None
    assert there.state is JobState.PENDING


@given(lives=st.lists(st.integers(0, 6), min_size=1, max_size=6), late=st.booleans(), side=st.booleans())
def test_a_copy_that_dies_anywhere_is_taken_up_again(lives: list[int], late: bool, side: bool) -> None:
    async def story() -> None:
        store, target = Mortal(), Mortal()
        source = await service(store)
        await filled(source)
        mortal = store if side else target
        for number in lives:
            mortal.lives, mortal.late = number, late
            try:
                await copy(source, target)
            except Died:
                told = " ".join([finding.remedy async for finding in check(target)])
                begun = (await target.stats(None)).total > 0
                assert ("run it again: perdure store copy source target" in told) is begun
        mortal.lives = None
        report = await copy(source, target)
        assert report.equal, report
        assert {job.id for job in await target.find(JobFilter(tenant=None), 99)} == {
            job.id for job in await store.find(JobFilter(tenant=None), 99)
        }
        states = (await target.stats(None)).by_state
        assert (states[JobState.PENDING], states[JobState.WAITING]) == (2, 2)
        assert states[JobState.CANCELLED] == 0
        assert [finding async for finding in check(target)] == []
        await source.close()

    asyncio.run(story())


async def test_workers_on_both_sides_run_each_job_once(source: JobService, target: Mortal) -> None:
    """And producers still add to the source."""
    ran: list[int] = []
    handlers = Handlers()

    async def work(_ctx: Any, number: int) -> None:
        await asyncio.sleep(0.002)
        ran.append(number)

    handlers.register("work", work)
    there = await service(target)
    workers = [Worker(jobs, handlers, poll=POLL, concurrency=4) for jobs in (source, there)]
    running = [asyncio.create_task(worker.run()) for worker in workers]

    async def produce() -> None:
        for number in range(300):
            await source.add(new_job(payload={"number": number}))
            await asyncio.sleep(0.0005)

    producing = asyncio.create_task(produce())
    await asyncio.sleep(0.05)
    await copy(source, target)
    await producing
    report = await copy(source, target)
    while (await there.stats(None)).unfinished:
        await asyncio.sleep(0.01)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    assert sorted(ran) == list(range(300))
    assert report.equal
    assert (await there.stats(None)).by_state[JobState.COMPLETED] == 300
    await there.close()
