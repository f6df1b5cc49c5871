"""Looks at single jobs of a PostgreSQL store share statements, and each tells what is true after its question."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from perdure.databases.postgres.gathering import AT_ONCE, TOGETHER, Gathering
from perdure.domain.errors import StoreCorrupt, StoreUnavailable
from perdure.domain.job import Job
from perdure.testing.builders import make_job

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Table:
    """Jobs, looked at only when a test lets it."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.looks: list[list[str]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def look(self, job_ids: Sequence[str]) -> Mapping[str, Job]:
        self.looks.append([*job_ids])
        await self.open.wait()
        if self.error:
            raise self.error
        return {job_id: self.jobs[job_id] for job_id in job_ids if job_id in self.jobs}


async def begun(gathering: Gathering[str, Job], job_ids: Sequence[str]) -> list[asyncio.Task[Job | None]]:
    tasks = [asyncio.create_task(gathering.get(job_id)) for job_id in job_ids]
    await asyncio.sleep(0)
    return tasks


async def test_who_finds_all_places_taken_looks_with_the_others() -> None:
    jobs = [make_job(NOW) for _ in range(AT_ONCE + TOGETHER + 3)]
    table = Table(*jobs)
    gathering = Gathering(table.look)
    tasks = await begun(gathering, [*(job.id for job in jobs), jobs[-1].id, "nobody's"])
    assert [len(look) for look in table.looks] == [1] * AT_ONCE
    table.open.set()
    assert await asyncio.gather(*tasks) == [*jobs, jobs[-1], None]
    assert [len(look) for look in table.looks[AT_ONCE:]] == [TOGETHER, 4]


async def test_no_answer_is_older_than_its_question() -> None:
    job = make_job(NOW)
    table = Table(*(others := [make_job(NOW) for _ in range(AT_ONCE)]))
    gathering = Gathering(table.look)
    early = await begun(gathering, [job.id, *(other.id for other in others)])  # the first look is under way
    table.jobs[job.id] = job
    late = await begun(gathering, [job.id])
    table.open.set()
    await asyncio.gather(*early)
    assert await late[0] == job
    assert table.looks[-1] == [others[-1].id, job.id]


async def test_an_error_reaches_everybody_who_waits_and_the_next_look_is_a_new_one() -> None:
    job = make_job(NOW)
    table = Table(job)
    gathering = Gathering(table.look)
    table.error = StoreUnavailable("away")
    tasks = await begun(gathering, [job.id] * (AT_ONCE + 2))
    table.open.set()
    for task in tasks:
        with pytest.raises(StoreUnavailable):
            await task
    table.error = None
    assert await gathering.get(job.id) == job


async def test_who_goes_away_takes_nobody_along() -> None:
    job = make_job(NOW)
    table = Table(job)
    gathering = Gathering(table.look)
    tasks = await begun(gathering, [job.id] * (AT_ONCE + 2))
    for leaving in (tasks[0], tasks[-1]):  # one that looks, one that waits
        leaving.cancel()
    await asyncio.sleep(0)
    table.open.set()
    assert await asyncio.gather(*tasks[1:-1]) == [job] * AT_ONCE
    assert await gathering.get(job.id) == job


async def test_a_job_that_cannot_be_read_takes_nobody_along() -> None:
    jobs = [make_job(NOW) for _ in range(AT_ONCE + 3)]
    table = Table(*jobs)
    torn = jobs[-2].id

    async def look(job_ids: Sequence[str]) -> Mapping[str, Job]:
        found = await table.look(job_ids)
        if torn in job_ids:
            raise StoreCorrupt("a row cannot be read")
        return found

    tasks = await begun(Gathering(look), [job.id for job in jobs])
    table.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [*answers[:-2], answers[-1]] == [*jobs[:-2], jobs[-1]]
    assert isinstance(answers[-2], StoreCorrupt)
