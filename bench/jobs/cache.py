"""How old answers from the cache get, and what they cost: two replicas on one store, one writes and the other reads.

    python -m bench.jobs.cache [--reads 10000] [--store sqlite|postgres]

Prints one JSON line for each store:

* `oldest`, `p99`: seconds by which an answer was behind what the other replica had written (its `write` had returned) when
  the reader asked; `promised` is what no answer may exceed.
* `hot get`: microseconds for a `get` from memory, beside the same job read from the store by the same loop, in alternation.

Exits with 1 if a promise is broken. The writer is a process of its own; times are those of the one monotonic clock of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvloop

from perdure import bootstrap
from perdure.core.cache import CachedJobStore
from perdure.core.jobs import JobService
from perdure.domain.job import NewJob
from perdure.ports.job_store import JobStore
from perdure.settings import Settings
from tests.servers.postgres import fresh_database, postgres_server

STALENESS = 1.0
JOBS = 20
HOT_US, RATIO = 20.0, 20.0
"""What a hot `get` may cost, and how many times less than the store's it must."""


async def opened(url: str) -> CachedJobStore:
    store = bootstrap.job_store(Settings(store=url, cache_megabytes=64, cache_staleness_seconds=STALENESS))
    await store.setup()
    assert isinstance(store, CachedJobStore)
    return store


async def write(url: str, ids: list[str]) -> None:
    """The other replica: each job's priority counts its writes; tell when each write had returned."""
    service = JobService(await opened(url))
    await service.start()
    written = dict.fromkeys(ids, 0)
    while True:
        job_id = random.choice(ids)
        written[job_id] = written[job_id] % 1000 + 1
        await service.edit(job_id, tenant="default", priority=written[job_id])
        print(json.dumps([job_id, written[job_id], time.monotonic()]), flush=True)
        await asyncio.sleep(random.uniform(0, 0.05))


async def ages(cache: CachedJobStore, url: str, ids: list[str], reads: int) -> list[float]:
    """For each answer how long the write that it does not know yet had returned when it was asked for."""
    answers: list[tuple[float, str, int]] = []
    command = [sys.executable, "-m", "bench.jobs.cache", "--write", url, *ids]
    writer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    log = [json.loads(await writer.stdout.readline())]
    telling = asyncio.create_task(_collect(writer.stdout, log))
    for number in range(reads):
        job_id, asked = random.choice(ids), time.monotonic()
        job = await cache.get("default", job_id)
        assert job is not None
        answers.append((asked, job_id, job.priority))
        if number % 2:
            await asyncio.sleep(random.uniform(0, 0.004))
    writer.kill()
    await telling
    writes: dict[str, list[tuple[int, float]]] = {job_id: [] for job_id in ids}
    for job_id, priority, at in log:
        writes[job_id].append((priority, at))
    return [_behind(writes[job_id], priority, asked) for asked, job_id, priority in answers]


async def _collect(lines: asyncio.StreamReader, log: list[Any]) -> None:
    while (line := await lines.readline()).endswith(b"\n"):
        log.append(json.loads(line))


def _behind(writes: list[tuple[int, float]], priority: int, asked: float) -> float:
    known = next((n for n, (told, _) in enumerate(writes) if told == priority), -1)
    if known + 1 >= len(writes):
        return 0.0
    return max(0.0, asked - writes[known + 1][1])


async def cost(store: JobStore, job_id: str, number: int) -> float:
    """Microseconds for a `get`."""
    begun = time.perf_counter()
    for _ in range(number):
        await store.get("default", job_id)
    return 1e6 * (time.perf_counter() - begun) / number


async def measure(name: str, url: str, reads: int) -> bool:
    cache = await opened(url)
    service = JobService(cache)
    await service.start()
    new = [NewJob(kind="work", payload={"path": "x" * 200}, ttl=timedelta(hours=1)) for _ in range(JOBS)]
    ids = [job.id for job in await service.add_many(new)]
    behind = sorted(await ages(cache, url, ids, reads))
    stats = cache.cache_stats
    rounds = [(await cost(cache, ids[0], 2000), await cost(cache._store, ids[0], 500)) for _ in range(7)]
    hot, cold = sorted(rounds)[len(rounds) // 2]
    told = {
        "store": name,
        "reads": reads,
        "oldest": round(behind[-1], 4),
        "p99": round(behind[int(len(behind) * 0.99)], 4),
        "promised": STALENESS,
        "hit ratio": round(stats.hit_ratio, 3),
        "hot get us": round(hot, 1),
        "store get us": round(cold, 1),
        "times less": round(cold / hot, 1),
    }
    print(json.dumps(told), flush=True)
    await cache.close()
    return behind[-1] <= STALENESS and hot < HOT_US and cold / hot >= RATIO


async def run(stores: list[str], reads: int) -> bool:
    kept = True
    async with AsyncExitStack() as stack:
        if "sqlite" in stores:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            kept &= await measure("sqlite", f"sqlite:///{Path(folder) / 'perdure.db'}", reads)
        if "postgres" in stores:
            server = stack.enter_context(postgres_server())
            url = await stack.enter_async_context(fresh_database(server.url))
            kept &= await measure("postgres", url, reads)
            kept &= await measure("postgres without hints", f"{url}?hints=off", reads)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--store", choices=["sqlite", "postgres"], action="append")
    parser.add_argument("--write", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        uvloop.run(write(arguments.write[0], arguments.write[1:]))
        return 0
    return 0 if uvloop.run(run(arguments.store or ["sqlite", "postgres"], arguments.reads)) else 1


if __name__ == "__main__":
    sys.exit(main())
