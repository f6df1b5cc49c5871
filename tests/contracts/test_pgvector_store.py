"""The vector store in PostgreSQL keeps the contract, and what is its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.domain.errors import InvalidInput, ModelMismatch, NotFound, StoreError, StoreUnavailable
from perdure.domain.search import SearchQuery, parse_filter
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
    make_vector,
    published,
    searched,
    seen,
)
from perdure.testing.vector_store.filtering import FilterSuite
from perdure.testing.vector_store.publishing import PublishSuite
from perdure.testing.vector_store.sharing import SharingSuite
from perdure.testing.vector_store.sweeping import SweepSuite
from perdure.vectors.pgvector import PgvectorStore
from perdure.vectors.pgvector.indexes import Kind
from perdure.vectors.pgvector.searching import Searching
from perdure.vectors.pgvector.store import check_extension
from tests.servers.postgres import fresh_database, postgres_server, vector_schema
from tests.servers.postgres_pooler import transaction_pooler

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("pgvector")]


async def opened(url: str) -> PgvectorStore:
    store = PgvectorStore(url)
    await store.setup()
    return store


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with vector_schema(postgres_url) as url:
        yield url


class TestPgvectorStore(VectorStoreContract, FullTextSuite):
    capabilities = VectorCapabilities(durable=True, multi_process=True, full_text=True)
    url: str

    @pytest_asyncio.fixture
    async def vectors(self, url: str) -> AsyncIterator[PgvectorStore]:
        self.url = url
        store = await opened(url)
        yield store
        await store.close()

    async def second(self, vectors: VectorStore) -> VectorStore:
        return await opened(self.url)


# --- what goes beyond the contract ------------------------------------------------------------


@pytest_asyncio.fixture
async def vectors(url: str) -> AsyncIterator[PgvectorStore]:
    store = await opened(url)
    yield store
    await store.close()
    await assert_sound(url)


async def fetch(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def assert_sound(url: str) -> None:
    """Each chunk must belong to an edition that is known, and the counts be right."""
    assert await fetch(url, LOST_CHUNKS) == []
    assert await fetch(url, COUNTED) == await fetch(url, RECOUNTED)


LOST_CHUNKS = """
SELECT c.document, c.edition FROM perdure_vector_chunks c
LEFT JOIN perdure_vector_documents d ON d.id = c.document AND c.edition IN (d.draft, d.published)
WHERE d.id IS NULL AND (c.document, c.edition) NOT IN (SELECT document, edition FROM perdure_vector_dropped)
"""
COUNTED = "SELECT id, documents, chunks FROM perdure_vector_namespaces ORDER BY id"
RECOUNTED = """
SELECT n.id, count(DISTINCT d.id), count(c.chunk_id) FROM perdure_vector_namespaces n
LEFT JOIN perdure_vector_documents d ON d.namespace = n.id AND d.published IS NOT NULL
LEFT JOIN perdure_vector_chunks c ON c.document = d.id AND c.edition = d.published
GROUP BY n.id ORDER BY n.id
"""


async def fill(vectors: PgvectorStore, documents: int, chunks: int, **over: Any) -> None:
    """Documents of which a tenth is German."""

    async def one(number: int) -> None:
        language = "de" if number % 10 == 0 else "en"
        await published(vectors, chunks, id=f"d{number}", source_metadata={"lang": language}, **over)

    await asyncio.gather(*(one(number) for number in range(documents)))


def query(near: object, **over: Any) -> SearchQuery:
    return SearchQuery(tenant=TENANT, namespace=NAMESPACE, vector=make_vector(near, 32), **over)


async def built(vectors: PgvectorStore) -> None:
    """Wait until what a sweep found to be due is built."""
    assert vectors._indexes._building is not None
    await vectors._indexes._building


async def plan_of(vectors: PgvectorStore, wanted: SearchQuery) -> str:
    """The plan of the statement that answers the query first."""
    told: list[str] = []
    run = vectors._searching._fetch

    async def explain(statement: str, *values: object, **settings: Any) -> list[Any]:
        if "<=>" in statement:
            told.append("\n".join(row[0] for row in await run(f"EXPLAIN {statement}", *values, **settings)))
        return await run(statement, *values, **settings)

    vectors._searching._fetch = explain  # type: ignore[method-assign]
    await vectors.search(wanted)
    vectors._searching._fetch = run  # type: ignore[method-assign]
    return told[0]


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat", "hnsw-half", "ivfflat-half"])
async def test_a_large_namespace_is_searched_by_its_index(
    url: str, vectors: PgvectorStore, kind: str
) -> None:
    await fill(vectors, 400, 10, dimension=32)
    await published(vectors, 3, namespace="small", dimension=32)
    wanted = [query(f"query {number}", limit=10) for number in range(20)]
    exact = [await vectors.search(each) for each in wanted]
    await vectors.build_index(TENANT, NAMESPACE, kind)
    assert [(index.kind, index.ready, index.phase) for index in await vectors.indexes(TENANT, NAMESPACE)] == [
        (kind, True, None)
    ]
    await fetch(url, "ANALYZE")
    # One that does not remember how it was before; to look hard would cost more than to compare all of so few.
    vectors = await opened(f"{url}&ef_search=40&probes=2")
    assert "perdure_vectors_1_32_" in await plan_of(vectors, wanted[0])
    found = [await vectors.search(replace(each, effort=200)) for each in wanted]
    right = sum(
        len({a.chunk_id for a in x} & {b.chunk_id for b in y}) for x, y in zip(exact, found, strict=True)
    )
    assert right >= 190, "recall of 0.95 where the points lie anywhere"
    for hits in found:
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for before, after in zip(exact, found, strict=True):
        scores = {hit.chunk_id: hit.score for hit in before}
        for hit in after:
            assert abs(hit.score - scores.get(hit.chunk_id, hit.score)) < 1e-6, (
                "exact, whatever the index keeps"
            )
    await vectors.close()


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat"])
async def test_a_filter_never_leaves_a_search_short(vectors: PgvectorStore, url: str, kind: str) -> None:
    await fill(vectors, 400, 10, dimension=32)
    await published(vectors, 5, id="rare", dimension=32, source_metadata={"lang": "rm"})
    await vectors.build_index(TENANT, NAMESPACE, kind)
    await fetch(url, "ANALYZE")
    vectors = await opened(url)
    for number in range(10):
        for language, there in (("de", 400), ("rm", 5), ("fr", 0)):
            for limit in (10, 100):
                where = parse_filter({"lang": language})
                hits = await vectors.search(query(number, where=where, limit=limit))
                assert len(hits) == min(limit, there)
                assert {hit.metadata["lang"] for hit in hits} <= {language}
        some = await vectors.search(query(number, document_ids=("d7", "d8"), limit=15))
        assert len(some) == 15
    await vectors.close()


class TestFiltersThatLeaveFew(FilterSuite):
    """As if each namespace had an index, and every filter left few: what it leaves is compared, documents first."""

    capabilities = VectorCapabilities(durable=True, multi_process=True, full_text=True)

    @pytest_asyncio.fixture
    async def vectors(self, url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PgvectorStore]:
        find = Searching._place

        async def indexed(self: Searching, query: SearchQuery, fresh: float) -> Any:
            place = await find(self, query, fresh)
            return place and place._replace(kind=Kind("hnsw", "vector"))

        monkeypatch.setattr(Searching, "_place", indexed)
        monkeypatch.setattr("perdure.vectors.pgvector.searching.FEW_PART", 1)
        store = await opened(url)
        yield store
        await store.close()


NEAR = "_hnsw_vector"


async def test_a_filter_that_leaves_few_is_answered_without_the_index(vectors: PgvectorStore) -> None:
    await fill(vectors, 200, 10, dimension=32)
    rare, _ = await published(vectors, 5, id="rare", dimension=32, source_metadata={"lang": "rm"})
    await vectors.build_index(TENANT, NAMESPACE, "hnsw")
    few = query("anything", where=parse_filter({"lang": "rm"}), limit=10)
    assert NEAR not in await plan_of(vectors, few)
    assert NEAR in await plan_of(vectors, query("anything", where=parse_filter({"lang": "en"})))
    assert NEAR in await plan_of(vectors, query("anything", where=parse_filter({"page": 3})))
    assert [hit.document_id for hit in await vectors.search(few)] == [rare.document.id] * 5


async def test_drafts_and_old_versions_do_not_crowd_the_index(vectors: PgvectorStore, url: str) -> None:
    await fill(vectors, 40, 10, dimension=32)
    for version in range(1, 4):
        await published(vectors, ["near"] * 300, version, id="near", dimension=32)
    await vectors.delete(TENANT, NAMESPACE, "near")
    await vectors.build_index(TENANT, NAMESPACE, "hnsw")
    assert len(await vectors.search(query("near", limit=100))) == 100


async def test_an_index_comes_by_itself_once_a_load_is_done(url: str) -> None:
    vectors = await opened(f"{url}&index_rows=50")
    await fill(vectors, 10, 6)
    assert await vectors.sweep(10) == 0
    await built(vectors)
    assert await vectors.indexes(TENANT, NAMESPACE) == [], "the load goes on, for all that is known"
    await fetch(url, "UPDATE perdure_vector_namespaces SET changed_at = changed_at - interval '1 minute'")
    await vectors.sweep(10)
    await built(vectors)
    [index] = await vectors.indexes(TENANT, NAMESPACE)
    assert (index.kind, index.ready) == ("hnsw", True)
    await fill(vectors, 100, 6, namespace="huge")
    await vectors.sweep(10)
    await built(vectors)
    assert [index.ready for index in await vectors.indexes(TENANT, "huge")] == [True]
    await vectors.close()


async def test_what_was_chosen_for_a_namespace_stays(url: str) -> None:
    vectors = await opened(f"{url}&index_rows=50&index=ivfflat")
    await fill(vectors, 10, 6)
    await vectors.build_index(TENANT, NAMESPACE)
    assert [index.kind for index in await vectors.indexes(TENANT, NAMESPACE)] == ["ivfflat"]
    await vectors.build_index(TENANT, NAMESPACE, "hnsw-half")
    await vectors.build_index(TENANT, NAMESPACE)
    assert [index.kind for index in await vectors.indexes(TENANT, NAMESPACE)] == ["hnsw-half"]
    await vectors.build_index(TENANT, NAMESPACE, "off")
    await fetch(url, "UPDATE perdure_vector_namespaces SET changed_at = changed_at - interval '1 minute'")
    await vectors.sweep(10)
    await built(vectors)
    assert await vectors.indexes(TENANT, NAMESPACE) == []
    with pytest.raises(InvalidInput, match="hnsw, ivfflat"):
        await vectors.build_index(TENANT, NAMESPACE, "btree")
    with pytest.raises(NotFound):
        await vectors.build_index(TENANT, "nowhere")
    await vectors.close()


async def test_an_index_that_was_left_unfinished_is_built_anew(url: str, vectors: PgvectorStore) -> None:
    await fill(vectors, 10, 6)
    await vectors.build_index(TENANT, NAMESPACE, "hnsw")
    await fetch(
        url,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'perdure_vectors_1_8_hnsw_vector'::regclass",
    )
    assert [index.ready for index in await vectors.indexes(TENANT, NAMESPACE)] == [False]
    await vectors.build_index(TENANT, NAMESPACE)
    assert [index.ready for index in await vectors.indexes(TENANT, NAMESPACE)] == [True]


async def test_another_model_gets_an_index_of_its_own(url: str, vectors: PgvectorStore) -> None:
    await fill(vectors, 10, 6)
    await vectors.build_index(TENANT, NAMESPACE)
    for number in range(10):
        await vectors.delete(TENANT, NAMESPACE, f"d{number}")
    await published(vectors, 20, 2, id="d1", model="model-b", dimension=32)
    assert len(await vectors.search(query("x", limit=20))) == 20
    await vectors.build_index(TENANT, NAMESPACE)
    names = await fetch(
        url, "SELECT relname FROM pg_class WHERE relname LIKE 'perdure\\_vectors\\_1\\_%' ORDER BY 1"
    )
    assert [row["relname"] for row in names] == ["perdure_vectors_1_32_hnsw_vector"]
    assert len(await vectors.search(query("x", limit=20))) == 20


@pytest.mark.parametrize(("dimension", "kind"), [(2000, "hnsw"), (2001, "hnsw-half"), (4001, None)])
async def test_long_vectors(url: str, vectors: PgvectorStore, dimension: int, kind: str | None) -> None:
    await published(vectors, 5, dimension=dimension)
    await vectors.build_index(TENANT, NAMESPACE)
    there = await vectors.indexes(TENANT, NAMESPACE)
    assert [index.kind for index in there] == ([kind] if kind else [])
    vector = make_vector("piece 3 of leave", dimension)
    hits = await vectors.search(SearchQuery(tenant=TENANT, namespace=NAMESPACE, vector=vector, limit=5))
    assert (len(hits), hits[0].chunk_index) == (5, 3)


@pytest.mark.parametrize("dimension", [0, -1, 16_001])
async def test_a_dimension_that_cannot_be_is_refused(vectors: PgvectorStore, dimension: int) -> None:
    with pytest.raises(InvalidInput, match="dimension"):
        await vectors.begin(make_draft(dimension=dimension))


async def test_what_was_published_is_there_after_a_restart(url: str, vectors: PgvectorStore) -> None:
    draft, chunks = await published(vectors, source_metadata={"lang": "en"})
    newer = await begun(vectors, 2)
    await vectors.upsert(newer, make_chunks(newer, 5)[:2])
    hits = await searched(vectors)
    await vectors.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await vectors.begin(newer)
    again = await opened(url)
    assert await searched(again) == hits
    assert await chunks_of(again, draft) == [item.chunk for item in chunks]
    assert len(await again.missing(newer, ids(make_chunks(newer, 5)))) == 3
    await again.close()


async def test_nul_in_a_text_keeps_its_place_and_in_metadata_is_refused(vectors: PgvectorStore) -> None:
    draft, _ = await published(vectors, ["before\0after"])
    [chunk] = await chunks_of(vectors, draft)
    assert (chunk.chunk_text, chunk.end) == ("before\ufffdafter", len("before\0after"))
    assert len(await found(vectors, "after")) == 1
    with pytest.raises(InvalidInput, match="NUL"):
        await begun(vectors, id="odd", source_metadata={"author": "a\0b"})
    with pytest.raises(InvalidInput, match="NUL"):
        await published(vectors, 1, id="odd", chunk_metadata={"page": "a\0b"})
    await published(vectors, 1, id="odd", version=2)


async def test_the_view_for_queries_by_hand(url: str, vectors: PgvectorStore) -> None:
    draft, [chunk] = await published(vectors, ["one text"], source_metadata={"lang": "en"})
    [row] = await fetch(url, "SELECT *, embedding::text AS shown FROM perdure_chunks")
    assert (row["tenant"], row["namespace"], row["document_id"]) == (TENANT, NAMESPACE, "leave")
    assert (row["document_version"], row["ingestion_id"]) == (1, draft.document.ingestion_id)
    assert (str(row["chunk_id"]), row["chunk_index"]) == (chunk.chunk.chunk_id, 0)
    assert (row["chunk_hash"], row["chunk_text"]) == (chunk.chunk.chunk_hash, "one text")
    assert (row["chunk_strategy"], row["source_metadata"]) == ("words-v1", '{"lang":"en"}')


async def test_common_words_are_left_out_only_where_others_find_enough(
    url: str, vectors: PgvectorStore
) -> None:
    await published(vectors, [f"the leave of number{number}" for number in range(200)])
    await published(vectors, ["the canteen"], id="canteen")
    await fetch(url, "ANALYZE")
    assert [hit.chunk_text for hit in await found(vectors, "the canteen", limit=1)] == ["the canteen"]
    hits = await found(vectors, "the canteen")
    assert (len(hits), hits[0].chunk_text) == (201, "the canteen")


async def test_large_editions_are_swept_in_bites(url: str, vectors: PgvectorStore) -> None:
    await published(vectors, 500, 1)
    draft = await begun(vectors, 2)
    await vectors.upsert(draft, make_chunks(draft, 400))
    await published(vectors, 70, 3)
    await assert_sound(url)
    swept = []
    while number := await vectors.sweep(150):
        swept.append(number)
    assert swept == [150] * 6
    [row] = await fetch(url, "SELECT count(*) FROM perdure_vector_chunks")
    assert row["count"] == 70


async def test_publishing_in_one_namespace_by_two_models_at_once(url: str, vectors: PgvectorStore) -> None:
    """The namespace decides, whoever asked first: nobody's vectors come to lie among another model's."""
    other = await opened(url)
    drafts = [make_draft(id=f"d{number}", model=f"model-{number % 2}") for number in range(8)]
    handles = [(vectors, other)[number % 2] for number in range(8)]
    for handle, draft in zip(handles, drafts, strict=True):
        await handle.begin(draft)
    outcomes = await asyncio.gather(
        *(
            handle.publish(draft, ids(make_chunks(draft)), last=make_chunks(draft))
            for handle, draft in zip(handles, drafts, strict=True)
        ),
        return_exceptions=True,
    )
    refused = [isinstance(outcome, ModelMismatch) for outcome in outcomes]
    assert refused in ([True, False] * 4, [False, True] * 4)
    assert (await vectors.namespaces(TENANT))[0].documents == 4
    await other.close()


class TestBehindAPooler(PublishSuite, SharingSuite, SweepSuite):
    """Every transaction on another connection: no prepared statement and no setting outlives one."""

    capabilities = VectorCapabilities(durable=True, multi_process=True, full_text=True)
    url: str

    @pytest_asyncio.fixture
    async def vectors(self, url: str) -> AsyncIterator[PgvectorStore]:
        port = urlsplit(url).port
        assert port is not None
        async with transaction_pooler(port) as (_, front):
            self.url = url.replace(f":{port}/", f":{front}/") + "&pooler=transaction"
            store = await opened(self.url)
            yield store
            await store.close()

    async def second(self, vectors: VectorStore) -> VectorStore:
        return await opened(self.url)


# --- coming up ------------------------------------------------------------------------------------


async def refusal(url: str) -> str:
    store = PgvectorStore(url)
    with pytest.raises(StoreError) as caught:
        await store.setup()
    await store.close()
    return str(caught.value)


async def test_many_replicas_make_extension_and_tables_at_once(postgres_url: str) -> None:
    async with fresh_database(postgres_url) as url:
        stores = [PgvectorStore(url) for _ in range(8)]
        await asyncio.gather(*(store.setup() for store in stores))
        await published(stores[0])
        assert len(await seen(stores[7])) == 3
        for store in stores:
            await store.close()


async def test_a_user_who_may_not_create_the_extension_is_told_who_may(postgres_url: str) -> None:
    async with fresh_database(postgres_url) as url:
        await fetch(url, "DROP ROLE IF EXISTS perdure_humble")
        await fetch(url, "CREATE ROLE perdure_humble LOGIN")
        await fetch(url, "GRANT ALL ON SCHEMA public TO perdure_humble")
        humble = url.replace("postgres@", "perdure_humble@")
        assert "let a superuser run CREATE EXTENSION vector" in await refusal(humble)
        await fetch(url, "CREATE EXTENSION vector")
        store = await opened(humble)
        await published(store)
        await store.close()


async def test_without_leave_to_migrate_it_says_what_to_run(url: str) -> None:
    assert "perdure store init" in await refusal(f"{url}&migrate=off")


async def test_an_extension_off_the_search_path_is_named(url: str) -> None:
    assert "'public', which is not on the search_path" in await refusal(url.removesuffix(",public"))


@pytest.mark.parametrize(
    ("version", "available", "remedy"),
    [
        (None, None, "postgresql-NN-pgvector"),
        ("0.7.4", "0.8.1", "ALTER EXTENSION vector UPDATE"),
        (None, "0.5.0", "ALTER EXTENSION vector UPDATE"),
    ],
)
def test_an_extension_that_is_missing_or_old(version: str | None, available: str | None, remedy: str) -> None:
    facts = {"version": version, "available": available, "at_hand": version is not None, "place": None}
    with pytest.raises(StoreError, match=remedy) as caught:
        check_extension("PostgreSQL at host/db", facts)
    assert "PERDURE_VECTORS" in str(caught.value)


def test_an_index_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="hnsw-half"):
        PgvectorStore("postgresql://ann@host/db?index=btree")


# --- dying ----------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from perdure.testing.vector_store.base import published
from perdure.vectors.pgvector import PgvectorStore

async def main(url, name):
    vectors = PgvectorStore(url)
    await vectors.setup()
    print("ready", flush=True)

    async def write(number, version):
        texts = [f"{name} v{version} marmalade {piece}" for piece in range(3 + version % 3)]
        await published(vectors, texts, version, id=f"{name}-{number}")

    for version in range(1, 1000):
        await asyncio.gather(*(write(number, version) for number in range(5)))
        print(version, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def start_writer(url: str, name: str) -> asyncio.subprocess.Process:
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, name, stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"ready\n"
    return writer


async def assert_whole(vectors: PgvectorStore) -> int:
    """Readers must see of each document one version with all its chunks; how many documents there are."""
    documents = await vectors.documents(TENANT, NAMESPACE, 1000)
    pages = [await vectors.chunks(TENANT, NAMESPACE, stored.document.id, 100) for stored in documents]
    if await vectors.documents(TENANT, NAMESPACE, 1000) != documents:
        return await assert_whole(vectors)  # the server still did what a killed process had asked for
    for stored, page in zip(documents, pages, strict=True):
        name, version = stored.document.id.split("-")[0], stored.document.version
        texts = [f"{name} v{version} marmalade {piece}" for piece in range(3 + version % 3)]
        assert [chunk.chunk_text for chunk in page] == texts
        assert stored.chunk_count == len(texts)
    return len(documents)


@pytest.mark.fault
async def test_processes_that_are_killed_leave_whole_documents(url: str, vectors: PgvectorStore) -> None:
    for round_ in range(3):
        writers = [await start_writer(url, f"w{round_}x{number}") for number in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(1 + round_):
                assert await writer.stdout.readline()
        for writer in writers:
            writer.kill()
            await writer.wait()
        assert await assert_whole(vectors) == 10 * (round_ + 1)


@pytest.mark.fault
async def test_a_server_that_is_killed_loses_nothing_that_was_said_to_be_there() -> None:
    with postgres_server() as server:
        vectors = await opened(server.url)
        told: dict[str, int] = {}

        async def write(number: int) -> None:
            with suppress(StoreUnavailable):
                for version in range(1, 1000):
                    texts = [f"d v{version} marmalade {piece}" for piece in range(3 + version % 3)]
                    await published(vectors, texts, version, id=f"d-{number}")
                    told[f"d-{number}"] = version

        writing = asyncio.gather(*(write(number) for number in range(10)))
        while len(told) < 10:
            await asyncio.sleep(0.01)
        server.kill()
        await writing
        server.start()
        assert await assert_whole(vectors) == 10
        for stored in await vectors.documents(TENANT, NAMESPACE, 100):
            assert stored.document.version - told[stored.document.id] in {0, 1}
        await vectors.close()
        await assert_sound(server.url)
