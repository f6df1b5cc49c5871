"""Whatever the vector store in PostgreSQL asks while documents come, are found and go, no table is read from end to end.

The statements are those that the store sends, with the values that it sends: one call of each kind is listened to, and
every statement of it explained, with tables in several sizes, after ANALYZE; on smaller tables it does not matter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from perdure.domain.search import SearchQuery, parse_filter
from perdure.testing.vector_store.base import (
    NAMESPACE,
    TENANT,
    begun,
    found,
    ids,
    make_chunks,
    make_vector,
    published,
    searched,
)
from perdure.vectors.pgvector import PgvectorStore, indexes
from tests.servers.postgres import vector_schema
from tests.servers.postgres_plans import scans

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("pgvector")]

TABLES: Final = {"perdure_vector_documents", "perdure_vector_chunks"}
DOCUMENT: Final = {"perdure_vector_documents_namespace_document_id_key", "perdure_vector_documents_pkey"}
EDITION: Final = {f"perdure_vector_chunks_{name}" for name in ("pkey", "by_index", "by_hash")}
"""Each begins with document and edition."""
NEAR: Final = "perdure_vectors_1_8_hnsw_vector"
WORDS: Final = "perdure_vector_chunks_words"

FILL_DOCUMENTS = """
INSERT INTO perdure_vector_documents (namespace, document_id, last_edition, published, version, epoch, content_hash,
    ingestion_id, source_metadata, model, dimension, strategy, chunk_count, complete, published_at)
SELECT n.id, 'doc-' || i, 1, 1, 1, 1, '', '', json_build_object('lang', CASE i % 10 WHEN 0 THEN 'de' ELSE 'en' END),
       n.model, n.dimension, 'words-v1', 10, true, now()
FROM perdure_vector_namespaces n, generate_series(1, $2::integer) AS i WHERE n.name = $1
"""
FILL_CHUNKS = """
INSERT INTO perdure_vector_chunks (document, edition, namespace, dimension, chunk_index, first, past, chunk_id, chunk_hash,
    embedding, chunk_strategy, metadata, chunk_text)
SELECT d.id, 1, d.namespace, d.dimension, i, 0, 9, gen_random_uuid(), sha256((d.id || '-' || i)::bytea),
       ARRAY(SELECT random() - 0.5 + 0 * i FROM generate_series(1, d.dimension))::real[]::vector,
       'words-v1', json_build_object('page', i), 'some text with word' || (d.id * 7 + i) % 3000
FROM perdure_vector_documents d, generate_series(1, 10) AS i WHERE d.document_id LIKE 'doc-%'
"""
COUNT = """
UPDATE perdure_vector_namespaces n SET (documents, chunks) =
    (SELECT count(*), sum(chunk_count) FROM perdure_vector_documents d WHERE d.namespace = n.id AND d.published IS NOT NULL)
"""


@pytest_asyncio.fixture
async def vectors(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PgvectorStore]:
    """On one connection, to which a test can listen; how well an index was built changes no plan."""
    monkeypatch.setattr(indexes, "HNSW", "m = 32, ef_construction = 64")
    async with vector_schema(postgres_url) as url:
        store = PgvectorStore(f"{url}&pool_size=1&index=off")
        await store.setup()
        yield store
        await store.close()


async def fill(vectors: PgvectorStore, sizes: dict[str, int]) -> None:
    """Fill namespaces with so many documents of ten chunks; of the first one build the index."""
    for name in sizes:
        await published(vectors, 1, id="first", namespace=name)

    async def work(connection: Any) -> None:
        for name, number in sizes.items():
            await connection.execute(FILL_DOCUMENTS, name, number, timeout=600)
        await connection.execute(FILL_CHUNKS, timeout=600)
        await connection.execute(COUNT, timeout=600)

    await vectors._database.run(work)
    await vectors.build_index(TENANT, NAMESPACE, "hnsw")
    await vectors._database.run(lambda connection: connection.execute("ANALYZE", timeout=600))
    vectors._searching._places.clear()


async def ways(vectors: PgvectorStore, call: Callable[[], Awaitable[Any]]) -> set[str]:
    """What all statements of a call go by."""
    heard: list[tuple[str, tuple[Any, ...]]] = []

    def listen(logged: asyncpg.connection.LoggedQuery) -> None:
        if any(table in logged.query for table in TABLES) and not logged.query.startswith("COPY"):
            heard.append((logged.query, logged.args))

    async def start(connection: Any) -> None:
        connection.add_query_logger(listen)

    async def explain(connection: Any) -> set[str]:
        connection.remove_query_logger(listen)
        return set().union(*[await scans(connection, *each, TABLES) for each in heard])

    await vectors._database.run(start)
    await call()
    await asyncio.sleep(0)  # asyncpg tells its listeners in the loop's next turn
    return await vectors._database.run(explain)


async def assert_plans(vectors: PgvectorStore) -> None:
    """Every call of the store must go by the indexes that are meant for it."""
    place = (TENANT, NAMESPACE, "doc-7")
    german = parse_filter({"lang": "de"})

    async def expect(what: str, expected: set[str], call: Callable[[], Awaitable[Any]]) -> None:
        gone_by = await ways(vectors, call)
        assert gone_by, what
        assert gone_by <= expected, what

    def query(**over: Any) -> SearchQuery:
        return SearchQuery(tenant=TENANT, namespace=NAMESPACE, vector=make_vector("near"), **over)

    await expect("search", {NEAR, *DOCUMENT}, lambda: vectors.search(query()))
    await expect("search, filtered", {NEAR, *DOCUMENT}, lambda: vectors.search(query(where=german)))
    some = ("doc-3", "doc-5")
    by_document = {*DOCUMENT, *EDITION}
    await expect("search in documents", by_document, lambda: vectors.search(query(document_ids=some)))
    await expect("exact search", by_document, lambda: searched(vectors, namespace="small", limit=10))
    by_words = {WORDS, *DOCUMENT, *EDITION}
    await expect("words", by_words, lambda: found(vectors, "text word17", limit=10))
    await expect("words, filtered", by_words, lambda: found(vectors, "word17", limit=10, where=german))
    await expect("document", DOCUMENT, lambda: vectors.document(*place))
    await expect("documents", DOCUMENT, lambda: vectors.documents(TENANT, NAMESPACE, 50, "doc-5"))
    await expect("chunks", by_document, lambda: vectors.chunks(*place, 5, 3))

    draft = await begun(vectors, 2, id="doc-7")
    chunks = make_chunks(draft, 20)
    hashes = [each.chunk.chunk_hash for each in chunks]
    await expect("begin", DOCUMENT, lambda: begun(vectors, 2, 2, id="doc-9"))
    await expect("missing", by_document, lambda: vectors.missing(draft, ids(chunks)))
    await expect("vectors", by_document, lambda: vectors.vectors(draft, hashes))
    for what in ("upsert", "upsert again"):
        await expect(what, by_document, lambda: vectors.upsert(draft, chunks[:10]))
    await expect("publish", by_document, lambda: vectors.publish(draft, ids(chunks), last=chunks[10:]))
    await expect("delete one ingestion", by_document, lambda: vectors.delete(*place, version=2))
    large = await begun(vectors, id="large")
    many = make_chunks(large, 200)
    await vectors.publish(large, ids(many), last=many)
    await vectors.delete(TENANT, NAMESPACE, "large")
    await expect("sweep", by_document, lambda: vectors.sweep(100))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("documents", [3_000, 6_000])
async def test_no_call_reads_a_table_from_end_to_end(vectors: PgvectorStore, documents: int) -> None:
    await fill(vectors, {NAMESPACE: documents, "other": documents // 3, "small": 20})
    await assert_plans(vectors)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_no_call_reads_a_table_from_end_to_end_with_220_000_chunks(vectors: PgvectorStore) -> None:
    await fill(vectors, {NAMESPACE: 8_000, "other": 14_000, "small": 20})
    await assert_plans(vectors)


def rows_read(node: dict[str, Any]) -> float:
    """How many documents were looked at."""
    mine = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    own = mine if node.get("Relation Name") == "perdure_vector_documents" else 0
    return float(own + sum(rows_read(child) for child in node.get("Plans", [])))


async def test_a_write_looks_at_its_own_documents_only_while_nothing_is_known_of_the_table(
    vectors: PgvectorStore,
) -> None:
    """The planner takes it for small then, whatever came in since."""
    await published(vectors, 1, id="first")
    names = [f"doc-{number}" for number in range(100, 120)]

    async def work(connection: Any) -> Any:
        await connection.execute(FILL_DOCUMENTS, NAMESPACE, 3000, timeout=600)
        [row] = await connection.fetch("SELECT id FROM perdure_vector_namespaces WHERE name = $1", NAMESPACE)
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {vectors._queries['lock_heads']}"
        return await connection.fetchval(explain, [row["id"]] * len(names), names)

    [told] = json.loads(await vectors._database.run(work, atomic=True))
    assert rows_read(told["Plan"]) == len(names)
