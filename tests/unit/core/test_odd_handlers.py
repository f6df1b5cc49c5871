"""Handlers that do what no handler should: their job ends with a clear reason, and the worker goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest

from perdure.core.context import Context, ThreadContext
from perdure.core.handlers import Handlers, Partial
from perdure.core.jobs import JobService
from perdure.domain.errors import RetryAfter
from perdure.domain.job import Job, NewJob
from perdure.domain.state import JobState
from perdure.stores.memory import MemoryJobStore

from .conftest import POLL, StartWorker, kept


class Half(float):
    """As NumPy's floats are: a float that encoders do not know."""


async def odd_count(ctx: Context) -> None:
    await ctx.progress(0.5, rows=Half(5))  # type: ignore[arg-type]  # that is the point


async def odd_message(ctx: Context) -> str:
    await ctx.progress(0.5, "file \udcff.pdf")
    return "done"


async def odd_result(ctx: Context) -> Any:
    return {"score": Half(1.5)}


async def odd_mapping(ctx: Context) -> Any:
    return MappingProxyType({"a": 1})


async def odd_partial(ctx: Context) -> Partial:
    return Partial(result=None, message="page \udcff")


async def odd_wait(ctx: Context) -> None:
    raise RetryAfter("0.01" if ctx.epoch < 2 else 0.0, "\udcff", counts=True)  # type: ignore[arg-type]


async def odd_question(ctx: Context) -> None:
    await ctx.ask("Sure?", key="\udcff")


async def leaked_cancellation(ctx: Context) -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def leaves(ctx: Context) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("handler", "state", "words"),
    [
        (odd_count, JobState.FAILED, "progress counts.rows is a Half"),
        (odd_message, JobState.COMPLETED, ""),
        (odd_result, JobState.FAILED, "is a Half"),
        (odd_mapping, JobState.FAILED, "is a mappingproxy"),
        (odd_partial, JobState.PARTIAL, "page ?"),
        (odd_wait, JobState.FAILED, "?"),
        (odd_question, JobState.FAILED, "lone surrogate"),
        (leaked_cancellation, JobState.FAILED, "CancelledError"),
        (leaves, JobState.FAILED, "3"),
    ],
)
async def test_the_job_says_why_and_the_worker_goes_on(
    handler: Any, state: JobState, words: str, jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def good(ctx: Context) -> str:
        return "good"

    handlers.register("odd", handler, max_attempts=1)
    handlers.register("good", good)
    start()
    odd = await jobs.add(NewJob(kind="odd"))
    ended = await jobs.wait(odd.id, tenant="default", timeout=60)
    assert (ended.state, ended.rescues) == (state, 0)
    assert words in (ended.failure.message if ended.failure else "")
    after = await jobs.add(NewJob(kind="good"))
    assert (await jobs.wait(after.id, tenant="default", timeout=60)).result == "good"


class _Picky(MemoryJobStore):
    """Cannot encode one kind of progress: a fault of ours that nobody foresaw."""

    async def apply(self, transitions: Any) -> list[bool]:
        if any(move.after.progress and move.after.progress.message == "bad" for move in transitions):
            raise TypeError("cannot encode this")
        return await super().apply(transitions)


async def test_what_cannot_be_written_ends_no_worker(handlers: Handlers, start: StartWorker) -> None:
    async def work(ctx: Context) -> str:
        await ctx.progress(0.5, "bad")
        await asyncio.sleep(0.4)  # the note is sent
        await ctx.progress(0.6, "good")
        return "done"

    handlers.register("work", work)
    jobs = JobService(_Picky(), poll=POLL)
    start(jobs)
    job = await jobs.add(NewJob(kind="work"))
    assert (await jobs.wait(job.id, tenant="default", timeout=60)).result == "done"
    await jobs.close()


async def test_a_job_that_comes_back_to_its_worker_has_one_run_and_a_heartbeat(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    ended: list[int] = []

    async def long(ctx: Context) -> int:
        try:
            if ctx.epoch == 1:
                await asyncio.sleep(3600)
            await kept(jobs, ctx)
        finally:
            ended.append(ctx.epoch)
        return ctx.epoch

    handlers.register("long", long)
    start(lease=timedelta(seconds=3))
    job = await jobs.add(NewJob(kind="long"))
    await _reach(jobs, job, JobState.RUNNING)
    await jobs.cancel(job.id, tenant="default")
    await jobs.requeue(job.id, tenant="default")
    done = await jobs.wait(job.id, tenant="default", timeout=60)
    assert (done.state, done.result, done.epoch, done.rescues) == (JobState.COMPLETED, 2, 2, 0)
    assert ended == [1, 2]


async def _reach(jobs: JobService, job: Job, state: JobState) -> None:
    async with asyncio.timeout(60):
        async for seen in jobs.watch(job.id, tenant="default"):
            if seen.state is state:
                return


async def test_a_thread_that_outlives_its_timeout_is_told(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    told = threading.Event()

    def slow(ctx: ThreadContext) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if ctx.cancelled:
                told.set()
                return
            time.sleep(0.01)

    handlers.register("slow", slow, max_attempts=1, timeout=timedelta(seconds=0.1))
    start()
    job = await jobs.add(NewJob(kind="slow"))
    assert (await jobs.wait(job.id, tenant="default", timeout=60)).state is JobState.FAILED
    assert await asyncio.to_thread(told.wait, 60)
