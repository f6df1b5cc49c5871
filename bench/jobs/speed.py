"""How fast jobs go on a store, beside the bare driver on the same server, in alternation, and beside other job systems.

    python -m bench.jobs.speed [--store postgres] [--jobs 10000] [--rounds 3] [--finished 0] [--peers] [--payload 420]

Prints one JSON line for each measurement; `ratio` is ours over the ceiling of the same round, `median` of all rounds.

* `add many`: jobs per second, in calls of 10,000 (Redis: 1,000).
* `drain`: jobs per second of one worker process that runs jobs which do nothing, from its start until the last is
  completed in the store; with its processor time for each job, ours and the server's. The ceiling claims `LIMIT` jobs,
  awaits a coroutine for each and completes them, on one connection.
* `store alone`: the same without a worker: claimed and completed by 500.
* `add one`: jobs per second, one by one.
* `pick-up`: milliseconds from `add` by way of a hint to the running handler of an idle worker.
* `page`, `stats`: milliseconds of a page of 50 (of a rare state too) and of a tenant's counts.
* `memory`: what the server holds for a job (Redis and Valkey).

`--finished N` first fills the store with so many finished jobs: nothing may become slower by it. `--peers` runs the peer
for this store in every round, in an environment of its own that is made at first use (see peers.py).

The servers have their own defaults but for memory (PostgreSQL: fsync on, shared_buffers 512 MB, max_wal_size 4 GB);
Redis and Valkey write each change to their file before they answer, or not at all with `--fsync no`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from msgspec.structs import replace
from redis.asyncio import Redis

from bench.jobs.ceilings import OPEN, Ceiling
from perdure import bootstrap
from perdure.cli.running import run_for_long
from perdure.core.context import Context
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.worker import Worker
from perdure.domain.ids import uuid7
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.domain.transition import Stamp, complete
from perdure.ports.job_store import JobStore
from perdure.settings import Settings
from tests.servers.postgres import fresh_database, postgres_server
from tests.servers.redis import redis_server

LEASE = timedelta(minutes=5)
SINGLES = 500
PICK_UPS = 200
ADD_BATCH = {"postgres": 10_000, "sqlite": 10_000, "redis": 1000, "valkey": 1000}
PEERS = {"postgres": "pgqueuer", "redis": "dramatiq", "valkey": "dramatiq", "sqlite": "persist-queue"}
ENVIRONMENT = Path("build", "peers")


class Place:
    """Where a store lives: its URL, where its ceiling and its peer may live, and the server's process."""

    def __init__(self, store: str, url: str, ceiling: Any, peer: str, pid: int | None) -> None:
        self.store, self.url, self.ceiling, self.peer = store, url, ceiling, peer
        self._server = None if pid is None else psutil.Process(pid)

    def server_seconds(self) -> float:
        """Processor time that the server and its children have used."""
        if self._server is None:
            return 0.0
        own = self._server.cpu_times()
        spent = own.user + own.system + own.children_user + own.children_system
        for child in self._server.children():
            times = child.cpu_times()
            spent += times.user + times.system
        return float(spent)


@contextmanager
def server(arguments: argparse.Namespace) -> Iterator[Any]:
    """The server of the store, if it has one."""
    if arguments.store == "postgres":
        with postgres_server(shared_buffers="512MB", max_wal_size="4GB") as postgres:
            yield postgres
    elif arguments.store == "sqlite":
        yield None
    else:
        durable = {"appendonly": "no"} if arguments.fsync == "no" else {"appendfsync": arguments.fsync}
        with redis_server(arguments.store, **durable) as redis:
            yield redis


@asynccontextmanager
async def place(store: str, running: Any) -> AsyncIterator[Place]:
    """A fresh database, or folder, on the server."""
    if store == "postgres":
        async with fresh_database(running.url) as url, fresh_database(running.url) as peer:
            yield Place(store, url, url, peer, running.pid)
    elif store == "sqlite":
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            yield Place(store, f"sqlite:///{folder}/perdure.db", folder / "raw.db", f"{folder}/peer", None)
    else:
        yield Place(store, f"{running.url}/0", f"{running.url}/1", f"{running.url}/2", running.pid)


def say(what: str, unit: str, value: float, **more: Any) -> None:
    rounded = {
        name: round(figure, 3) if isinstance(figure, float) else figure for name, figure in more.items()
    }
    print(json.dumps({"what": what, "unit": unit, "value": round(value, 3), **rounded}), flush=True)


async def seconds(work: Callable[[], Awaitable[Any]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


def cut(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


class Bench:
    def __init__(
        self, place: Place, store: JobStore, ceiling: Ceiling, arguments: argparse.Namespace
    ) -> None:
        self.place, self.store, self.ceiling = place, store, ceiling
        self.number: int = arguments.jobs
        self.concurrency: int = arguments.concurrency
        self.payload = {"doc": "x" * arguments.payload}
        self.ratios: dict[str, list[float]] = {}

    def beside(self, what: str, ours: float, other: float, name: str, **more: float) -> None:
        say(what, "jobs/s", ours, **{name: other, "ratio": ours / other, **more})
        self.ratios.setdefault(f"{what} / {name}", []).append(ours / other)

    def make_jobs(self, number: int) -> list[Job]:
        now = datetime.now(UTC)
        return [
            Job(
                id=uuid7(now + timedelta(microseconds=n), random.getrandbits(74)),
                tenant="default",
                kind="work",
                state=JobState.PENDING,
                due_at=now,
                created_at=now,
                updated_at=now,
                max_attempts=3,
                payload=self.payload,
            )
            for n in range(number)
        ]

    async def fill(self, number: int) -> None:
        """Finished jobs of long ago that never expire."""
        old = datetime.now(UTC) - timedelta(days=1)
        for done in range(0, number, 10_000):
            ended = [
                replace(job, state=JobState.COMPLETED, due_at=None, completed_at=old)
                for job in self.make_jobs(min(10_000, number - done))
            ]
            for some in cut(ended, ADD_BATCH[self.place.store]):
                await self.store.add(some)

    # --- adding -----------------------------------------------------------------------------

    async def add_many(self) -> float:
        ours = raw = 0.0
        text = json.dumps(self.payload)
        for some in cut(self.make_jobs(self.number), ADD_BATCH[self.place.store]):
            ours += await seconds(lambda some=some: self.store.add(some))  # type: ignore[misc]  # bound now
            payloads = [text] * len(some)
            raw += await seconds(lambda payloads=payloads: self.ceiling.add(payloads))  # type: ignore[misc]
        self.beside("add many", self.number / ours, self.number / raw, "ceiling")
        return self.number / ours

    async def add_one(self) -> float:
        ours = raw = 0.0
        payloads = [json.dumps(self.payload)]
        for job in self.make_jobs(SINGLES):
            ours += await seconds(lambda job=job: self.store.add([job]))  # type: ignore[misc]  # bound now
            raw += await seconds(lambda: self.ceiling.add(payloads))
        self.beside("add one", SINGLES / ours, SINGLES / raw, "ceiling")
        return SINGLES / ours

    # --- draining ---------------------------------------------------------------------------

    async def drain(self) -> float:
        rate, cost = await self.drain_alone()
        raw = await seconds(self.ceiling.drain)
        self.beside("drain", rate, self.number / raw, "ceiling", **cost)
        return rate

    async def drain_alone(self) -> tuple[float, dict[str, float]]:
        """Jobs per second, and what each costs."""
        service, target = JobService(self.store), await self.completed() + self.number
        await service.start()
        left, done = self.number, asyncio.Event()

        async def work(_ctx: Context, doc: str) -> dict[str, int]:
            nonlocal left
            left -= 1
            if left == 0:
                done.set()
            return {"characters": len(doc)}

        handlers = Handlers()
        handlers.register("work", work)
        worker = Worker(service, handlers, concurrency=self.concurrency)
        own, server, start = time.process_time(), self.place.server_seconds(), time.perf_counter()
        running = asyncio.create_task(worker.run())
        await done.wait()
        while await self.completed() < target:
            await asyncio.sleep(0.001)
        spent = time.perf_counter() - start
        cost = {
            "our_us": 1e6 * (time.process_time() - own) / self.number,
            "server_us": 1e6 * (self.place.server_seconds() - server) / self.number,
        }
        worker.stop()
        await running
        await service.close()
        return self.number / spent, cost

    async def completed(self) -> int:
        return (await self.store.stats("default")).by_state.get(JobState.COMPLETED, 0)

    async def store_alone(self) -> None:
        """Claim and complete, without the time in which the benchmark itself decides."""
        for some in cut(self.make_jobs(self.number), ADD_BATCH[self.place.store]):
            await self.store.add(some)
        spent = {"claim": 0.0, "apply": 0.0}
        total = 0
        while True:
            start = time.perf_counter()
            jobs = await self.store.claim("bench", ["work"], 500, LEASE)
            spent["claim"] += time.perf_counter() - start
            if not jobs:
                break
            at = datetime.now(UTC)
            stamps = [Stamp(at=at, actor="bench", entry_id=uuid7(at, random.getrandbits(74))) for _ in jobs]
            moves = [complete(job, {"chunks": 7}, stamp) for job, stamp in zip(jobs, stamps, strict=True)]
            start = time.perf_counter()
            stands = await self.store.apply(moves)
            spent["apply"] += time.perf_counter() - start
            assert all(stands)
            total += len(jobs)
        await self.ceiling.drain()
        await self.ceiling.add([json.dumps(self.payload)] * total)
        raw = total / await seconds(self.ceiling.drain)
        each = {f"{name}_us": 1e6 * of / total for name, of in spent.items()}
        self.beside("store alone", total / sum(spent.values()), raw, "ceiling", **each)

    # --- looking ----------------------------------------------------------------------------

    async def pick_up(self) -> None:
        """Each in its turn, so that both see the same machine."""
        service, begun = JobService(self.store), asyncio.Event()
        await service.start()

        async def work(_ctx: Context, doc: str) -> None:
            begun.set()

        handlers = Handlers()
        handlers.register("work", work)
        worker = Worker(service, handlers, concurrency=self.concurrency)
        running = asyncio.create_task(worker.run())
        ours, raw = [], []
        for _ in range(PICK_UPS):
            await asyncio.sleep(random.uniform(0.04, 0.06))
            begun.clear()
            start = time.perf_counter()
            await self.store.add(self.make_jobs(1))
            await begun.wait()
            ours.append(time.perf_counter() - start)
            await asyncio.sleep(0.05)
            if (spent := await self.ceiling.pick_up(json.dumps(self.payload))) is not None:
                raw.append(spent)
        worker.stop()
        await running
        await service.close()
        for name, part in (("p50", 0.5), ("p95", 0.95)):
            value = 1000 * quantile(ours, part)
            ceiling = 1000 * quantile(raw, part) if raw else None
            beside = {} if ceiling is None else {"ceiling": ceiling, "ratio": value / ceiling}
            say(f"pick-up {name}", "ms", value, **beside)

    async def reads(self) -> None:
        pages = {
            "page": JobFilter(tenant="default"),
            "page of failed": JobFilter(tenant="default", states=(JobState.FAILED,)),
        }
        works: dict[str, Callable[[], Awaitable[object]]] = {
            name: lambda query=query: self.store.find(query, 50)  # type: ignore[misc]  # bound now
            for name, query in pages.items()
        }
        for name, work in {**works, "stats": lambda: self.store.stats("default")}.items():
            times = [1000 * await seconds(work) for _ in range(200)]
            say(name, "ms", quantile(times, 0.5), p99=quantile(times, 0.99))

    async def keeps(self) -> None:
        """Memory of Redis for each job, with its index entries and history."""
        if self.place.store not in {"redis", "valkey"}:
            return
        async with Redis.from_url(self.place.url) as client:

            async def used() -> int:
                info: Any = await client.info("memory")
                return int(info["used_memory"])

            empty = await used()
            for some in cut(self.make_jobs(self.number), 1000):
                await self.store.add(some)
            say("memory", "bytes for a pending job", (await used() - empty) / self.number)
            before = await self.completed()
            await self.store_alone()
            done = await self.completed() - before
            say("memory", "bytes for a completed job", (await used() - empty) / done)

    async def beside_peer(self, ours: dict[str, float]) -> None:
        peer = PEERS[self.place.store]
        figures = await asyncio.to_thread(run_peer, peer, self.place.peer, self.number)
        for what, value in figures.items():
            if what in ours:
                self.beside(what, ours[what], value, peer)


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))]


def run_peer(peer: str, url: str, number: int) -> dict[str, float]:
    """The peer's figures, by an interpreter that has it."""
    python = ENVIRONMENT / "bin" / "python"
    listed = Path(__file__).with_name("peers.txt")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", listed], check=True)
    command: list[str | Path] = [
        python,
        Path(__file__).with_name("peers.py"),
        peer,
        url,
        "--jobs",
        str(number),
    ]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"{peer} failed:\n{answer.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return {name: value for name, value in figures.items() if isinstance(value, float)}


async def measure(arguments: argparse.Namespace, running: Any) -> None:
    async with AsyncExitStack() as stack:
        where = await stack.enter_async_context(place(arguments.store, running))
        store = bootstrap.job_store(Settings(store=where.url))
        await store.setup()
        stack.push_async_callback(store.close)
        ceiling: Ceiling = await OPEN[arguments.store](where.ceiling)
        stack.push_async_callback(ceiling.close)
        bench = Bench(where, store, ceiling, arguments)
        await bench.fill(arguments.finished)
        for _ in range(arguments.rounds):
            ours = {"add many": await bench.add_many(), "drain": await bench.drain()}
            ours["add one"] = await bench.add_one()
            await bench.store_alone()
            if arguments.peers:
                await bench.beside_peer(ours)
        await bench.pick_up()
        await bench.reads()
        await bench.keeps()
        for what, ratios in bench.ratios.items():
            say(what, "ratio, median", statistics.median(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", choices=OPEN, default="postgres")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--finished", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--payload", type=int, default=420, help="characters in each job's payload")
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="always")
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    with server(arguments) as running:
        run_for_long(measure(arguments, running))


if __name__ == "__main__":
    main()
