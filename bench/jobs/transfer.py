"""Copy a store through stores of other brands and back while workers run, and prove that nothing is lost or run twice.

    python -m bench.jobs.transfer [--jobs 100000] [--few 300] [--kills 2]

SQLite → PostgreSQL → Valkey → SQLite with all jobs; SQLite → MongoDB → SQLite and SQLite → Cosmos DB → SQLite with few, as
their test servers are slow. In each step a worker runs on the source; `perdure store copy` is a process of its own, killed so many times and begun again.
Prints a JSON line for each step and one for each ring.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from perdure import bootstrap
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.worker import Worker
from perdure.domain.job import NewJob
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.settings import Settings
from perdure.transfer import check_jobs
from tests.servers import mongodb, postgres, redis
from tests.servers.cosmos_peer import cosmos_peer

TENANTS = ("one", "two", "three")
VALUES = 120


@dataclass
class Step:
    """What one copy showed."""

    source: str
    target: str
    seconds: float
    kills: int
    ran_meanwhile: int
    equal: bool
    checksums: dict[str, str]


class Ring:
    """Stores in a row, through which jobs are copied.

    Args:
        pace: seconds that a job takes a worker.
    """

    def __init__(
        self, urls: Sequence[str], jobs: int, *, kills: int, pace: float, chance: random.Random
    ) -> None:
        self.urls, self.jobs, self.kills, self.pace, self.chance = urls, jobs, kills, pace, chance
        self.ran: Counter[int] = Counter()
        self.steps: list[Step] = []
        self.wrong: list[str] = []

    async def run(self) -> None:
        async with opened(self.urls[0]) as source:
            for start in range(0, self.jobs, 1000):
                numbers = range(start, min(start + 1000, self.jobs))
                await source.add_many(
                    [
                        NewJob(kind="work", tenant=TENANTS[n % 3], payload={"number": n}, ttl=None)
                        for n in numbers
                    ]
                )
            for n in range(VALUES):
                await source.store.values.write("kept", f"key {n:03}", {"n": n}, expect=0)
        for source_url, target_url in zip(self.urls, self.urls[1:], strict=False):
            await self._step(source_url, target_url)
        async with opened(self.urls[-1]) as last:
            await self._drain(last)
            await self._judge(last)

    async def _step(self, source_url: str, target_url: str) -> None:
        begun, before = time.monotonic(), self.ran.total()
        async with opened(source_url) as source:
            worker = self._worker(source)
            running = asyncio.create_task(worker.run())
            await asyncio.sleep(0.3)  # something has ended, something runs, most waits
            kills = 0
            for _ in range(self.kills):
                kills += (
                    await self._copy(source_url, target_url, kill_after=self.chance.uniform(0.4, 2.0)) is None
                )
            report = await self._copy(source_url, target_url)
            worker.stop()
            await running
        assert report is not None
        self.steps.append(
            Step(
                source=urlsplit(source_url).scheme,
                target=urlsplit(target_url).scheme,
                seconds=round(time.monotonic() - begun, 2),
                kills=kills,
                ran_meanwhile=self.ran.total() - before,
                equal=report["equal"],
                checksums={tenant: one["checksum"] for tenant, one in report["tenants"].items()},
            )
        )
        if not report["equal"]:
            self.wrong.append(f"{self.steps[-1]}: {report['tenants']}")
        print(json.dumps(asdict(self.steps[-1])), flush=True)

    async def _copy(self, source: str, target: str, kill_after: float | None = None) -> dict[str, Any] | None:
        """What the copy reported; None: it was killed before it had ended."""
        command = (sys.executable, "-m", "perdure", "store", "copy", source, target, "--json")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        if kill_after is not None:
            try:
                await asyncio.wait_for(process.wait(), kill_after)
            except TimeoutError:
                process.kill()
                await process.communicate()
                return None
        told, _ = await process.communicate()
        report: dict[str, Any] = json.loads(told)
        return report

    def _worker(self, jobs: JobService) -> Worker:
        handlers = Handlers()

        async def work(_ctx: Any, number: int) -> dict[str, Any]:
            await asyncio.sleep(self.pace)
            self.ran[number] += 1
            return {"number": number}

        handlers.register("work", work)
        return Worker(jobs, handlers, concurrency=8)

    async def _drain(self, jobs: JobService) -> None:
        self.pace = 0.0
        worker = self._worker(jobs)
        running = asyncio.create_task(worker.run())
        while (await jobs.stats(None)).unfinished:
            await asyncio.sleep(0.1)
        worker.stop()
        await running

    async def _judge(self, last: JobService) -> None:
        twice = [number for number, times in self.ran.items() if times > 1]
        if twice or len(self.ran) != self.jobs:
            self.wrong.append(f"{len(self.ran)} of {self.jobs} jobs ran, {len(twice)} more than once")
        states = (await last.stats(None)).by_state
        if states[JobState.COMPLETED] != self.jobs or sum(states.values()) != self.jobs:
            self.wrong.append(f"the last store has {states}")
        if (counted := await last.count(JobFilter(tenant=None))) != self.jobs:
            self.wrong.append(f"the last store lists {counted} jobs")
        values = await last.store.values.scan("kept", VALUES + 1)
        if [value.value for value in values] != [{"n": n} for n in range(VALUES)]:
            self.wrong.append(f"the last store has {len(values)} of {VALUES} small values as they were")
        self.wrong += [repr(finding) async for finding in check_jobs(self.urls[-1])]


class opened:  # noqa: N801  # reads as the context manager it is
    """The job service on a URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> JobService:
        store = bootstrap.job_store(Settings.from_environ({}, store=self._url, cache_megabytes=0))
        self._stack.push_async_callback(store.close)
        await store.setup()
        jobs = JobService(store, poll=timedelta(seconds=0.1))
        self._stack.push_async_callback(jobs.close)
        await jobs.start()
        return jobs

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def postgres_at(stack: AsyncExitStack) -> str:
    """The server that the environment names, or one of our own."""
    given = os.environ.get("PERDURE_TEST_POSTGRES_URL")
    return given or stack.enter_context(postgres.postgres_server()).url


async def rings(folder: Path, jobs: int, few: int, kills: int, pace: float, seed: int) -> list[Ring]:
    """Run through all; `few` jobs where the tests' server is slow."""
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(postgres.fresh_database(postgres_at(stack)))
        valkey = redis.fresh(stack.enter_context(redis.redis_url()))
        mongo = stack.enter_context(mongodb.mongodb_url())
        name = await stack.enter_async_context(mongodb.fresh_database(mongo))
        cosmos = stack.enter_context(cosmos_peer()).url.rstrip("/") + "/copied"
        sqlite = (f"sqlite:///{folder}/{number}.db" for number in count(1))
        ways = [
            ([next(sqlite), database, valkey, next(sqlite)], jobs, pace),
            (
                [next(sqlite), urlunsplit(urlsplit(mongo)._replace(path=f"/{name}")), next(sqlite)],
                few,
                50 * pace,
            ),
            ([next(sqlite), cosmos, next(sqlite)], few, 50 * pace),
        ]
        made = [Ring(urls, number, kills=kills, pace=each, chance=chance) for urls, number, each in ways]
        for ring in made:
            await ring.run()
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=300, help="jobs for MongoDB and Cosmos DB")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--pace", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perdure-transfer-") as folder:
        made = asyncio.run(rings(Path(folder), asked.jobs, asked.few, asked.kills, asked.pace, asked.seed))
    for ring in made:
        print(
            json.dumps(
                {"jobs": ring.jobs, "steps": len(ring.steps), "ran_once": len(ring.ran), "wrong": ring.wrong}
            )
        )
    return int(any(ring.wrong for ring in made))


if __name__ == "__main__":
    sys.exit(main())
