"""How the tests of refusals look at one: what is said, and that nothing was written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from perdure.domain import transition as move
from perdure.domain.errors import PerdureError
from perdure.domain.job import Job
from perdure.ports.job_store import JobStore
from perdure.testing.builders import make_stamp
from perdure.testing.jobs.base import added, added_many, read

PASSWORD = "s3cret-of-the-house"


@asynccontextmanager
async def opened(store: JobStore) -> AsyncIterator[JobStore]:
    try:
        await store.setup()
        yield store
    finally:
        await store.close()


async def refused(store: JobStore, kind: type[PerdureError], remedy: str) -> None:
    """Setting up is refused so, and the password is not told."""
    with pytest.raises(kind, match=remedy) as caught:
        async with opened(store):
            pass
    assert type(caught.value) is kind
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__}"


async def writes_are_refused(store: JobStore, job: Job, kind: type[PerdureError], remedy: str) -> None:
    """Adding jobs, and completing the `job` that runs."""
    with pytest.raises(kind, match=remedy):
        await added(store)
    with pytest.raises(kind, match=remedy):
        await added_many(store, 3)
    with pytest.raises(kind, match=remedy):
        await store.apply([move.complete(job, 1, make_stamp(job.created_at))])


async def nothing_was_written(store: JobStore, job: Job) -> None:
    assert await read(store, job) == job
    assert await store.history(job.tenant, job.id) == []
    assert (await store.stats(None)).total == 1
    assert await store.apply([move.complete(job, 1, make_stamp(job.created_at))]) == [True]
