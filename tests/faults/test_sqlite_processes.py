"""Many processes on one SQLite file, killed at any moment, on a disk that is full or forbidden."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from perdure.blobs.sqlite import SqliteBlobStore
from perdure.databases.sqlite import SqliteDatabase
from perdure.domain.errors import SchemaMismatch, StoreCorrupt
from perdure.domain.state import JobState
from perdure.stores.sqlite import SqliteJobStore

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]


class Children:
    """Processes that speak into files, as a pipe that nobody reads would stop them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, role: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.faults.sqlite_child", role, *map(str, arguments)]
        number = len(list(self._folder.glob("*.out")))
        with (
            (self._folder / f"{number}.out").open("wb") as out,
            (self._folder / f"{number}.err").open("wb") as err,
        ):
            self.running.append(subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err))

    def lines(self) -> list[str]:
        """What all have said; no line that is cut off."""
        texts = [file.read_text() for file in sorted(self._folder.glob("*.out"))]
        return [line for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]

    def all_at_work(self) -> bool:
        return all(file.stat().st_size for file in self._folder.glob("*.out"))

    def join(self) -> None:
        """Wait for all; they must end well."""
        for child in self.running:
            assert child.wait(timeout=100) == 0, self.complaints()
        self.running.clear()
        assert self.complaints() == ""

    def kill(self) -> None:
        for child in self.running:
            child.kill()
            child.wait()
        self.running.clear()

    def complaints(self) -> str:
        return "".join(file.read_text() for file in sorted(self._folder.glob("*.err")))


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    (tmp_path / "said").mkdir()
    children = Children(tmp_path / "said")
    yield children
    children.kill()


def run(children: Children, role: str, *arguments: object) -> list[str]:
    """Run one child to its end; its lines."""
    children.start(role, *arguments)
    children.join()
    return children.lines()


async def until_at_work(children: Children) -> None:
    async with asyncio.timeout(60):
        while not children.all_at_work():
            await asyncio.sleep(0.01)


def said(lines: Iterable[str]) -> defaultdict[str, Counter[str]]:
    """What happened → to whom, how often."""
    events: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        event, who = line.split(" ", 1)
        events[event][who] += 1
    return events


async def create(path: Path) -> None:
    store = SqliteJobStore(path)
    await store.setup()
    await store.close()


def check(path: Path) -> dict[str, str]:
    """The file is sound and agrees with itself; id → state of the jobs in it."""
    with closing(apsw.Connection(str(path))) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        counted = connection.execute("SELECT * FROM job_counts WHERE n != 0 ORDER BY 1, 2, 3").fetchall()
        recount = connection.execute(
            "SELECT tenant, kind, state, count(*) FROM jobs GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        ).fetchall()
        assert counted == recount
        # Each ended job has the one entry of its end, and nobody else has any.
        ended = connection.execute("SELECT id FROM jobs WHERE state = 'completed' ORDER BY id").fetchall()
        assert connection.execute("SELECT job_id FROM job_history ORDER BY job_id").fetchall() == ended
        payloads = "SELECT count(*) FROM job_payloads", "SELECT count(*) FROM jobs"
        assert connection.execute(payloads[0]).get == connection.execute(payloads[1]).get
        return {str(job): str(state) for job, state in connection.execute("SELECT id, state FROM jobs")}


@pytest.mark.parametrize("processes", [2, 8])
async def test_every_job_runs_exactly_once(processes: int, children: Children, tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    for _ in range(processes):
        children.start("share", path, 10_000 // processes, 10_000)
    children.join()
    events = said(children.lines())
    assert set(events) == {"added", "ran", "completed"}
    assert len(events["added"]) == 10_000
    assert events["added"] == events["ran"] == events["completed"]
    assert set(check(path).values()) == {"completed"}


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_acknowledged_survives_kill_9(seed: int, children: Children, tmp_path: Path) -> None:
    path, chance = tmp_path / "perdure.db", random.Random(seed)
    await create(path)
    for _ in range(3):
        for _ in range(3):
            children.start("toil", path)
        await until_at_work(children)
        await asyncio.sleep(chance.uniform(0, 0.5))
        children.kill()
        assert children.complaints() == ""
        stored, events = check(path), said(children.lines())
        assert events["added"].keys() <= stored.keys()
        assert {stored[job] for job in events["completed"]} == {"completed"}
        assert max(events["ran"].values()) == 1, "a dead worker's lease still protects its jobs"
        assert events["completed"]
        assert not events["refused"]


async def test_a_blob_is_whole_or_not_there_after_kill_9(children: Children, tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    for pause in (0.0, 0.05, 0.1):
        children.start("upload", path)
        await until_at_work(children)
        await asyncio.sleep(pause)
        children.kill()
    later = time.time() + 2 * 3600
    blobs = SqliteBlobStore(path, lambda: later)
    await blobs.setup()
    for blob_id in said(children.lines())["wrote"]:
        content = b"".join([piece async for piece in blobs.read("acme", blob_id)])
        assert content == blob_id[-8:].encode() * (512 * 1024)
    await blobs.close()
    with closing(apsw.Connection(str(path))) as connection:
        assert connection.execute("SELECT count(*) FROM blobs WHERE whole = 0").get == 0
        orphans = "SELECT count(*) FROM blob_pieces WHERE blob NOT IN (SELECT seq FROM blobs)"
        assert connection.execute(orphans).get == 0


async def test_a_full_disk_is_said_and_nothing_is_half_written(children: Children, tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    await create(path)
    lines = run(children, "fill", path, 2_000_000)
    [refusal] = [line for line in lines if line.startswith("refused")]
    assert "StoreUnavailable" in refusal
    assert "disk" in refusal
    added = said(lines)["added"]
    assert check(path).keys() == added.keys(), "each call is there whole, or not at all"
    assert f"readable {len(added) - 20}" in lines


@pytest.mark.parametrize("folder_mode", [0o755, 0o700], ids=["closed file", "closed folder"])
async def test_what_belongs_to_another_user_is_refused_with_the_remedy(
    folder_mode: int, children: Children
) -> None:
    # Not in pytest's folders, which are closed to other users all the way.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        path = folder / "perdure.db"
        await create(path)
        path.chmod(0o444)
        folder.chmod(folder_mode)
        before = path.read_bytes()
        [line] = run(children, "as_nobody", path)
        assert line.startswith("refused StoreError")
        assert "write" in line
        assert path.read_bytes() == before


async def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    path.write_bytes(random.Random(0).randbytes(20_000))
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="is not an SQLite database"):
        await SqliteJobStore(path).setup()
    assert path.read_bytes() == before


async def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    await create(path)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("UPDATE perdure_schema SET version = 99 WHERE component = 'jobs'")
    with pytest.raises(SchemaMismatch, match="version 99"):
        await SqliteJobStore(path).setup()
    database = await SqliteDatabase.open(path)
    assert await database.read(lambda c: c.execute("SELECT version FROM perdure_schema").get) == 99
    await database.close()


async def test_a_process_may_end_without_closing(children: Children, tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    added = said(run(children, "leave", path))["added"]
    assert len(added) == 10
    assert check(path).keys() == added.keys()


async def test_after_a_fork_each_opens_its_own(children: Children, tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    added = said(run(children, "fork", path))["added"]
    assert len(added) == 5 + 100 + 10 + 2 * 100
    assert check(path).keys() == added.keys()
    store = SqliteJobStore(path)
    await store.setup()
    assert (await store.stats(None)).by_state[JobState.PENDING] == len(added)
    await store.close()
