"""Work goes on while its store is killed, and its records are right in the end; so are those of work that is killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

import perdure
from perdure.core.tracking import Tracker
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from tests.servers.postgres import postgres_server
from tests.servers.redis import redis_server

pytestmark = [pytest.mark.server, pytest.mark.fault, pytest.mark.timeout(300)]

UNITS, LANES = 1000, 20


class Server(Protocol):
    url: str

    def kill(self) -> None: ...
    def start(self) -> None: ...


@pytest.fixture(params=["postgres", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with postgres_server() if request.param == "postgres" else redis_server() as server:
        yield server


class Load:
    """A thousand units of work, of which every tenth fails."""

    def __init__(self) -> None:
        self.ran: set[int] = set()

    async def run(self, tracker: Tracker) -> None:
        async with asyncio.TaskGroup() as group:
            for lane in range(LANES):
                group.create_task(self._lane(tracker, range(lane, UNITS, LANES)))

    async def _lane(self, tracker: Tracker, numbers: range) -> None:
        for n in numbers:
            try:
                async with tracker.track("work", payload={"n": n}) as work:
                    await asyncio.sleep(0.01)
                    work.progress(0.5, step=n)
                    await asyncio.sleep(0.01)
                    self.ran.add(n)
                    work.result = n
                    if n % 10 == 0:
                        raise ValueError(f"{n} is torn")
            except ValueError:
                pass

    async def until(self, number: int) -> None:
        async with asyncio.timeout(60):
            while len(self.ran) < number:
                await asyncio.sleep(0.01)


async def written(tracker: Tracker) -> None:
    async with asyncio.timeout(120):
        while tracker.waiting:
            await asyncio.sleep(0.05)


async def check(url: str) -> None:
    """Every unit has one record, in its state, with one end."""
    async with perdure.open(url, vectors="memory:", worker=False, embedder="hashing") as app:
        jobs: list[Job] = []
        while page := await app.jobs.store.find(JobFilter(tenant=None), 500, jobs[-1].id if jobs else None):
            jobs += page
        assert sorted(str(job.payload["n"]) for job in jobs) == sorted(map(str, range(UNITS)))
        for job in jobs:
            n = job.payload["n"]
            failed = str(n).endswith("0")
            assert (job.state, job.result) == ((JobState.FAILED, None) if failed else (JobState.COMPLETED, n))
            assert job.progress is not None
            assert job.progress.counts == {"step": n}
            events = [entry.event for entry in await app.jobs.store.history(job.tenant, job.id)]
            assert events.count(Event.FAILED if failed else Event.COMPLETED) == 1
        assert (await app.jobs.stats(None)).by_state[JobState.FAILED] == UNITS // 10


async def test_a_killed_store_costs_no_work_and_no_record(server: Server) -> None:
    load = Load()
    async with perdure.tracker(server.url) as tracker, asyncio.TaskGroup() as group:
        group.create_task(load.run(tracker))
        for down, up in ((200, 400), (600, 1000)):
            await load.until(down)
            server.kill()
            await load.until(up)
            await asyncio.to_thread(server.start)
        await written(tracker)
        assert tracker.dropped == 0
    assert load.ran == set(range(UNITS))
    await check(server.url)


async def test_a_store_that_is_down_from_the_start_gets_all_records(server: Server) -> None:
    server.kill()
    load = Load()
    async with perdure.tracker(server.url) as tracker:
        await load.run(tracker)
        assert tracker.waiting == UNITS
        await asyncio.to_thread(server.start)
        await written(tracker)
    assert load.ran == set(range(UNITS))
    await check(server.url)


# --- work that is killed --------------------------------------------------------------------

PROGRAM = """
import asyncio, signal, sys, perdure

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    async with perdure.tracker(sys.argv[1], lease_seconds=2) as tracker:
        async with tracker.track("work") as work:
            while tracker.waiting:
                await asyncio.sleep(0.01)
            print(work.id, flush=True)
            await asyncio.sleep(600)

try:
    asyncio.run(main())
except asyncio.CancelledError:
    print("stopped")
"""


@contextmanager
def program(url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


async def ended(url: str, job_id: str) -> Job:
    """The record, once it has ended; this process looks after dead work."""
    async with perdure.open(url, embedder="hashing") as app:
        return await app.wait(job_id, timeout=60)


async def test_work_that_is_killed_is_failed_as_dead(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with program(url) as running:
        assert running.stdout is not None
        job_id = (await asyncio.to_thread(running.stdout.readline)).strip()
        running.send_signal(signal.SIGKILL)
        job = await ended(url, job_id)
    assert job.failure is not None
    assert (job.state, job.failure.type) == (JobState.FAILED, "WorkerDied")


async def test_work_that_is_stopped_tells_so_before_it_goes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with program(url) as running:
        assert running.stdout is not None
        job_id = (await asyncio.to_thread(running.stdout.readline)).strip()
        running.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.wait, 60) == 0
    job = await ended(url, job_id)
    assert (job.state, job.worker is not None) == (JobState.CANCELLED, True)
