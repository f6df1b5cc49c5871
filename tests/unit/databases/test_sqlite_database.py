"""Opening and closing, reading, schemas, and noticing changes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from perdure.databases.sqlite import MEMORY, SqliteDatabase, connection
from perdure.domain.errors import SchemaMismatch, StoreCorrupt, StoreError, StoreUnavailable

TABLE = "CREATE TABLE numbers (n INTEGER)"


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = await SqliteDatabase.open(tmp_path / "some.db")
    await database.migrate("test", [TABLE])
    yield database
    await database.close()


@contextmanager
def stranger(database: SqliteDatabase) -> Iterator[apsw.Connection]:
    """A connection as another process has it."""
    with closing(apsw.Connection(database.path)) as other:
        other.set_busy_timeout(20_000)
        yield other


async def add(database: SqliteDatabase, number: int) -> None:
    await database.write(lambda c: c.execute("INSERT INTO numbers VALUES (?)", (number,)).fetchall())


async def total(database: SqliteDatabase) -> object:
    return await database.read(lambda c: c.execute("SELECT sum(n) FROM numbers").get)


class TestOpening:
    async def test_the_same_file_is_the_same_database(self, database: SqliteDatabase, tmp_path: Path) -> None:
        (tmp_path / "link.db").symlink_to(tmp_path / "some.db")
        for path in (str(tmp_path / "some.db"), tmp_path / "link.db", tmp_path / "x" / ".." / "some.db"):
            again = await SqliteDatabase.open(path)
            assert again is database
            await again.close()
        await add(database, 1)

    async def test_who_opens_at_once_shares_too(self, tmp_path: Path) -> None:
        opened = await asyncio.gather(*(SqliteDatabase.open(tmp_path / "new.db") for _ in range(5)))
        assert len(set(opened)) == 1
        for database in opened[:-1]:
            await database.close()
        await opened[-1].migrate("test", [TABLE])
        await opened[-1].close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await total(opened[-1])

    async def test_closed_and_opened_again_it_is_there(self, tmp_path: Path) -> None:
        database = await SqliteDatabase.open(tmp_path / "some.db")
        await database.migrate("test", [TABLE])
        await add(database, 5)
        await database.close()
        await database.close()
        assert sorted(file.name for file in tmp_path.iterdir()) == ["some.db"], (
            "the log is taken into the file"
        )
        again = await SqliteDatabase.open(tmp_path / "some.db")
        assert again is not database
        await database.close()
        assert await total(again) == 5
        await again.close()

    async def test_one_in_memory_is_private(self) -> None:
        first, second = await SqliteDatabase.open(MEMORY), await SqliteDatabase.open(MEMORY)
        await first.migrate("test", [TABLE])
        await second.migrate("test", [TABLE])
        await add(first, 1)
        assert (await total(first), await total(second)) == (1, None)
        await first.close()
        await second.close()

    async def test_each_refusal_names_its_cure(self, tmp_path: Path) -> None:
        (tmp_path / "text.db").write_text("This is no database, however long it may be. " * 200)
        with pytest.raises(StoreError, match="does not exist; create it"):
            await SqliteDatabase.open(tmp_path / "missing" / "some.db")
        with pytest.raises(StoreError, match="is a folder; name a file"):
            await SqliteDatabase.open(tmp_path)
        with pytest.raises(StoreCorrupt, match=r"text\.db is not an SQLite database; name another"):
            await SqliteDatabase.open(tmp_path / "text.db")
        assert "This is no database" in (tmp_path / "text.db").read_text()

    async def test_a_damaged_file_is_told_from_no_database(self, tmp_path: Path) -> None:
        database = await SqliteDatabase.open(tmp_path / "some.db")
        await database.migrate("test", [TABLE])
        await database.write(
            lambda c: c.executemany("INSERT INTO numbers VALUES (?)", [(9,)] * 5000).fetchall()
        )
        await database.close()
        pages = bytearray((tmp_path / "some.db").read_bytes())
        pages[8192:] = b"\xff" * (len(pages) - 8192)
        (tmp_path / "some.db").write_bytes(pages)
        database = await SqliteDatabase.open(tmp_path / "some.db")
        with pytest.raises(StoreCorrupt, match="restore it from a backup"):
            await total(database)
        await database.close()

    async def test_durability_is_not_left_to_defaults(self, database: SqliteDatabase) -> None:
        async def pragma(name: str) -> object:
            return await database.write(lambda c: c.pragma(name))

        assert await pragma("journal_mode") == "wal"
        assert await pragma("synchronous") == 2


class TestReading:
    async def test_a_read_sees_one_moment(self, database: SqliteDatabase) -> None:
        await add(database, 1)

        def twice(c: apsw.Connection) -> tuple[object, object]:
            before = c.execute("SELECT sum(n) FROM numbers").get
            with stranger(database) as other:
                other.execute("INSERT INTO numbers VALUES (10)")
            return before, c.execute("SELECT sum(n) FROM numbers").get

        assert await database.read(twice) == (1, 1)
        assert await total(database) == 11

    async def test_a_read_cannot_write(self, database: SqliteDatabase) -> None:
        with pytest.raises(StoreError, match="read-only"):
            await database.read(lambda c: c.execute("INSERT INTO numbers VALUES (1)").fetchall())
        assert await total(database) is None

    async def test_reads_do_not_wait_for_a_write(self, database: SqliteDatabase) -> None:
        def reading_meanwhile(c: apsw.Connection) -> object:
            c.execute("INSERT INTO numbers VALUES (1)")
            return asyncio.run_coroutine_threadsafe(total(database), loop).result(60)

        loop = asyncio.get_running_loop()
        assert await database.write(reading_meanwhile) is None
        assert await total(database) == 1

    async def test_after_an_error_reading_goes_on(self, database: SqliteDatabase) -> None:
        def failing(c: apsw.Connection) -> None:
            raise KeyError("mine")

        for _ in range(10):
            with pytest.raises(StoreError, match="no such table"):
                await database.read(lambda c: c.execute("SELECT * FROM missing").fetchall())
            with pytest.raises(KeyError):
                await database.read(failing)
        assert await total(database) is None


class TestEquipment:
    async def test_every_connection_gets_it_once(self, database: SqliteDatabase) -> None:
        given: list[apsw.Connection] = []

        def double(c: apsw.Connection) -> None:
            given.append(c)
            c.create_scalar_function("double", lambda *numbers: 2 * int(str(numbers[0])), 1)

        await total(database)
        await database.equip(double)
        await database.equip(double)
        for _ in range(3):
            assert await database.read(lambda c: c.execute("SELECT double(21)").get) == 42
            assert await database.write(lambda c: c.execute("SELECT double(21)").get) == 42
        assert len(given) == len(set(map(id, given))) == 2

    async def test_what_fails_is_forgotten(self, database: SqliteDatabase) -> None:
        def missing(c: apsw.Connection) -> None:
            c.enable_load_extension(True)
            c.load_extension("no-such-extension")

        with pytest.raises(StoreError):
            await database.equip(missing)
        await add(database, 1)
        assert await total(database) == 1


class TestSchema:
    async def test_components_count_their_own_versions(self, database: SqliteDatabase) -> None:
        await database.migrate("test", [TABLE, "ALTER TABLE numbers ADD COLUMN name TEXT"])
        await database.migrate("other", ["CREATE TABLE a (n)", "CREATE TABLE b (n)", "CREATE TABLE c (n)"])
        versions = await database.read(
            lambda c: c.execute("SELECT * FROM perdure_schema ORDER BY 1").fetchall()
        )
        assert versions == [("other", 3), ("test", 2)]

    async def test_only_what_is_missing_is_run(self, database: SqliteDatabase) -> None:
        await database.migrate("other", ["CREATE TABLE a (n); INSERT INTO a VALUES (1)"])
        steps = ["this step lies behind", "INSERT INTO a VALUES (2)"]
        await database.migrate("other", steps)
        await database.migrate("other", steps)
        assert await database.read(lambda c: c.execute("SELECT sum(n) FROM a").get) == 3

    async def test_a_newer_one_is_refused_with_the_remedy(self, database: SqliteDatabase) -> None:
        await database.migrate("other", ["CREATE TABLE a (n)", "CREATE TABLE b (n)"])
        with pytest.raises(SchemaMismatch, match=r"other of schema version 2.*versions up to 1.*upgrade"):
            await database.migrate("other", ["CREATE TABLE a (n)"])

    async def test_a_step_that_fails_leaves_nothing(self, database: SqliteDatabase) -> None:
        with pytest.raises(StoreError):
            await database.migrate("other", ["CREATE TABLE a (n)", "CREATE TABLE a (n)"])
        await database.migrate("other", ["CREATE TABLE a (n)"])

    async def test_many_at_once_do_it_once(self, tmp_path: Path) -> None:
        loop = asyncio.get_running_loop()
        databases = [
            SqliteDatabase(str(tmp_path / "some.db"), loop) for _ in range(4)
        ]  # as four processes have it
        for database in databases:
            database._holders = 1
            await loop.run_in_executor(database._writer_thread, database._connect)
        steps = [TABLE, "INSERT INTO numbers VALUES (1)"]
        await asyncio.gather(*(database.migrate("test", steps) for database in databases))
        assert await total(databases[0]) == 1
        for database in databases:
            await database.close()


class TestOthers:
    async def test_a_write_waits_for_another_process(self, database: SqliteDatabase) -> None:
        with stranger(database) as other:
            other.execute("BEGIN IMMEDIATE; INSERT INTO numbers VALUES (1)")
            writing = asyncio.ensure_future(add(database, 10))
            done, _ = await asyncio.wait({writing}, timeout=0.05)
            assert not done
            other.execute("COMMIT")
            await writing
        assert await total(database) == 11

    async def test_waiting_has_an_end(
        self, database: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "PATIENCE", 0.05)
        impatient = await SqliteDatabase.open(tmp_path / "impatient.db")
        await impatient.migrate("test", [TABLE])
        with stranger(impatient) as other:
            other.execute("BEGIN IMMEDIATE")
            outcomes = await asyncio.gather(add(impatient, 1), add(impatient, 2), return_exceptions=True)
            assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
            assert "in use by another process" in str(outcomes[0])
            other.execute("ROLLBACK")
        await add(impatient, 3)
        assert await total(impatient) == 3
        await impatient.close()

    async def test_the_log_does_not_grow_while_readers_come_one_upon_the_other(
        self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "CHECKPOINT_PAGES", 50)
        monkeypatch.setattr(connection, "TOO_MANY_PAGES", 100)
        loop, writing = asyncio.get_running_loop(), True

        def lingering(c: apsw.Connection) -> None:
            c.execute("SELECT sum(n) FROM numbers").fetchall()
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.005), loop).result(60)
            c.execute("SELECT sum(n) FROM numbers").fetchall()

        async def read_on() -> None:
            while writing:
                await database.read(lingering)

        readers = [asyncio.ensure_future(read_on()) for _ in range(3)]
        for _ in range(150):
            await database.write(
                lambda c: c.execute("INSERT INTO numbers VALUES (zeroblob(20000))").fetchall()
            )
        writing = False
        await asyncio.gather(*readers)
        log = Path(database.path + "-wal").stat().st_size
        assert log < 150 * 20_000 / 2


class TestWatching:
    async def test_own_commits_are_noticed_once(self, database: SqliteDatabase) -> None:
        watch = database.watch()
        await add(database, 1)
        await add(database, 2)
        async with asyncio.timeout(60):
            await anext(watch)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(watch)

    async def test_a_write_that_changes_nothing_is_no_change(self, database: SqliteDatabase) -> None:
        watch = database.watch()
        await database.write(lambda c: c.execute("DELETE FROM numbers").fetchall())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(watch)

    async def test_other_processes_commits_are_noticed(self, database: SqliteDatabase) -> None:
        watch = database.watch()
        for number in range(3):
            await asyncio.sleep(0.1)
            with stranger(database) as other:
                other.execute("INSERT INTO numbers VALUES (?)", (number,))
            async with asyncio.timeout(60):
                await anext(watch)

    async def test_it_ends_with_the_database(self, tmp_path: Path) -> None:
        database = await SqliteDatabase.open(tmp_path / "some.db")
        watch = database.watch()
        await database.close()
        async with asyncio.timeout(60):
            assert [None async for _ in watch] == []

    async def test_nobody_watches_nobody_polls(self, database: SqliteDatabase) -> None:
        watches = [database.watch(), database.watch()]
        poller = database._watchers._poller
        assert poller is not None
        del watches
        gc.collect()
        async with asyncio.timeout(60):
            await poller
