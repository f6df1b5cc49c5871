"""A source that changes all the time, followed by two processes that are killed again and again.

    python -m bench.ingest.feeds [--feed NAME] [--events 10000] [--kills 20] [--rate 100] [--seed 1]

Creates, updates and deletes happen at a rate. Two processes run `perdure feed run` (with `--lease 2`), one `perdure worker`; whoever reads is ended
by SIGKILL, and started again. Then, of every document that there ever was: what a search finds is what the source holds, once. Meanwhile
samples are asked for until they are found: the delay from change to searchable, while readers are killed and, after that, while none
is. Of a folder also: 20,000 files, their first scan, its memory and what an idle second costs; `--files 1000000` shows only that, of so
many. The embedder is `hashing`, the store SQLite. Prints JSON lines; exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import perdure
from bench.ingest.sources import COMES_AGAIN, SOURCES, Source
from perdure.app import App
from perdure.core.feeds import FeedStatus
from perdure.domain.change import Change, Poison
from perdure.feeding import feeds_of, make_runner
from perdure.feeds.folder import FolderFeed

NAME = "followed"
SLOW = frozenset({"mongodb", "service-bus", "service-bus-sessions", "cosmos"})
PROBES = 8
"""Samples that are waited for at once."""


@dataclass
class Report:
    """What a run showed; `wrong` is empty if all promises held."""

    feed: str
    events: int
    kills: int = 0
    documents: int = 0
    told: int = 0
    parked: int = 0
    jobs: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    killed_p50: float = 0.0
    killed_p95: float = 0.0
    calm_p50: float = 0.0
    calm_p95: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Bench:
    """One source, its readers, and what it ought to hold."""

    def __init__(self, source: Source, app: App, store: str, chance: random.Random, documents: int) -> None:
        self.source, self.app, self.store, self.chance = source, app, store, chance
        self.names = [f"{n:05}.md" for n in range(documents)]
        self.holds: dict[str, str] = {}
        self.turn = 0
        self.read_at = 0.0
        self.delays: list[float] = []
        self.probes: set[asyncio.Task[None]] = set()
        self.readers: list[asyncio.subprocess.Process] = []

    async def start(self, *command: str) -> asyncio.subprocess.Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        given = {"PERDURE_EMBEDDER": "hashing", "PERDURE_POLL_SECONDS": "0.1", "PERDURE_STORE": self.store}
        null = asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "perdure", *command, env={**clean, **given}, stdout=null, stderr=null
        )

    async def start_reader(self) -> None:
        self.readers.append(
            await self.start("feed", "run", NAME, self.source.url, "--poll", "0.2", "--lease", "2")
        )

    async def kill_leader(self, *, idle: bool) -> bool:
        """End who reads, and start another; False: nobody does at the moment, or, where it shall not be idle, has told nothing yet."""
        status = [one for one in await feeds_of(self.app).all() if one.name == NAME]
        if not status or (status[0].read_at == self.read_at and not idle):
            return False
        for reader in self.readers:
            if f":{reader.pid}:" in status[0].leader:
                self.read_at = status[0].read_at
                reader.kill()
                await reader.wait()
                self.readers.remove(reader)
                await self.start_reader()
                return True
        return False

    async def change(self, events: int, rate: float, share: float) -> None:
        """Creates, updates and deletes; of a share of them the delay is taken."""
        begun = time.monotonic()
        for n in range(events):
            await asyncio.sleep(max(0.0, begun + n / rate - time.monotonic()))
            self.turn += 1
            name = self.chance.choice(self.names)
            if name in self.holds and self.chance.random() < 0.25:
                await self.source.remove(name)
                del self.holds[name]
                continue
            await self.source.put(name, f"Paper {name} in its state {self.turn}.")
            self.holds[name] = f"Paper {name} in its state {self.turn}."
            if len(self.probes) < PROBES and self.chance.random() < share:
                self.probes.add(probe := asyncio.create_task(self.probe(name, self.turn)))
                probe.add_done_callback(self.probes.discard)

    async def probe(self, name: str, turn: int) -> None:
        """Wait until this state is found, or a later one; one that is deleted first counts for nothing."""
        begun = time.monotonic()
        while name in self.holds:
            found = await self.found(name)
            if any(int(text.rstrip(".").rpartition(" ")[2]) >= turn for text in found):
                self.delays.append(time.monotonic() - begun)
                return
            await asyncio.sleep(0.05)

    async def found(self, name: str) -> list[str]:
        return [hit.chunk_text for hit in await self.app.search("paper", document_ids=[name], limit=10)]

    async def differences(self, patience: float) -> list[str]:
        """What a search finds that the source does not hold, and the other way round, when all had time."""
        left, until = list(self.names), time.monotonic() + patience
        while True:
            want = {name: [self.holds[name]] if name in self.holds else [] for name in left}
            left = [name for name in left if await self.found(name) != want[name]]
            if not left or time.monotonic() > until:
                return [f"{name}: {await self.found(name)}, not {want[name]}" for name in left[:10]]
            await asyncio.sleep(0.2)

    def percentiles(self) -> tuple[float, float]:
        delays, self.delays = sorted(self.delays) or [0.0], []
        return round(delays[len(delays) // 2], 2), round(delays[int(len(delays) * 0.95)], 2)

    async def status(self) -> FeedStatus:
        return next(one for one in await feeds_of(self.app).all() if one.name == NAME)

    async def quiet(self) -> FeedStatus:
        """The status once nothing was told for three seconds: that a document came and went may be told after it is gone."""
        status, since = await self.status(), time.monotonic()
        while time.monotonic() < since + 3:
            await asyncio.sleep(0.2)
            now = await self.status()
            if (now.upserts, now.deletes) != (status.upserts, status.deletes):
                since = time.monotonic()
            status = now
        return status

    async def judge(self, report: Report, patience: float) -> None:
        """After the storm: does what is searchable equal the source, once each, and is nothing told again?"""
        report.wrong += await self.differences(patience)
        report.documents = len(self.holds)
        jobs = (await self.app.jobs.stats("default")).by_state
        report.jobs = {str(state): number for state, number in jobs.items() if number}
        if sum(jobs.values()) > self.turn:
            report.wrong.append(f"{sum(jobs.values())} jobs of {self.turn} events")
        before = await self.quiet()
        while not await self.kill_leader(idle=True):
            await asyncio.sleep(0.1)
        while (await self.status()).leader == before.leader:
            await asyncio.sleep(0.1)
        # It has read to the end when one more event is found.
        last = "Paper last.md in its state 0."
        await self.source.put("last.md", last)
        async with asyncio.timeout(patience):
            while await self.found("last.md") != [last]:
                await asyncio.sleep(0.1)
        after = await self.quiet()
        report.told, report.parked = after.upserts + after.deletes, after.parked
        report.wrong += [f"parked: {poison.reason}" for poison in await feeds_of(self.app).parked(NAME, 10)]
        once = before.upserts + 1, before.deletes
        if report.feed not in COMES_AGAIN and (after.upserts, after.deletes) != once:
            report.wrong.append(f"a new reader was told again what was done: {before} {after}")

    async def end(self, *processes: asyncio.subprocess.Process) -> None:
        for process in processes:
            process.terminate()
        for process in processes:
            await process.wait()


async def run(
    feed: str, folder: Path, *, events: int, kills: int, rate: float, seed: int, calm: int = 60
) -> Report:
    """Change, kill, and look what came of it."""
    report = Report(feed, events)
    store = f"sqlite:///{folder / 'jobs.db'}"
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(SOURCES[feed](folder))
        app = await stack.enter_async_context(
            perdure.open(store, embedder="hashing", worker=False, job_ttl_hours=48)
        )
        bench = Bench(source, app, store, random.Random(seed), max(20, events // 5))
        worker = await bench.start("worker", "--quiet")
        for _ in range(2):
            await bench.start_reader()
        try:
            changing = asyncio.create_task(bench.change(events, rate, 0.2))
            while report.kills < kills:
                await asyncio.sleep(bench.chance.uniform(0.5, 1.5) * min(5.0, events / rate / kills))
                report.kills += await bench.kill_leader(idle=changing.done())
            await changing
            await bench.judge(report, 120)
            await asyncio.gather(*bench.probes)
            report.killed_p50, report.killed_p95 = bench.percentiles()
            if calm:
                await bench.change(calm, 4.0, 1.0)
                report.wrong += await bench.differences(60)
                await asyncio.gather(*bench.probes)
                report.calm_p50, report.calm_p95 = bench.percentiles()
        finally:
            await bench.end(worker, *bench.readers)
    report.seconds = round(time.monotonic() - begun, 1)
    return report


class Nowhere:
    """A sink that has taken everything at once, so that only the feed and its marks cost."""

    async def pending(self, tenants: Sequence[str]) -> int:
        return 0

    async def take(self, changes: Sequence[Change]) -> list[Poison]:
        return []


async def large_folder(folder: Path, files: int) -> dict[str, float]:
    """The first scan of so many empty files, with its marks in SQLite, what memory that takes, and the processor time of a second in
    which nothing happens. A link back to the folder is among them.
    """
    inbox = folder / "inbox"
    for part in range(100):
        (inbox / f"{part}").mkdir(parents=True)
    for n in range(files):
        (inbox / f"{n % 100}" / f"{n}.md").touch()
    (inbox / "loop").symlink_to(inbox)
    async with perdure.open(f"sqlite:///{folder / 'scan.db'}", embedder="hashing", worker=False) as app:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        runner = make_runner(app, NAME, FolderFeed(inbox, settled=0), Nowhere())
        begun, reading = time.perf_counter(), asyncio.create_task(runner.run())
        while runner.status.upserts < files and not reading.done():
            await asyncio.sleep(0.1)
        scan = time.perf_counter() - begun
        await asyncio.sleep(8)
        used = time.process_time()
        await asyncio.sleep(20)
        idle = (time.process_time() - used) / 20
        runner.stop()
        await reading
    return {
        "files": files,
        "told": runner.status.upserts,
        "first_scan_seconds": round(scan, 2),
        "memory_grew_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "idle_cpu_per_second": round(idle, 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Readers of a feed, killed again and again.")
    parser.add_argument("--feed", choices=[*SOURCES], default="folder")
    parser.add_argument("--events", type=int, help="default: 10,000; of the slow test servers 300")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, help="events a second; default: 100, of the slow 4")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, help="only scan a folder of so many empty files")
    args = parser.parse_args()
    if args.files:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(large_folder(Path(folder), args.files))))
        return 0
    slow = args.feed in SLOW
    events, rate = args.events or (300 if slow else 10_000), args.rate or (4.0 if slow else 100.0)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            run(args.feed, Path(folder), events=events, kills=args.kills, rate=rate, seed=args.seed)
        )
        print(json.dumps(asdict(report)), flush=True)
    if args.feed == "folder":
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(large_folder(Path(folder), 20_000))))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
