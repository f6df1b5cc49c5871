"""What the contract's subjects share: the hooks that a backend fills, and the short words that tests are told in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeAlias

import pytest
import pytest_asyncio

from perdure.domain.job import Entry, Job
from perdure.domain.query import JobFilter
from perdure.domain.transition import Stamp, Transition
from perdure.ports.job_store import Capabilities, JobStore
from perdure.testing.builders import KIND, make_job, make_stamp

LEASE = timedelta(minutes=5)
"""Long enough to outlast any test."""

BRIEF = timedelta(milliseconds=1)
"""A lease or delay that is over after `advance(store, MOMENT)`."""

MOMENT = 0.05

ALL = JobFilter(tenant=None)

Decide: TypeAlias = Callable[[Job, Stamp], Transition]
"""One of the domain's transitions, its other arguments given."""


class JobStoreSuite:
    """The hooks. A backend fills `capabilities` and `store`, and what its abilities ask for beyond them."""

    pytestmark = pytest.mark.asyncio

    capabilities: ClassVar[Capabilities]
    """What the store must be able to do: an ability that is lost fails, and is never skipped."""

    patience: ClassVar[float] = 60.0
    """Seconds within which a hint must come, though one may be lost; far more than it takes."""

    crowd: ClassVar[int] = 100_000
    """Pending jobs of a large tenant; fewer for a server that would take minutes for them."""

    async def advance(self, store: JobStore, seconds: float) -> None:
        """Let the store's clock go on. By default it really waits."""
        await asyncio.sleep(seconds)

    async def second(self, store: JobStore) -> JobStore:
        """Open another handle (another connection) on the same data; asked for only with `multi_process`."""
        raise NotImplementedError(
            "a store that several processes may share must give a second handle to test that"
        )

    @pytest_asyncio.fixture
    async def other(self, store: JobStore) -> AsyncIterator[JobStore]:
        """A second handle on the same data; where only one process may use the store, the store itself."""
        if not self.capabilities.multi_process:
            yield store
            return
        handle = await self.second(store)
        yield handle
        await handle.close()


async def stamp(store: JobStore, actor: str = "tester", *, ago: timedelta = timedelta(0)) -> Stamp:
    """Stamp something that happens now, or happened `ago`."""
    return make_stamp(await store.now() - ago, actor)


async def added(store: JobStore, **over: Any) -> Job:
    """Add one job, as `perdure.testing.builders.make_job` makes it."""
    [job] = await added_many(store, 1, **over)
    return job


async def added_many(store: JobStore, number: int, **over: Any) -> list[Job]:
    """Add that many jobs at once; the ids grow."""
    now = await store.now()
    return await store.add([make_job(now, **over) for _ in range(number)])


async def claimed(
    store: JobStore, worker: str = "worker-1", lease: timedelta = LEASE, kind: str = KIND
) -> Job:
    """Claim the one job that is there to be claimed."""
    jobs = await store.claim(worker, [kind], 2, lease)
    assert len(jobs) == 1, f"one job was to be claimed, got {ids(jobs)}"
    return jobs[0]


async def running(store: JobStore, *, lease: timedelta = LEASE, **over: Any) -> Job:
    """Add a job and let worker-1 claim it; no other of its kind may be pending."""
    job = await added(store, **over)
    return await claimed(store, lease=lease, kind=job.kind)


async def written(store: JobStore, transition: Transition) -> bool:
    """Apply one transition."""
    [stands] = await store.apply([transition])
    return stands


async def read(store: JobStore, job: Job) -> Job:
    """Read the job again; it must be there."""
    found = await store.get(job.tenant, job.id)
    assert found is not None, f"job {job.id} is gone"
    return found


async def history(store: JobStore, job: Job) -> list[Entry]:
    """The job's stored history."""
    return await store.history(job.tenant, job.id)


async def everything(store: JobStore, query: JobFilter = ALL, size: int = 100) -> list[Job]:
    """Every job that matches, page by page."""
    jobs: list[Job] = []
    while page := await store.find(query, size, jobs[-1].id if jobs else None):
        assert len(page) <= size
        assert not jobs or (page[0].id > jobs[-1].id) == query.oldest_first, "a page went back instead of on"
        jobs += page
    return jobs


def ids(jobs: Sequence[Job]) -> list[str]:
    """The ids of the jobs, in their order."""
    return [job.id for job in jobs]
