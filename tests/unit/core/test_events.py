"""Events of jobs, as those hear them who follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from perdure.core import events
from perdure.core.events import EventLog
from perdure.core.jobs import JobService
from perdure.domain import transition
from perdure.domain.errors import CursorLost, InvalidInput, SlowFollower
from perdure.domain.job import Failure, Job, NewJob
from perdure.domain.log import JobEvent
from perdure.domain.state import Event
from perdure.stores.memory import MemoryJobStore
from perdure.stores.sqlite import SqliteJobStore
from perdure.testing.jobs.base import LEASE

WHOLE_LIFE = [Event.ADDED, Event.CLAIMED, Event.RETRIED, Event.CLAIMED, Event.COMPLETED]


@pytest.fixture(params=["memory", "sqlite"])
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[JobService, JobService]]:
    """Two services on one store: on a file, each with a handle of its own."""
    if request.param == "memory":
        store = MemoryJobStore()
        services = (JobService(store), JobService(store))
    else:
        services = (
            JobService(SqliteJobStore(tmp_path / "jobs.db")),
            JobService(SqliteJobStore(tmp_path / "jobs.db")),
        )
    for service in services:
        await service.store.setup()
        await service.start()
    yield services
    for service in services:
        await service.close()
        await service.store.close()


async def live(jobs: JobService, kind: str = "work", tenant: str = "default") -> Job:
    """A whole life of a job: a run that fails, and one that ends well."""
    await jobs.add(NewJob(kind=kind, tenant=tenant))
    [job] = await jobs.store.claim("worker-1", [kind], 1, LEASE)
    failure = Failure(type="Oops", message="once")
    await jobs.apply([transition.fail(job, failure, LEASE * 0, jobs.stamp("worker-1"))])
    [job] = await jobs.store.claim("worker-2", [kind], 1, LEASE)
    await jobs.apply([transition.complete(job, 0, jobs.stamp("worker-2"))])
    return job


async def take(
    log: EventLog,
    number: int,
    tenant: str | None = "default",
    after: str | None = None,
    known: Sequence[JobEvent] = (),
) -> list[JobEvent]:
    """The next events, without those that come again."""
    taken: list[JobEvent] = []
    ids = {event.entry.id for event in known}
    async with asyncio.timeout(20), aclosing(log.follow(tenant, after)) as following:
        async for event in following:
            if event.entry.id not in ids:
                ids.add(event.entry.id)
                taken.append(event)
            if len(taken) == number:
                return taken
    raise AssertionError("the events ended")


async def test_another_process_hears_the_whole_life_in_order(pair: tuple[JobService, JobService]) -> None:
    here, there = pair
    log = EventLog(here)
    await live(there)
    following = asyncio.create_task(take(log, 5))
    await asyncio.sleep(0.1)
    await live(there, tenant="other")
    job = await live(there)
    heard = await following
    await log.close()
    assert [event.entry.event for event in heard] == WHOLE_LIFE
    assert {event.job_id for event in heard} == {job.id}
    assert [event.entry.actor for event in heard[1:]] == ["worker-1", "worker-1", "worker-2", "worker-2"]


async def test_a_run_is_told_while_it_is_under_way(pair: tuple[JobService, JobService]) -> None:
    here, there = pair
    log = EventLog(here)
    following = asyncio.create_task(take(log, 2))
    await asyncio.sleep(0.1)
    await there.add(NewJob(kind="work"))
    await there.store.claim("worker-1", ["work"], 1, LEASE)
    assert [event.entry.event for event in await following] == [Event.ADDED, Event.CLAIMED]
    await log.close()


async def test_who_comes_back_with_a_position_misses_nothing(pair: tuple[JobService, JobService]) -> None:
    """Also in another process, whose log never saw the events before."""
    here, there = pair
    first = EventLog(here)
    following = asyncio.create_task(take(first, 3))
    await asyncio.sleep(0.1)
    job = await live(there)
    heard = await following
    await first.close()
    more = [await live(there) for _ in range(3)]
    second = EventLog(there)
    rest = await take(second, 2 + 3 * 5, after=heard[-1].position, known=heard)
    await second.close()
    whole = [event.entry.event for event in (*heard, *rest) if event.job_id == job.id]
    assert whole == WHOLE_LIFE
    for other in more:
        assert [event.entry.event for event in rest if event.job_id == other.id] == WHOLE_LIFE


async def test_of_many_jobs_at_once_each_is_told(pair: tuple[JobService, JobService]) -> None:
    """More than a follower's buffer holds, in one call."""
    here, there = pair
    log = EventLog(here)
    following = asyncio.create_task(take(log, 5000))
    await asyncio.sleep(0.1)
    jobs = await there.add_many([NewJob(kind="work") for _ in range(5000)])
    heard = await following
    await log.close()
    assert {event.job_id for event in heard} == {job.id for job in jobs}
    assert {event.entry.event for event in heard} == {Event.ADDED}


async def test_one_job_is_followed_from_its_beginning_to_its_end(pair: tuple[JobService, JobService]) -> None:
    here, there = pair
    job = await live(there)
    log = EventLog(here)
    heard = [event async for event in log.follow_job(job.id, tenant="default")]
    assert [event.entry.event for event in heard] == WHOLE_LIFE
    for place, event in enumerate(heard):
        rest = [later async for later in log.follow_job(job.id, tenant="default", after=event.position)]
        assert [later.entry.id for later in rest] == [later.entry.id for later in heard[place + 1 :]]


async def test_a_slow_follower_is_sent_away_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BUFFER", 3)
    jobs = JobService(MemoryJobStore())
    await jobs.start()
    log = EventLog(jobs)
    slow = log.follow("default")

    async def begin() -> JobEvent:
        return await anext(slow)

    first = asyncio.create_task(begin())
    quick = asyncio.create_task(take(log, 10))
    await asyncio.sleep(0.1)
    await live(jobs)
    heard = [await first]
    await asyncio.sleep(0.3)
    await live(jobs)

    async def go_on() -> None:
        async for event in slow:
            heard.append(event)
            await asyncio.sleep(0.3)

    with pytest.raises(SlowFollower, match="last one's position"):
        await go_on()
    assert [event.entry.event for event in await quick] == WHOLE_LIFE * 2
    rest = await take(log, 10 - len(heard), after=heard[-1].position, known=heard)
    for job in {event.job_id for event in heard}:
        told = sorted((*heard, *rest), key=lambda event: event.job_id != job)[:5]
        assert [event.entry.event for event in told] == WHOLE_LIFE
    await log.close()
    await jobs.close()


@pytest.mark.parametrize("position", ["", "x", "1|2", "1|no-uuid|x", "x||", "||"])
async def test_what_is_no_position_is_refused(position: str) -> None:
    jobs = JobService(MemoryJobStore())
    await jobs.start()
    log = EventLog(jobs)
    with pytest.raises((InvalidInput, CursorLost)):
        await take(log, 1, after=position)
    await log.close()
    await jobs.close()
