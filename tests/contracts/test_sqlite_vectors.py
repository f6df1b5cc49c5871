"""The vector store in SQLite keeps the contract, and what is its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from perdure.databases.sqlite import SqliteDatabase
from perdure.domain.errors import InvalidInput, SchemaMismatch, StoreCorrupt, StoreUnavailable
from perdure.ports.vector_store import VectorCapabilities, VectorStore
from perdure.testing.vector_store import FullTextSuite, VectorStoreContract
from perdure.testing.vector_store.base import (
    NAMESPACE,
    TENANT,
    begun,
    chunks_of,
    found,
    ids,
    make_chunks,
    make_draft,
    published,
    searched,
    seen,
)
from perdure.testing.vector_store.walking import Walk
from perdure.vectors.sqlite import SqliteVectorStore
from perdure.vectors.sqlite.schema import COMPONENT, STEPS, equip


@pytest.mark.slow  # `make check` runs the contract on the store in memory
class TestSqliteVectorStore(VectorStoreContract, FullTextSuite):
    capabilities = VectorCapabilities(durable=True, multi_process=True, full_text=True)
    path: Path

    @pytest_asyncio.fixture
    async def vectors(self, tmp_path: Path) -> AsyncIterator[SqliteVectorStore]:
        self.path = tmp_path / "perdure.db"
        vectors = SqliteVectorStore(self.path)
        await vectors.setup()
        yield vectors
        await vectors.close()
        assert_sound(self.path)

    async def second(self, vectors: VectorStore) -> VectorStore:
        handle = SqliteVectorStore(self.path)
        await handle.setup()
        return handle


def assert_sound(path: Path) -> None:
    """Each chunk must be in all three tables or in none, belong to an edition that is still known, and be counted."""
    connection = apsw.Connection(str(path))
    equip(connection)
    rows = set(connection.execute("SELECT id FROM vector_chunks"))
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING vec0%'").fetchall()
    in_vectors = [row for (name,) in tables for row in connection.execute(f"SELECT rowid FROM {name}")]
    assert len(in_vectors) == len(set(in_vectors))
    assert set(in_vectors) == rows
    assert set(connection.execute("SELECT id FROM vector_words_docsize")) == rows
    assert connection.execute(LOST_CHUNKS).fetchall() == []
    counted = "SELECT id, documents, chunks FROM vector_namespaces ORDER BY id"
    assert connection.execute(counted).fetchall() == connection.execute(RECOUNT).fetchall()
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()


LOST_CHUNKS = """
SELECT c.* FROM vector_chunks c LEFT JOIN vector_documents d ON d.id = c.document
WHERE c.edition IS NOT d.draft AND c.edition IS NOT d.published
      AND (c.document, c.edition) NOT IN (SELECT document, edition FROM vector_dropped)
"""
RECOUNT = """
SELECT n.id, count(DISTINCT d.id), count(c.id) FROM vector_namespaces n
LEFT JOIN vector_documents d ON d.namespace = n.id AND d.published IS NOT NULL
LEFT JOIN vector_chunks c ON c.document = d.id AND c.edition = d.published
GROUP BY n.id ORDER BY n.id
"""


def count(path: Path, table: str) -> int:
    connection = apsw.Connection(str(path))
    number = connection.execute(f"SELECT count(*) FROM {table}").get
    connection.close()
    assert isinstance(number, int)
    return number


@pytest_asyncio.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[SqliteVectorStore]:
    vectors = SqliteVectorStore(tmp_path / "perdure.db")
    await vectors.setup()
    yield vectors
    await vectors.close()
    assert_sound(tmp_path / "perdure.db")


async def test_what_was_published_is_there_after_a_restart(tmp_path: Path) -> None:
    first = SqliteVectorStore(tmp_path / "perdure.db")
    await first.setup()
    draft, chunks = await published(first, source_metadata={"lang": "en"})
    newer = await begun(first, 2)
    await first.upsert(newer, make_chunks(newer, 5)[:2])
    hits = await searched(first)
    await first.close()
    again = SqliteVectorStore(tmp_path / "perdure.db")
    await again.setup()
    assert await searched(again) == hits
    assert await chunks_of(again, draft) == [item.chunk for item in chunks]
    assert len(await again.missing(newer, ids(make_chunks(newer, 5)))) == 3
    await again.close()


async def test_a_database_in_memory_is_private(tmp_path: Path) -> None:
    one, other = SqliteVectorStore(":memory:"), SqliteVectorStore(":memory:")
    assert one.capabilities == VectorCapabilities(durable=False, multi_process=False, full_text=True)
    for store in (one, other):
        await store.setup()
    _, chunks = await published(one, ["marmalade"])
    assert await seen(one) == set(ids(chunks))
    assert len(await found(one, "marmalade")) == 1
    assert await seen(other) == set()
    for store in (one, other):
        await store.close()


async def test_it_shares_the_file_with_others(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "perdure.db")
    await database.migrate("notes", ["CREATE TABLE notes (text TEXT)"])
    store = SqliteVectorStore(tmp_path / "perdure.db")
    await store.setup()
    await database.write(
        lambda connection: connection.execute("INSERT INTO notes VALUES ('here')").fetchall()
    )
    _, chunks = await published(store)
    await database.close()
    assert await seen(store) == set(ids(chunks))
    await store.close()
    assert count(tmp_path / "perdure.db", "notes") == 1


async def test_before_setup_and_after_close_it_is_unavailable(tmp_path: Path) -> None:
    store = SqliteVectorStore(tmp_path / "perdure.db")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.begin(make_draft())
        with pytest.raises(StoreUnavailable):
            await store.namespaces(TENANT)
        await store.setup()
        await published(store, version=1)
        await store.close()
        await store.close()


async def test_close_waits_for_writes_under_way(tmp_path: Path) -> None:
    store = SqliteVectorStore(tmp_path / "perdure.db")
    await store.setup()
    drafts = [await begun(store, id=f"d{number}") for number in range(20)]
    writes = [
        asyncio.create_task(store.publish(draft, ids(make_chunks(draft)), last=make_chunks(draft)))
        for draft in drafts
    ]
    await asyncio.sleep(0)
    await store.close()
    assert [stored.chunk_count for stored in await asyncio.gather(*writes)] == [3] * 20
    assert count(tmp_path / "perdure.db", "vector_chunks") == 60


async def test_an_event_loop_that_is_torn_down_leaves_nobody_waiting(tmp_path: Path) -> None:
    store = SqliteVectorStore(tmp_path / "perdure.db")
    await store.setup()
    writes = [asyncio.create_task(begun(store, id=f"d{number}")) for number in range(3)]
    await asyncio.sleep(0)
    assert store._batches is not None
    assert store._batches._worker is not None
    store._batches._worker.cancel()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
    await store.close()


async def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(tmp_path / "perdure.db")
    await database.migrate(COMPONENT, [*STEPS, "CREATE TABLE from_the_future (text TEXT)"])
    await database.close()
    with pytest.raises(SchemaMismatch):
        await SqliteVectorStore(tmp_path / "perdure.db").setup()


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    path.write_bytes(b"this is a text, and by no means a database\n" * 100)
    with pytest.raises(StoreCorrupt, match=r"perdure\.db"):
        await SqliteVectorStore(path).setup()


@pytest.mark.parametrize("dimension", [0, -1, 8193])
async def test_a_dimension_that_cannot_be_is_refused(vectors: SqliteVectorStore, dimension: int) -> None:
    with pytest.raises(InvalidInput, match="dimension"):
        await vectors.begin(make_draft(dimension=dimension))
    assert await vectors.vectors(make_draft(), ["hash"]) == {}


async def test_small_documents_leave_nothing_to_sweep(vectors: SqliteVectorStore, tmp_path: Path) -> None:
    for version in range(1, 5):
        await published(vectors, 10, version)
        await published(vectors, 10, version, id="gone")
        await vectors.delete(TENANT, NAMESPACE, "gone")
    assert count(tmp_path / "perdure.db", "vector_chunks") == 10
    assert await vectors.sweep(100) == 0


async def test_sweeping_takes_as_much_as_it_is_asked_to(vectors: SqliteVectorStore, tmp_path: Path) -> None:
    await published(vectors, 500, 1)
    draft = await begun(vectors, 2)
    await vectors.upsert(draft, make_chunks(draft, 400))
    await published(vectors, 70, 3)
    await vectors.delete(TENANT, NAMESPACE, "leave", version=2)
    left = count(tmp_path / "perdure.db", "vector_chunks") - 70
    assert left > 600
    swept = []
    while number := await vectors.sweep(150):
        swept.append(number)
    assert sum(swept) == left
    assert swept[:-1] == [150] * (left // 150)
    assert count(tmp_path / "perdure.db", "vector_chunks") == 70


async def test_a_write_that_fails_is_undone_alone(vectors: SqliteVectorStore) -> None:
    huge = make_draft(2**80, id="huge")

    async def run(number: int) -> bool:
        try:
            await (vectors.begin(huge) if number == 3 else published(vectors, 2, id=f"d{number}"))
        except Exception:  # noqa: BLE001  # a number that SQLite cannot hold: whatever comes, it is not ours
            return False
        return True

    assert await asyncio.gather(*(run(number) for number in range(8))) == [number != 3 for number in range(8)]
    assert len(await seen(vectors)) == 14


WRITER = """
import asyncio, sys
from perdure.testing.vector_store.base import published
from perdure.vectors.sqlite import SqliteVectorStore

async def main(path, name, documents):
    vectors = SqliteVectorStore(path)
    await vectors.setup()
    print("ready", flush=True)
    for version in range(1, 1000):
        for number in range(documents):
            texts = [f"{name} v{version} marmalade {piece}" for piece in range(3 + version % 3)]
            await published(vectors, texts, version, id=f"{name}-{number}")
        print(version, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def start_writer(path: Path, name: str, documents: int) -> asyncio.subprocess.Process:
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), name, str(documents), stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"ready\n"
    return writer


async def assert_whole(vectors: VectorStore) -> None:
    """Readers must see of each document one version with all its chunks."""
    for stored in await vectors.documents(TENANT, NAMESPACE, 1000):
        name, version = stored.document.id.split("-")[0], stored.document.version
        texts = [f"{name} v{version} marmalade {piece}" for piece in range(3 + version % 3)]
        assert [
            chunk.chunk_text for chunk in await chunks_of(vectors, make_draft(id=stored.document.id))
        ] == texts
        assert stored.chunk_count == len(texts)


@pytest.mark.fault
async def test_a_process_that_is_killed_leaves_whole_documents(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    vectors = SqliteVectorStore(path)
    await vectors.setup()
    for round_ in range(3):
        writers = [await start_writer(path, f"w{round_}x{number}", 5) for number in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(1 + round_):
                assert await writer.stdout.readline()
        for writer in writers:
            writer.kill()
            await writer.wait()
        await assert_whole(vectors)
    await vectors.close()
    assert_sound(path)


@pytest.mark.slow
async def test_a_long_walk_leaves_the_tables_sound(tmp_path: Path) -> None:
    for seed in range(100, 106):
        path = tmp_path / f"{seed}.db"
        vectors = SqliteVectorStore(path)
        await vectors.setup()
        await Walk(vectors, seed).run(600)
        await vectors.close()
        assert_sound(path)
