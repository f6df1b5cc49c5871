"""What a store does for long, and what more worker processes bring.

    python -m bench.jobs.sustained [--store postgres] [--minutes 10] [--share 0.7] [--workers 1,2,4] [--jobs 20000]
                                   [--plot FILE.svg]

First `--jobs` preloaded jobs are drained by 1, 2 and 4 worker processes. Then jobs that do nothing are added at `--share` of the rate
of one process, in batches, for so many minutes, and one process runs them; they expire a minute after their end, so that adding,
claiming, acknowledging and purging all go on. Each minute prints a JSON line: jobs per second, pick-up (from the job's `due_at` to its
handler, p50 and p99, in milliseconds), what waits, the worker's memory, and on PostgreSQL dead rows and the size of the tables. At the
end the last half beside the first: flat is 1.0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from bench.jobs.speed import ADD_BATCH, Place, cut, place, quantile, say, server
from perdure import bootstrap
from perdure.cli.running import run_for_long
from perdure.core.context import Context
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.worker import Worker
from perdure.domain.ids import uuid7
from perdure.domain.job import Job
from perdure.domain.state import JobState
from perdure.ports.job_store import JobStore
from perdure.settings import Settings

KIND = "work"
KEPT = timedelta(minutes=1)
TICK = 0.05
TABLES = "SELECT sum(n_dead_tup)::bigint AS dead, sum(pg_total_relation_size(relid))::bigint AS size FROM pg_stat_user_tables"


async def work(url: str) -> None:
    """A worker process: begins when it is asked first, and at each later asking tells how it fares."""
    store = bootstrap.job_store(Settings(store=url))
    await store.setup()
    service, waits, ran = JobService(store), list[float](), 0
    await service.start()

    async def handle(ctx: Context, doc: str) -> None:
        nonlocal ran
        ran += 1
        waits.append((service.clock.now() - ctx.job.created_at).total_seconds())

    handlers = Handlers()
    handlers.register(KIND, handle)
    worker = Worker(service, handlers, concurrency=100)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print("ready", flush=True)
    await lines.readline()
    running = asyncio.create_task(worker.run())
    while await lines.readline():
        told = {"ran": ran, "p50": quantile(waits or [0.0], 0.5), "p99": quantile(waits or [0.0], 0.99)}
        print(json.dumps(told | {"rss": psutil.Process().memory_info().rss}), flush=True)
        waits.clear()
    worker.stop()
    await running
    await service.close()
    await store.close()


class Process:
    """A worker process that is ready to begin."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(cls, url: str) -> AsyncIterator[Process]:
        """Ended with the block."""
        command = (sys.executable, "-m", "bench.jobs.sustained", "--work", url)
        pipe = asyncio.subprocess.PIPE
        process = cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))
        try:
            assert await process._out.readline() == b"ready\n"
            yield process
        finally:
            process._in.close()
            await process._process.wait()

    def begin(self) -> None:
        self._in.write(b"\n")

    async def ask(self) -> dict[str, Any]:
        """How it has fared since it was asked last."""
        self._in.write(b"\n")
        answer: dict[str, Any] = json.loads(await self._out.readline())
        return answer


def make(number: int, now: datetime) -> list[Job]:
    return [
        Job(
            id=uuid7(now, random.getrandbits(62)),
            tenant=f"tenant-{n % 5}",
            kind=KIND,
            state=JobState.PENDING,
            due_at=now,
            created_at=now,
            updated_at=now,
            ttl=KEPT,
            payload={"doc": "x" * 420},
        )
        for n in range(number)
    ]


async def drain(where: Place, store: JobStore, number: int, workers: int) -> float:
    """Jobs per second of so many processes."""
    for some in cut(make(number, await store.now()), ADD_BATCH[where.store]):
        await store.add(some)
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(Process.started(where.url)) for _ in range(workers)]
        start = time.perf_counter()
        for process in processes:
            process.begin()
        while (await store.stats(None)).unfinished:
            await asyncio.sleep(0.005)
        return number / (time.perf_counter() - start)


async def produce(store: JobStore, rate: float, over: asyncio.Event) -> None:
    """Add jobs at this rate, some at a time; what a slow moment left behind is made up for."""
    start, made = time.perf_counter(), 0
    while not over.is_set():
        due = int((time.perf_counter() - start) * rate) - made
        if due > 0:
            for some in cut(make(due, await store.now()), 5000):
                await store.add(some)
            made += due
        await asyncio.sleep(TICK)


async def sustain(where: Place, store: JobStore, rate: float, minutes: float) -> list[dict[str, float]]:
    """A line for each minute."""
    over, lines = asyncio.Event(), list[dict[str, float]]()
    async with Process.started(where.url) as process:
        process.begin()
        producing = asyncio.create_task(produce(store, rate, over))
        before = 0
        for minute in range(1, int(minutes) + 1):
            begun = time.perf_counter()
            await asyncio.sleep(60)
            told, stats = await process.ask(), (await store.stats(None)).by_state
            lines.append(
                {
                    "minute": minute,
                    "jobs/s": round((told["ran"] - before) / (time.perf_counter() - begun)),
                    "p50_ms": round(1000 * told["p50"], 1),
                    "p99_ms": round(1000 * told["p99"], 1),
                    "waiting": stats[JobState.PENDING],
                    "kept": stats[JobState.COMPLETED],
                    "worker_mb": round(told["rss"] / 1e6, 1),
                    **await tables(where),
                }
            )
            before = told["ran"]
            print(json.dumps(lines[-1]), flush=True)
        over.set()
        await producing
    return lines


async def tables(where: Place) -> dict[str, float]:
    if where.store != "postgres":
        return {}
    connection = await asyncpg.connect(where.url)
    row = await connection.fetchrow(TABLES)
    await connection.close()
    return {"dead_rows": int(row["dead"]), "tables_mb": round(int(row["size"]) / 1e6, 1)} if row else {}


async def measure(arguments: argparse.Namespace, running: Any) -> None:
    async with place(arguments.store, running) as where:
        store = bootstrap.job_store(Settings(store=where.url))
        await store.setup()
        rates = {}
        for workers in map(int, arguments.workers.split(",")):
            rates[workers] = statistics.median(
                [await drain(where, store, arguments.jobs, workers) for _ in range(3)]
            )
            say("drain", "jobs/s", rates[workers], workers=workers, ratio=rates[workers] / rates[min(rates)])
        if arguments.minutes:
            rate = arguments.share * rates[min(rates)]
            say("sustained", "jobs/s wanted", rate, minutes=arguments.minutes)
            lines = await sustain(where, store, rate, arguments.minutes)
            half = len(lines) // 2
            for what in lines[0].keys() - {"minute", "waiting"} if half else ():
                first, last = (
                    statistics.mean(line[what] for line in part) for part in (lines[:half], lines[half:])
                )
                say(what, "second half / first half", last / max(first, 1e-9))
            if arguments.plot:
                Path(arguments.plot).write_text(
                    chart(lines, ("jobs/s", "p50_ms", "p99_ms", "dead_rows", "worker_mb"))
                )
        await store.close()


def chart(lines: list[dict[str, float]], shown: tuple[str, ...]) -> str:
    """One strip for each figure over the minutes, from zero to its greatest."""
    width, strip, left = 720, 80, 110
    parts = []
    for number, what in enumerate(what for what in shown if what in lines[0]):
        top, most = 10 + number * (strip + 14), max(1e-9, *(line[what] for line in lines))
        points = " ".join(
            f"{left + (width - left - 20) * n / max(1, len(lines) - 1):.1f},{top + strip * (1 - line[what] / most):.1f}"
            for n, line in enumerate(lines)
        )
        parts += [
            f'<line x1="{left}" y1="{top + strip}" x2="{width - 20}" y2="{top + strip}" stroke="#999"/>',
            f'<polyline points="{points}" fill="none" stroke="#1b6ca8" stroke-width="2"/>',
            f'<text x="{left - 8}" y="{top + 12}" text-anchor="end" font-size="12">{most:,.0f}</text>',
            f'<text x="{left - 8}" y="{top + strip - 20}" text-anchor="end" font-size="12">{what}</text>',
        ]
    height = 10 + (number + 1) * (strip + 14)
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif"'
    ground = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {box}>', ground, *parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", choices=ADD_BATCH, default="postgres")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--workers", default="1,2,4", help="so many processes, one after the other")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="always")
    parser.add_argument("--plot", help="write the minutes as an SVG")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        run_for_long(work(arguments.work))
        return
    with server(arguments) as running:
        run_for_long(measure(arguments, running))


if __name__ == "__main__":
    main()
