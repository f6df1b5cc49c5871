"""Group commit: shared transactions, separate fates."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from perdure.databases.sqlite import MEMORY, SqliteDatabase, writer
from perdure.domain.errors import StoreError, StoreUnavailable


@pytest_asyncio.fixture(params=["file", MEMORY])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    path = MEMORY if request.param == MEMORY else tmp_path / "some.db"
    database = await SqliteDatabase.open(path)
    await database.migrate("test", ["CREATE TABLE numbers (n INTEGER UNIQUE)"])
    yield database
    await database.close()


def add(connection: apsw.Connection, *numbers: int) -> None:
    connection.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in numbers])


def adding(*numbers: int) -> Callable[[apsw.Connection], None]:
    return lambda connection: add(connection, *numbers)


async def numbers(database: SqliteDatabase) -> list[int]:
    rows = await database.read(lambda c: c.execute("SELECT n FROM numbers ORDER BY n").fetchall())
    return [int(str(number)) for (number,) in rows]


class Blocker:
    """A work that keeps the writer busy until it is let go, so that others queue up behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.free = threading.Event()

    def __call__(self, connection: apsw.Connection) -> None:
        self.entered.set()
        assert self.free.wait(20)

    async def until_entered(self) -> None:
        await asyncio.to_thread(self.entered.wait, 20)


class Commits:
    """Counts them."""

    number = 0

    def watch(self, connection: apsw.Connection) -> None:
        connection.set_commit_hook(self.count)

    def count(self) -> bool:
        self.number += 1
        return False


async def test_a_write_gives_what_the_work_gives(database: SqliteDatabase) -> None:
    assert await database.write(lambda connection: "done") == "done"


async def test_one_that_fails_is_undone_alone(database: SqliteDatabase) -> None:
    def failing(connection: apsw.Connection) -> None:
        add(connection, 100, 101)
        raise LookupError("mine")

    outcomes = await asyncio.gather(
        database.write(adding(1)),
        database.write(failing),
        database.write(adding(2, 1)),
        database.write(adding(3)),
        return_exceptions=True,
    )
    assert outcomes[0] is outcomes[3] is None
    assert isinstance(outcomes[1], LookupError)
    assert isinstance(outcomes[2], StoreError)
    assert "UNIQUE" in str(outcomes[2])
    assert await numbers(database) == [1, 3]


async def test_what_queues_up_shares_a_transaction(database: SqliteDatabase) -> None:
    commits = Commits()
    await database.equip(commits.watch)
    blocker = Blocker()
    first = asyncio.ensure_future(database.write(blocker))
    await blocker.until_entered()
    rest = asyncio.gather(*(database.write(adding(n)) for n in range(50)))
    await asyncio.sleep(0)
    blocker.free.set()
    await first
    await rest
    assert await numbers(database) == list(range(50))
    assert commits.number <= 2


async def test_a_long_batch_lets_others_in(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_SECONDS", 0)
    commits = Commits()
    await database.equip(commits.watch)
    await asyncio.gather(*(database.write(adding(n)) for n in range(5)))
    assert commits.number == 5


async def test_a_cancelled_write_that_did_not_begin_is_dropped(database: SqliteDatabase) -> None:
    blocker = Blocker()
    first = asyncio.ensure_future(database.write(blocker))
    await blocker.until_entered()
    second = asyncio.ensure_future(database.write(adding(1)))
    third = asyncio.ensure_future(database.write(adding(2)))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    blocker.free.set()
    await first
    await third
    assert await numbers(database) == [2]


async def test_a_write_cancelled_on_its_way_harms_no_other(database: SqliteDatabase) -> None:
    blocker = Blocker()

    def work(connection: apsw.Connection) -> None:
        blocker(connection)
        add(connection, 1)

    first = asyncio.ensure_future(database.write(work))
    await blocker.until_entered()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    blocker.free.set()
    await database.write(adding(2))
    assert await numbers(database) == [1, 2], "it had begun, so it went through"


async def test_any_exception_comes_out_and_the_writer_goes_on(database: SqliteDatabase) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await database.write(lambda c: next(iter(())))
    await database.write(adding(1))
    assert await numbers(database) == [1]


async def test_closing_waits_for_what_is_queued(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "some.db")
    await database.migrate("test", ["CREATE TABLE numbers (n INTEGER UNIQUE)"])
    writes = [asyncio.ensure_future(database.write(adding(n))) for n in range(20)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    database = await SqliteDatabase.open(tmp_path / "some.db")
    assert await numbers(database) == list(range(20))
    await database.close()


async def test_a_full_disk_fails_all_that_share_the_transaction_and_keeps_nothing(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "some.db")
    await database.migrate("test", ["CREATE TABLE numbers (n INTEGER UNIQUE)", "CREATE TABLE large (b BLOB)"])

    def no_more_pages(connection: apsw.Connection) -> None:
        connection.pragma("max_page_count", 20)

    await database.equip(no_more_pages)
    outcomes = await asyncio.gather(
        database.write(adding(1)),
        database.write(lambda c: c.execute("INSERT INTO large VALUES (zeroblob(200000))").fetchall()),
        database.write(adding(2)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], StoreUnavailable)
    assert "disk is full" in str(outcomes[1])
    stored = await numbers(database)
    for number, outcome in ((1, outcomes[0]), (2, outcomes[2])):
        assert (number in stored) == (outcome is None), "acknowledged and stored are the same"
    await database.write(adding(3))
    assert 3 in await numbers(database)
    await database.close()


async def test_where_others_write_they_are_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(writer, "BATCH_SECONDS", 0)
    monkeypatch.setattr("time.sleep", pauses.append)
    database = await SqliteDatabase.open(tmp_path / "some.db")
    await database.migrate("test", ["CREATE TABLE numbers (n INTEGER UNIQUE)"])
    pauses.clear()
    with closing(apsw.Connection(database.path)) as other:
        other.execute("INSERT INTO numbers VALUES (-1)")
    await asyncio.gather(*(database.write(adding(n)) for n in range(writer.ALONE + 50)))
    assert 0 < len(pauses) <= writer.ALONE
    assert all(0 < pause <= writer.YIELD_SECONDS for pause in pauses)
    pauses.clear()
    await asyncio.gather(*(database.write(adding(1000 + n)) for n in range(20)))
    assert pauses == [], "nobody else has written for long"
    await database.close()
