"""Workers that are killed, or stopped for longer than their lease, in the middle of real work."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

import perdure
from bench import soak
from perdure.app import App, FileItem
from perdure.domain.job import Entry, Job
from perdure.domain.state import JobState

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", range(101, 106))
async def test_killed_workers_lose_and_double_nothing(seed: int, tmp_path: Path) -> None:
    report = await soak.run_round(tmp_path, seed)
    assert report.wrong == []


async def story(app: App, jobs: list[Job]) -> list[tuple[Job, list[Entry]]]:
    return [
        (
            await app.jobs.get(job.id, tenant="default"),
            await app.jobs.history(job.id, tenant="default"),
        )
        for job in jobs
    ]


async def logged(path: Path, words: str) -> None:
    async with asyncio.timeout(60):
        while words not in path.read_text():
            await asyncio.sleep(0.05)


@contextmanager
def worker_in(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that does not outlive its test, however that ends."""
    worker = soak.start_worker(folder)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


async def put_to_sleep(worker: subprocess.Popen[bytes], database: Path) -> None:
    """Stop the process, but not inside a write: it would keep SQLite's one write lock, and nobody could go on."""
    while True:
        worker.send_signal(signal.SIGSTOP)
        while not stopped(worker.pid):
            await asyncio.sleep(0.001)
        if await asyncio.to_thread(can_write, database):
            return
        worker.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.02)


def stopped(process: int) -> bool:
    """Whether all its threads are; on a busy machine that takes a moment, in which one may yet begin to write."""
    tasks = Path(f"/proc/{process}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in tasks)


def can_write(database: Path) -> bool:
    connection = apsw.Connection(str(database))
    try:
        connection.set_busy_timeout(1000)
        connection.execute("begin immediate; rollback")
    except apsw.BusyError:
        return False
    finally:
        connection.close()
    return True


async def test_a_worker_that_slept_past_its_lease_changes_nothing(tmp_path: Path) -> None:
    paths = soak.write_documents(tmp_path, random.Random(7))
    async with perdure.open(f"sqlite:///{tmp_path / 'soak.db'}", embedder="hashing", worker=False) as app:
        jobs = await app.ingest_many(FileItem(path=path, document_id=path.name) for path in paths)
        with worker_in(tmp_path) as sleeper:
            async with asyncio.timeout(60):
                while not (await app.jobs.stats("default")).by_state[JobState.RUNNING]:
                    await asyncio.sleep(0.005)
            await put_to_sleep(sleeper, tmp_path / "soak.db")
            with worker_in(tmp_path) as other:
                for job in jobs:
                    assert (await app.wait(job.id, timeout=120)).state is JobState.COMPLETED
                before = await story(app, jobs), await soak.chunk_texts(app)
                assert any(job.rescues for job, _ in before[0])
                sleeper.send_signal(signal.SIGCONT)
                await logged(tmp_path / "worker.log", "LeaseLost")
                for worker in (sleeper, other):
                    worker.send_signal(signal.SIGTERM)
                    assert await asyncio.to_thread(worker.wait, 60) == 0
        assert (await story(app, jobs), await soak.chunk_texts(app)) == before
        assert before[1] == await soak.undisturbed(tmp_path)
