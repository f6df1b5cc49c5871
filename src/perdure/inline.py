"""Jobs that run while they are submitted: for the tests of those who write handlers. Opened by `App.testing`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from perdure.domain.job import Job, NewJob
from perdure.domain.state import JobState

if TYPE_CHECKING:
    from perdure.app import App

_POLL = timedelta(seconds=0.02)


@asynccontextmanager
async def inline(app: App) -> AsyncIterator[App]:
    """Run a worker inside the block, and let whatever adds jobs return them once they have come to rest.

    At rest is a job that is finished, waits for an answer, or is not due yet: put off, or to be tried again later.
    """
    add_many = app.jobs.add_many

    async def added(new: Sequence[NewJob], **options: Any) -> list[Job]:
        jobs = await add_many(new, **options)
        if options.get("connection") is not None:
            return jobs  # they are there once the caller commits
        return list(await asyncio.gather(*(_at_rest(app, job) for job in jobs)))

    worker = app.make_worker(poll=_POLL)
    running = asyncio.create_task(worker.run(), name="perdure-inline")
    app.jobs.add_many = added  # type: ignore[method-assign]  # given back below
    try:
        yield app
    finally:
        app.jobs.add_many = add_many  # type: ignore[method-assign]
        worker.stop()
        await running


async def _at_rest(app: App, added: Job) -> Job:
    job = added
    async for job in app.jobs.watch(added.id, tenant=added.tenant, poll=_POLL):
        later = job.due_at is not None and job.due_at > app.jobs.clock.now()
        if job.state is JobState.WAITING or (job.state is JobState.PENDING and later):
            break
    return job
