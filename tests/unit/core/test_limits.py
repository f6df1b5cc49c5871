"""Workers on terms: limits over several of them, a place that becomes free, and a handler that blocks the loop."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from perdure.core.context import Context
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.domain.job import NewJob

from .conftest import StartWorker


async def test_no_more_run_than_the_limit_over_two_workers_and_free_places_are_heard_of(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    at_once = most = 0

    async def work(ctx: Context) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1

    handlers.register("work", work, limit=3, limit_per_tenant=2)
    jobs.limited = handlers.limited
    made = await jobs.add_many([NewJob(kind="work", tenant="ab"[n % 2]) for n in range(60)])
    begun = time.monotonic()
    for _ in range(2):
        start(poll=timedelta(minutes=5))
    for job in made:
        await jobs.wait(job.id, tenant=job.tenant, timeout=60)
    assert most == 3
    assert time.monotonic() - begun < 60, "nobody slept until the next look"


async def test_a_handler_that_blocks_the_loop_is_named(
    jobs: JobService, handlers: Handlers, start: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn(ctx: Context) -> None:
        time.sleep(2.5)  # noqa: ASYNC251  # that is the mistake

    handlers.register("stubborn", stubborn)
    start()
    job = await jobs.add(NewJob(kind="stubborn"))
    await jobs.wait(job.id, tenant=job.tenant, timeout=60)
    [first, *_] = [text for text in caplog.messages if "blocks the event loop" in text]
    assert first.startswith(f"job {job.id} of kind 'stubborn' blocks the event loop, for ")
    assert "It is in stubborn (" in first
