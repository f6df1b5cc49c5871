"""What becomes of the drain on PostgreSQL while a transaction is held open, so that no dead row may be removed.

    python -m bench.jobs.held [--minutes 10] [--every 20]

Two databases of one server have a worker process each, which runs jobs that do nothing as fast as it can: some thousand are always pending, and
finished ones expire a minute later, so that adding, claiming, acknowledging, folding of counts and purging all go on. The two take turns of
half of `--every` seconds. In one of them a transaction is held open after the first round (a report that somebody forgot: REPEATABLE READ,
idle). Prints a JSON line for each round: jobs per second of both, their ratio, and the dead rows of each table; in the end the median ratio of the
last minute.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from bench.jobs.speed import Place, say, server
from bench.jobs.speed import place as new_place
from bench.jobs.sustained import Process, make
from perdure import bootstrap
from perdure.cli.running import run_for_long
from perdure.ports.job_store import JobStore
from perdure.settings import Settings

BACKLOG = 20_000
BATCH = 5000
DEAD = "SELECT relname, n_dead_tup FROM pg_stat_user_tables WHERE relname LIKE 'perdure%'"


class Load:
    """A database with a worker process, kept busy a while at a time; and how fast it is."""

    def __init__(self, where: Place, store: JobStore, process: Process) -> None:
        self.where = where
        self._store, self._process = store, process
        self._made = self._ran = 0

    @classmethod
    async def opened(cls, running: Any, stack: AsyncExitStack) -> Load:
        where = await stack.enter_async_context(new_place("postgres", running))
        store = bootstrap.job_store(Settings(store=where.url))
        await store.setup()
        stack.push_async_callback(store.close)
        process = await stack.enter_async_context(Process.started(where.url))
        process.begin()
        return cls(where, store, process)

    async def run(self, seconds: float) -> float:
        """Jobs per second over this time, and until the last of them has run."""
        start, before = time.perf_counter(), self._ran
        while (spent := time.perf_counter() - start) < seconds or self._ran < self._made:
            self._ran = int((await self._process.ask())["ran"])
            if spent >= seconds:
                await asyncio.sleep(0.01)
            elif self._made - self._ran < BACKLOG:
                await self._store.add(make(BATCH, await self._store.now()))
                self._made += BATCH
        return (self._ran - before) / spent


async def dead_rows(where: Place) -> dict[str, int]:
    connection = await asyncpg.connect(where.url)
    rows = await connection.fetch(DEAD)
    await connection.close()
    return {row["relname"].removeprefix("perdure_"): row["n_dead_tup"] for row in rows if row["n_dead_tup"]}


async def measure(arguments: argparse.Namespace, running: Any) -> None:
    async with AsyncExitStack() as stack:
        held, free = await Load.opened(running, stack), await Load.opened(running, stack)
        ratios: list[float] = []
        for number in range(int(60 * arguments.minutes) // arguments.every + 1):
            rates = {}
            for name, load in (("held", held), ("free", free)):
                rates[name] = await load.run(arguments.every / 2)
            ratios.append(rates["held"] / rates["free"])
            name = "held" if number else "before"
            say(name, "ratio", ratios[-1], round=number, **rates, dead=await dead_rows(held.where))
            if number == 0:
                report = await asyncpg.connect(held.where.url)
                stack.push_async_callback(report.close)
                await report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                await report.fetch("SELECT count(*) FROM perdure_jobs")
        say(
            "held",
            "ratio, median of the last minute",
            statistics.median(ratios[-max(1, 60 // arguments.every) :]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", choices=("postgres",), default="postgres")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=int, default=20, help="seconds of a round")
    arguments = parser.parse_args()
    with server(arguments) as running:
        run_for_long(measure(arguments, running))


if __name__ == "__main__":
    main()
