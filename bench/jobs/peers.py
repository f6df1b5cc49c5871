"""Other job systems at the same work; run by an interpreter that has them (`speed.py` makes it from peers.txt).

    python bench/jobs/peers.py pgqueuer|dramatiq|persist-queue URL [--jobs 10000]

Prints one line of JSON: jobs per second for adding many, adding one by one, and for one process that drains `--jobs`
jobs that do nothing, until nothing is left in the peer's own store.

The settings are the best that we found for each: PgQueuer asyncpg pool, batch 500, uvloop; dramatiq 32 threads,
asynchronous actor; persist-queue SQLiteAckQueue, WAL, synchronous=FULL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from typing import Any

SINGLES = 500
BULK = 1000


class Count:
    """Runs of a handler."""

    def __init__(self) -> None:
        self.done, self.first = 0, 0.0

    def up(self) -> None:
        if self.done == 0:
            self.first = time.perf_counter()
        self.done += 1


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


async def pgqueuer(url: str, jobs: int) -> dict[str, float]:
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgPoolDriver
    from pgqueuer.queries import Queries

    pool = await asyncpg.create_pool(url, min_size=4, max_size=20)
    queries = Queries(AsyncpgPoolDriver(pool))
    await pool.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await queries.install()
    count = Count()

    async def many() -> None:
        for start in range(0, jobs, BULK):
            size = min(BULK, jobs - start)
            await queries.enqueue(["noop"] * size, [b"1"] * size, [0] * size)

    async def one_by_one() -> None:
        for _ in range(SINGLES):
            await queries.enqueue("noop", b"1")

    figures = {"add one": SINGLES / await timed(one_by_one)}
    await pool.execute("DELETE FROM pgqueuer")
    figures["add many"] = jobs / await timed(many)
    worker = PgQueuer(AsyncpgPoolDriver(pool))

    async def noop(_job: object) -> None:
        count.up()

    worker.entrypoint("noop")(noop)

    running = asyncio.create_task(worker.run(batch_size=500))
    while count.done < jobs or await pool.fetchval("SELECT count(*) FROM pgqueuer"):
        await asyncio.sleep(0.01)
    figures["drain"] = jobs / (time.perf_counter() - count.first)
    worker.shutdown.set()
    await asyncio.wait({running}, timeout=10)
    return figures


async def dramatiq(url: str, jobs: int) -> dict[str, float]:
    import dramatiq as peer
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.middleware.asyncio import AsyncIO

    broker = RedisBroker(url=url)
    broker.add_middleware(AsyncIO())
    peer.set_broker(broker)
    count = Count()

    async def noop(_number: int) -> None:
        count.up()

    actor = peer.actor(noop, actor_name="noop")

    async def fill() -> None:
        for number in range(jobs):
            actor.send(number)

    figures = {"add one": jobs / await timed(fill)}
    worker = peer.Worker(broker, worker_threads=32)
    broker.emit_after("process_boot")
    worker.start()
    await asyncio.to_thread(broker.join, "default")
    figures["drain"] = jobs / (time.perf_counter() - count.first)
    worker.stop()
    return figures


async def persist_queue(path: str, jobs: int) -> dict[str, float]:
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(path, multithreading=True)
    count = Count()

    async def fill() -> None:
        for number in range(jobs):
            queue.put(number)

    figures = {"add one": jobs / await timed(fill)}
    while count.done < jobs:
        item = queue.get(block=False)
        count.up()
        queue.ack(item)
    figures["drain"] = jobs / (time.perf_counter() - count.first)
    return figures


PEERS: dict[str, Callable[[str, int], Coroutine[Any, Any, dict[str, float]]]] = {
    "pgqueuer": pgqueuer,
    "dramatiq": dramatiq,
    "persist-queue": persist_queue,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("url")
    parser.add_argument("--jobs", type=int, default=10_000)
    arguments = parser.parse_args()
    import uvloop

    figures = uvloop.run(PEERS[arguments.peer](arguments.url, arguments.jobs))
    print(json.dumps({"peer": arguments.peer, "version": version(arguments.peer), **figures}))


if __name__ == "__main__":
    main()
