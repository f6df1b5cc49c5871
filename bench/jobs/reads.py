"""Whether reads, and the drain, cost the same at any number of jobs.

    python -m bench.jobs.reads [--store postgres] [--small 1000] [--large 1000000] [--reads 300] [--drain 10000]

Prints one JSON line for each read of one tenant: its p50 and p99 in milliseconds at the small and at the large number of jobs, and
`ratio` and `ratio_p99`, large over small. Reads: the counts of the tenant, a page of 50 of its list by each filter of the API, and
one far from the newest. Of the jobs one in ten is pending for later, 200 of the oldest have failed, all others are completed. A user has 100 jobs
of the oldest 1,000 and 1/1,000 of the others, a document 1/10,000 of them, so that each page of 50 is full in both.

Then the drain: jobs per second of one worker, with the finished jobs in the store and on an empty store of the same server, in
alternation, median of 3, and the ratio of the two.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from bench.jobs.ceilings import OPEN
from bench.jobs.speed import ADD_BATCH, Bench, cut, place, quantile, say, seconds, server
from perdure import bootstrap
from perdure.cli.running import run_for_long
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.settings import Settings

TENANT = "default"
ROUNDS = 3
EARLY = 1000


def filled(job: Job, number: int, old: datetime) -> Job:
    """The job as one of many: mostly finished long ago. All that failed is old, so that a page of it lies far down."""
    early = number < EARLY
    of = {
        "kind": "work" if number % 10 else "rare",
        "user_id": f"user-{number % (10 if early else 1000)}",
        "document_id": f"document-{number % (10 if early else 10_000)}",
    }
    if number % 10 == 9:
        return replace(job, due_at=old + timedelta(days=1000), **of)
    state = JobState.FAILED if early and number % 10 < 2 else JobState.COMPLETED
    return replace(job, state=state, due_at=None, completed_at=old, **of)


async def fill(bench: Bench, first: int, last: int) -> None:
    old = datetime.now(UTC) - timedelta(days=1)
    for begin in range(first, last, 10_000):
        numbers = range(begin, min(begin + 10_000, last))
        jobs = [filled(job, n, old) for n, job in zip(numbers, bench.make_jobs(len(numbers)), strict=True)]
        for some in cut(jobs, ADD_BATCH[bench.place.store]):
            await bench.store.add(some)


def filters(jobs: list[Job]) -> dict[str, tuple[JobFilter, str | None]]:
    """Name → filter, and the id to go on after."""
    middle = jobs[len(jobs) // 2]
    only: dict[str, dict[str, Any]] = {
        "page": {},
        "page of completed": {"states": (JobState.COMPLETED,)},
        "page of failed": {"states": (JobState.FAILED,)},
        "page of running": {"states": (JobState.RUNNING,)},
        "page of a kind": {"kinds": ("work",)},
        "page of a rare kind and state": {"kinds": ("rare",), "states": (JobState.FAILED,)},
        "page of a user": {"user_id": "user-7"},
        "page of a user's failed": {"user_id": "user-1", "states": (JobState.FAILED,)},
        "page of a document": {"document_id": "document-7"},
        "page of a time": {"created_from": middle.created_at - timedelta(hours=1)},
    }
    queries = {name: (JobFilter(tenant=TENANT, **of), None) for name, of in only.items()}
    return {**queries, "page far down": (JobFilter(tenant=TENANT), middle.id)}


async def measure_reads(bench: Bench, number: int) -> dict[str, list[float]]:
    """Name → sorted milliseconds."""
    store = bench.store
    newest = await store.find(JobFilter(tenant=TENANT), 1000)
    works: dict[str, Callable[[], Awaitable[object]]] = {"stats": lambda: store.stats(TENANT)}
    for name, (query, after) in filters(newest).items():
        works[name] = lambda query=query, after=after: store.find(query, 50, after)  # type: ignore[misc]  # bound now
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(number):
        for name, work in works.items():
            times[name].append(1000 * await seconds(work))
    return times


async def measure(arguments: argparse.Namespace, running: Any) -> None:
    async with AsyncExitStack() as stack:

        async def opened() -> Bench:
            where = await stack.enter_async_context(place(arguments.store, running))
            store = bootstrap.job_store(Settings(store=where.url))
            await store.setup()
            stack.push_async_callback(store.close)
            ceiling = await OPEN[arguments.store](where.ceiling)
            stack.push_async_callback(ceiling.close)
            return Bench(where, store, ceiling, arguments)

        full, empty = await opened(), await opened()
        await fill(full, 0, arguments.small)
        small = await measure_reads(full, arguments.reads)
        await fill(full, arguments.small, arguments.large)
        large = await measure_reads(full, arguments.reads)
        for name in small:
            figures = {}
            for part, share in (("p50", 0.5), ("p99", 0.99)):
                figures[part] = quantile(large[name], share)
                figures[f"{part}_small"] = quantile(small[name], share)
            ratio = figures["p50"] / figures["p50_small"]
            say(name, "ms, ratio", ratio, **figures, ratio_p99=figures["p99"] / figures["p99_small"])
        rates: dict[str, list[float]] = {"full": [], "empty": []}
        for _ in range(ROUNDS if arguments.jobs else 0):
            order = [("full", full), ("empty", empty)]
            random.shuffle(order)
            for name, bench in order:
                for some in cut(bench.make_jobs(bench.number), ADD_BATCH[arguments.store]):
                    await bench.store.add(some)
                rates[name].append((await bench.drain_alone())[0])
        if arguments.jobs:
            beside, alone = statistics.median(rates["full"]), statistics.median(rates["empty"])
            say("drain", "jobs/s, full over empty", beside / alone, full=beside, empty=alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", choices=OPEN, default="postgres")
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--reads", type=int, default=300)
    parser.add_argument("--drain", type=int, default=10_000, dest="jobs", help="jobs; 0: leave it out")
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--payload", type=int, default=420, help="characters in each job's payload")
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="always")
    arguments = parser.parse_args()
    with server(arguments) as running:
        run_for_long(measure(arguments, running))


if __name__ == "__main__":
    main()
