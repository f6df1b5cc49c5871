"""Trouble a store under load again and again, and prove that nothing acknowledged is lost or counted twice.

    python -m bench.jobs.chaos --store postgres|valkey|redis|mongodb [--seconds 60] [--every 6] [--rate 300] [--cut]
    python -m bench.jobs.chaos --store cosmos [--seconds 60] [--rate 20]

Four worker processes run jobs that one producer keeps adding; each few seconds the server is ended by SIGKILL and started
again on the same data. With --cut it lives, but does what it is asked and then cuts the connection instead of answering, some
times a second. Cosmos DB's peer, which keeps all in memory, cuts connections so, too, and answers 429 and 503 for a while.
With --rate 0 nothing is paced: jobs take no time, and the store gives what it can.

Then, from the store: every job whose `add` was acknowledged is completed, by one run; it was claimed once, and once more for
each rescue and release; no claim ran it twice; and there is no job that nobody added. Prints a JSON line for each kill (how long until
a window of one second had 95% of the rate again) and one for all, with the jobs of every second. Exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.jobs.transfer import opened
from bench.jobs.troubles import Trouble, trouble_for
from perdure import bootstrap
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.worker import Worker
from perdure.domain.errors import StoreError
from perdure.domain.ids import uuid7
from perdure.domain.job import Entry, Job, NewJob
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from perdure.settings import Settings

WORKERS = 4
SHORT = 0.2
"""Seconds that a job takes, about: each worker has as many slots as that needs for its share of the rate."""
UNPACED_SLOTS = 100
LEASE = timedelta(seconds=5)
ENOUGH = 0.95
LEAST = 2
"""Troubles of a run, however slow the machine."""
RATES = {"mongodb": 10.0, "cosmos": 20.0}
"""Jobs a second that the tests' slow servers are asked for."""


@dataclass
class Report:
    """What a run showed; `wrong` is empty if all promises held. Times in seconds, rates in jobs a second.

    Attributes:
        rate: median of the seconds in which the server was there.
        recovered: after each restart, until a window of one second had 95% of that rate; -1: never.
        trouble: what befell, and how often.
        run_twice: jobs whose handler ran again, each after a rescue.
        per_second: jobs that ran in each second since the first.
        killed_at: seconds after the first job.
    """

    store: str
    added: int = 0
    rate: float = 0.0
    recovered: list[float] = field(default_factory=list)
    trouble: dict[str, int] = field(default_factory=dict)
    run_twice: int = 0
    per_second: list[int] = field(default_factory=list)
    killed_at: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Runs:
    """What the workers wrote down: a line for each run of a job, at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._counted = self._read = 0

    def count(self) -> int:
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._counted += new.count(b"\n")
        self._read += len(new)
        return self._counted

    def all(self) -> list[tuple[str, int, float]]:
        """Job, epoch, time."""
        lines = (line.split() for line in self.path.read_text().splitlines())
        return [(job_id, int(epoch), float(at)) for job_id, epoch, at in lines]


class Chaos:
    def __init__(self, store: str, trouble: Trouble, folder: Path, rate: float) -> None:
        self.report = Report(store)
        self._trouble, self._folder, self._rate = trouble, folder, rate
        self._runs = Runs(folder / "runs")
        self._acknowledged: set[str] = set()
        self._chance = random.Random(3)
        self._enough = False

    async def run(self, seconds: float, every: float) -> Report:
        async with opened(self._trouble.url) as jobs:
            workers = [self._start_worker() for _ in range(WORKERS)]
            try:
                producing = asyncio.create_task(self._produce(jobs))
                await self._make_trouble(seconds, every)
                self._enough = True
                await producing
                await self._until_done(jobs)
            finally:
                for worker in workers:
                    worker.send_signal(signal.SIGTERM)
                for worker in workers:
                    await asyncio.to_thread(worker.wait, 60)
            await self._judge(jobs)
        self._measure(sorted(at for _, _, at in self._runs.all()))
        return self.report

    def _start_worker(self) -> subprocess.Popen[bytes]:
        arguments = ["--work", self._trouble.url, "--rate", str(self._rate), "--log", str(self._runs.path)]
        with (self._folder / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bench.jobs.chaos", *arguments], stdout=log, stderr=log
            )

    async def _produce(self, jobs: JobService) -> None:
        """Keep some seconds of work waiting; say an add again until it is acknowledged."""
        batch, waiting = (max(1, int(self._rate / 5)), 2 * self._rate) if self._rate else (500, 5000)
        while not self._enough:
            if len(self._acknowledged) - self._runs.count() < waiting:
                await self._add(jobs, batch)
            else:
                await asyncio.sleep(0.05)

    async def _add(self, jobs: JobService, number: int) -> None:
        ids = [uuid7(jobs.clock.now(), self._chance.getrandbits(74)) for _ in range(number)]
        new = [NewJob(kind="work", id=each, payload={"id": each}, max_rescues=99, ttl=None) for each in ids]
        while True:
            try:
                await jobs.add_many(new)
            except StoreError:
                await asyncio.sleep(0.1)
            else:
                self._acknowledged.update(ids)
                return

    async def _make_trouble(self, seconds: float, every: float) -> None:
        async with asyncio.timeout(180):
            while self._runs.count() < WORKERS:
                await asyncio.sleep(0.1)
        end, times = time.time() + seconds, 0
        await asyncio.sleep(every)
        while time.time() < end or times < LEAST:
            await self._trouble.befall()
            times += 1
            await asyncio.sleep(every)
        self._trouble.end()
        self.report.trouble = self._trouble.told

    async def _until_done(self, jobs: JobService) -> None:
        async with asyncio.timeout(300):
            while await _unfinished(jobs):
                await asyncio.sleep(0.2)

    # --- judging ----------------------------------------------------------------------------

    async def _judge(self, jobs: JobService) -> None:
        report = self.report
        report.added = len(self._acknowledged)
        ran: dict[str, list[int]] = {}
        for job_id, epoch, _ in self._runs.all():
            ran.setdefault(job_id, []).append(epoch)
        after, found, readers = None, 0, asyncio.Semaphore(16)

        async def history(job: Job) -> list[Entry]:
            async with readers:
                return await jobs.store.history(job.tenant, job.id)

        while page := await jobs.store.find(JobFilter(tenant=None), 500, after):
            after, found = page[-1].id, found + len(page)
            histories = await asyncio.gather(*map(history, page))
            for job, entries in zip(page, histories, strict=True):
                epochs = ran.get(job.id, [])
                report.wrong += _faults(job, Counter(entry.event for entry in entries), epochs)
                report.run_twice += len(epochs) > 1
                self._acknowledged.discard(job.id)
        if self._acknowledged or found != report.added:
            missing = len(self._acknowledged)
            report.wrong.append(f"{missing} acknowledged jobs are missing; {found} of {report.added} there")

    def _measure(self, ends: Sequence[float]) -> None:
        """The usual rate, and how soon it came again."""
        report, outages = self.report, self._trouble.outages
        per_second = Counter(int(at - ends[0]) for at in ends)
        report.per_second = [per_second[second] for second in range(max(per_second) + 1)]
        report.killed_at = [round(down - ends[0], 1) for down, _ in outages]
        last = outages[-1][0] - ends[0] if outages else len(report.per_second) - 2
        calm = [
            jobs
            for second, jobs in enumerate(report.per_second)
            if 2 <= second < int(last)
            and not any(down - 1 < ends[0] + second + 1 and ends[0] + second < up + 3 for down, up in outages)
        ]
        report.rate = statistics.median(calm or [0])
        for down, up in outages:
            took = next(
                (n / 10 for n in range(300) if _rate(ends, up + n / 10) >= ENOUGH * report.rate), -1.0
            )
            report.recovered.append(took)
            print(json.dumps({"away": round(up - down, 2), "recovered_after": took}), flush=True)


def _rate(ends: Sequence[float], begin: float) -> int:
    """Jobs in the second from `begin` on."""
    return bisect_left(ends, begin + 1) - bisect_left(ends, begin)


def _faults(job: Job, events: Counter[Event], epochs: Sequence[int]) -> list[str]:
    """What is wrong with a job, given the epochs under which it ran."""
    claims = 1 + events[Event.RESCUED] + events[Event.RELEASED]
    told = f"{job.id}: {job.state}, epoch {job.epoch}, ran as {list(epochs)}, {dict(events)}"
    wrong = []
    if job.state is not JobState.COMPLETED or events[Event.COMPLETED] != 1 or job.attempt != 1:
        wrong.append(f"not completed once: {told}")
    if job.epoch != claims or job.rescues != events[Event.RESCUED]:
        wrong.append(f"claimed otherwise than once, and once for each rescue and release: {told}")
    if len(set(epochs)) < len(epochs) or job.epoch not in epochs or max(epochs) > job.epoch:
        wrong.append(f"run twice under one claim, or under none: {told}")
    return wrong


async def _unfinished(jobs: JobService) -> bool:
    try:
        return (await jobs.stats(None)).unfinished > 0
    except StoreError:
        return True


async def work(url: str, log: str, rate: float) -> None:
    """A worker process: its share of the rate, by jobs that take a while."""
    slots = max(1, round(rate * SHORT / WORKERS)) if rate else UNPACED_SLOTS
    pause = WORKERS * slots / rate if rate else 0.0
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    handlers = Handlers()

    async def run(ctx: Any, id: str) -> None:  # noqa: A002  # as the payload calls it
        await asyncio.sleep(pause)
        os.write(file, f"{id} {ctx.epoch} {time.time():.3f}\n".encode())

    handlers.register("work", run)
    store = bootstrap.job_store(Settings.from_environ({}, store=url, cache_megabytes=0))
    jobs = JobService(store)
    while True:  # as whoever supervises a worker would
        try:
            await store.setup()
            await jobs.start()
            break
        except StoreError:
            await asyncio.sleep(0.2)
    worker = Worker(jobs, handlers, concurrency=slots, lease=LEASE)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()
    await jobs.close()
    await store.close()


async def chaos(
    store: str,
    folder: Path,
    seconds: float,
    every: float | None = None,
    rate: float | None = None,
    *,
    cut: bool = False,
) -> Report:
    """Run one; `folder` keeps the workers' log. None: what suits the store."""
    async with AsyncExitStack() as stack:
        trouble = await trouble_for(store, cut=cut, stack=stack)
        rate = RATES.get(store, 300.0) if rate is None else rate
        return await Chaos(store, trouble, folder, rate).run(seconds, every or trouble.every)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    stores = ("postgres", "valkey", "redis", "mongodb", "cosmos")
    parser.add_argument("--store", choices=stores, default="postgres")
    parser.add_argument("--cut", action="store_true", help="lose answers instead of killing the server")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, help="seconds between troubles; default: 6 between kills")
    parser.add_argument(
        "--rate", type=float, help="jobs a second; default: 300, of slow test servers 10 or 20"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--log", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if asked.work:
        asyncio.run(work(asked.work, asked.log, asked.rate))
        return 0
    with tempfile.TemporaryDirectory(prefix="perdure-chaos-") as folder:
        report = asyncio.run(
            chaos(asked.store, Path(folder), asked.seconds, asked.every, asked.rate, cut=asked.cut)
        )
    print(json.dumps(asdict(report)))
    return int(bool(report.wrong))


if __name__ == "__main__":
    sys.exit(main())
