"""A worker of whichever Perdure is on the path: one of today, or one kept in this folder.

python -P tests/releases/worker.py URL NAME GATE

It says what it does in lines, ``ready VERSION``, ``added ID`` and ``ran ID``, and takes ``add KIND NUMBER``. It drains when its input ends.
Jobs of the kind `long` wait until the file GATE is there; those of ``only-NAME`` are run by nobody else.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import perdure
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.worker import Worker
from perdure.domain.errors import RetryAfter
from perdure.domain.job import NewJob
from perdure.stores.postgres import PostgresJobStore

LEASE = timedelta(seconds=30)


def handlers_of(name: str, gate: Path) -> Handlers:
    """One for each way that a job can go."""

    async def quick(ctx: Any) -> str:
        await ctx.progress(0.5, "half way")
        return ended(ctx)

    async def long(ctx: Any) -> str:
        while not gate.exists():
            await asyncio.sleep(0.05)
        return ended(ctx)

    async def asking(ctx: Any) -> str:
        await ctx.ask("Go on?", choices=["yes"])
        return ended(ctx)

    async def flaky(ctx: Any) -> str:
        if ctx.saved is None:
            await ctx.checkpoint("been here")
            raise RetryAfter(0.1, "not yet")
        return ended(ctx)

    def ended(ctx: Any) -> str:
        say("ran", ctx.job.id)
        return name

    handlers = Handlers()
    for kind, handler in (
        ("quick", quick),
        ("long", long),
        ("asking", asking),
        ("flaky", flaky),
        (f"only-{name}", quick),
    ):
        handlers.register(kind, handler)
    return handlers


def say(*words: str) -> None:
    """Tell whoever started this."""
    print(*words, flush=True)


async def work(url: str, name: str, gate: Path) -> None:
    """Until the input ends."""
    store = PostgresJobStore(url)
    await store.setup()
    jobs = JobService(store)
    await jobs.start()
    worker = Worker(jobs, handlers_of(name, gate), name=name, concurrency=100, lease=LEASE)
    running = asyncio.create_task(worker.run())
    say("ready", str(Path(perdure.__file__).parent))
    while line := await asyncio.to_thread(sys.stdin.readline):
        _, kind, number = line.split()
        for job in await jobs.add_many([NewJob(kind=kind) for _ in range(int(number))]):
            say("added", job.id)
    worker.stop()
    await running
    await jobs.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
