"""Drift that somebody planted is found in every vector store, and mended while searches run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

import perdure
from perdure.app import App
from perdure.embedders.hashing import HashingEmbedder
from perdure.pipeline.vectorize import Vectorizer
from perdure.ports.embedder import Purpose
from perdure.vectors.memory import MemoryVectorStore
from perdure.vectors.sqlite.schema import equip
from perdure.verification import Drift
from tests.servers.pinecone_peer import PineconePeer, Record, serving
from tests.servers.postgres import vector_schema

pytestmark = [pytest.mark.timeout(120)]

EMBEDDER = "python:tests.contracts.test_verification:Counting"
PARTS = 4


class Counting(HashingEmbedder):
    """Notes the texts of documents that it reads."""

    read: list[str] = []  # noqa: RUF012 - all look here

    def __init__(self) -> None:
        super().__init__(dimension=16)

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Any:
        self.read.extend(texts if purpose == "document" else ())
        return await super().embed(texts, purpose)


def text_of(name: str) -> str:
    return "\n\n".join(f"# Part {n}\n\npart {n} of {name} tells of leave" for n in range(PARTS))


# --- planting -------------------------------------------------------------------------------

IN_SQLITE = {
    "chunk": "DELETE FROM vector_embeddings_16 WHERE rowid IN (SELECT id FROM vector_chunks WHERE document = 1 AND chunk_index = 2);"
    "DELETE FROM vector_chunks WHERE document = 1 AND chunk_index = 2",
    "vector": "DELETE FROM vector_embeddings_16 WHERE rowid IN (SELECT id FROM vector_chunks WHERE document = 1 AND chunk_index = 2)",
    "all": "DELETE FROM vector_embeddings_16 WHERE rowid IN (SELECT id FROM vector_chunks WHERE document = 1);"
    "DELETE FROM vector_chunks WHERE document = 1",
    "orphan": "INSERT INTO vector_embeddings_16 (rowid, namespace, embedding) SELECT 900, namespace, embedding "
    "FROM vector_embeddings_16 WHERE rowid = 1",
    "second": "INSERT INTO vector_chunks SELECT id + 900, document, 77, chunk_id, chunk_index, hash, strategy, first, past, "
    "metadata, text FROM vector_chunks WHERE document = 1; INSERT INTO vector_embeddings_16 (rowid, namespace, embedding) "
    "SELECT c.id + 900, v.namespace, v.embedding FROM vector_chunks c JOIN vector_embeddings_16 v ON v.rowid = c.id "
    "WHERE c.document = 1 AND c.edition <> 77",
    "counts": "UPDATE vector_namespaces SET documents = documents + 2, chunks = chunks - 1",
    "lost": "DELETE FROM vector_embeddings_16 WHERE rowid IN (SELECT id FROM vector_chunks WHERE document = 1);"
    "DELETE FROM vector_chunks WHERE document = 1; DELETE FROM vector_documents WHERE id = 1;"
    f"UPDATE vector_namespaces SET documents = documents - 1, chunks = chunks - {PARTS}",
}
_DOCUMENT = "(SELECT id FROM perdure_vector_documents WHERE document_id = 'a')"
_COLUMNS = "namespace, dimension, chunk_index, first, past, chunk_id, chunk_hash, embedding, chunk_strategy, chunk_text"
IN_POSTGRES = {
    "chunk": f"DELETE FROM perdure_vector_chunks WHERE document = {_DOCUMENT} AND chunk_index = 2",
    "all": f"DELETE FROM perdure_vector_chunks WHERE document = {_DOCUMENT}",
    "orphan": f"INSERT INTO perdure_vector_chunks (document, edition, {_COLUMNS}) SELECT 900, 1, {_COLUMNS} "
    f"FROM perdure_vector_chunks WHERE document = {_DOCUMENT}",
    "second": f"INSERT INTO perdure_vector_chunks (document, edition, {_COLUMNS}) SELECT document, 77, {_COLUMNS} "
    f"FROM perdure_vector_chunks WHERE document = {_DOCUMENT}",
    "counts": "UPDATE perdure_vector_namespaces SET documents = documents + 2, chunks = chunks - 1",
    "lost": f"DELETE FROM perdure_vector_chunks WHERE document = {_DOCUMENT};"
    "DELETE FROM perdure_vector_documents WHERE document_id = 'a';"
    f"UPDATE perdure_vector_namespaces SET documents = documents - 1, chunks = chunks - {PARTS}",
}


def in_pinecone(peer: PineconePeer, drift: str) -> None:
    """Change the records of document a as if somebody else did."""
    control, space, key = "perdure/default", "perdure/default/default", b"a".hex()
    chunks = {name: one for name, one in sorted(peer.newest(space).items()) if name.startswith(f"{key}/")}
    facts = {
        name: one
        for name, one in peer.newest(control).items()
        if name.startswith(("m/", "h/")) and f"/{key}" in name
    }
    gone: dict[str, list[str]] = {
        "chunk": [list(chunks)[2]],
        "all": list(chunks),
        "lost": [*chunks, *facts],
        "head": [name for name in facts if name.startswith("h/")],
    }
    for where in (space, control):
        for name in gone.get(drift, ()):
            peer.remove(where, name)
    for name, one in chunks.items():
        _, _, rest = name.split("/", 2)
        copies = {"orphan": f"{b'nobody'.hex()}/1.1.1.x/", "second": f"{key}/0.0.7.x/"}
        if drift in copies:
            about = {"edition": copies[drift], "document": copies[drift].split("/")[0]}
            peer.put(space, copies[drift] + rest, Record(one.values, one.metadata | about))


def in_memory(vectors: MemoryVectorStore, drift: str) -> None:
    """Take chunks out of document a, or the document out of its shelf."""
    shelf = vectors._shelves["default", "default"]
    if drift == "lost":
        del shelf.entries["a"]
    elif (edition := shelf.entries["a"].published) is not None:
        for place, chunk_id in enumerate(list(edition.chunks)):
            if drift == "all" or place == 2:
                del edition.chunks[chunk_id]
    shelf.changed()


@asynccontextmanager
async def opened(brand: str, request: pytest.FixtureRequest, drift: str) -> AsyncIterator[tuple[App, Any]]:
    """An app, and what plants the drift in its vectors."""
    settings: dict[str, Any] = {"embedder": EMBEDDER, "poll_seconds": 0.02}
    async with AsyncExitStack() as stack:
        match brand:
            case "sqlite":
                path = request.getfixturevalue("tmp_path") / "vectors.db"
                url = f"sqlite:///{path}"
            case "postgresql":
                url = await stack.enter_async_context(vector_schema(request.getfixturevalue("postgres_url")))
            case "pinecone":
                peer = await stack.enter_async_context(serving(PineconePeer(dimension=16)))
                url = peer.url
            case _:
                url = "memory:"
        app = await stack.enter_async_context(perdure.open("memory:", vectors=url, **settings))

        async def plant() -> None:
            if brand == "sqlite":
                connection = apsw.Connection(str(path))
                equip(connection)
                connection.execute(IN_SQLITE[drift])
                connection.close()
            elif brand == "postgresql":
                connected = await asyncpg.connect(url)
                await connected.execute(IN_POSTGRES[drift])
                await connected.close()
            elif brand == "pinecone":
                in_pinecone(peer, drift)
            else:
                assert isinstance(app.vectors, MemoryVectorStore)
                in_memory(app.vectors, drift)

        yield app, plant


EXPECTED = {
    "chunk": "chunks",
    "vector": "vectors",
    "all": "chunks",
    "orphan": "surplus",
    "second": "surplus",
    "counts": "counts",
    "lost": "lost",
    "head": "lost",
}
SERVER = [pytest.mark.server, pytest.mark.xdist_group("pgvector")]
CASES = [
    *(pytest.param("memory", drift) for drift in ("chunk", "all", "lost")),
    *(pytest.param("sqlite", drift) for drift in IN_SQLITE),
    *(pytest.param("postgresql", drift, marks=SERVER) for drift in IN_POSTGRES),
    *(
        pytest.param("pinecone", drift, marks=pytest.mark.slow)
        for drift in ("chunk", "all", "orphan", "second", "lost", "head")
    ),
]


@pytest.mark.parametrize(("brand", "drift"), CASES)
async def test_each_drift_is_found_and_mended_while_searches_run(
    brand: str, drift: str, request: pytest.FixtureRequest
) -> None:
    async with opened(brand, request, drift) as (app, plant):
        for name in ("a", "b"):
            await ingested(app, name)
        assert await verified(app) == []
        before = await shown(app)
        assert len(before) == 2 * PARTS
        await plant()
        Counting.read.clear()
        [found] = await verified(app)
        assert (found.what, found.mended, found.namespace) == (EXPECTED[drift], False, "default")
        assert found.document_id == (None if EXPECTED[drift] in ("surplus", "counts") else "a")
        stop = asyncio.Event()
        reader = asyncio.create_task(read(app, before, stop))
        [mended] = await verified(app, repair=True)
        if mended.job_id:
            await app.wait(mended.job_id, timeout=60)
        else:
            assert mended.mended
        assert await verified(app) == []
        stop.set()
        await reader
        assert await shown(app) == before
        # What has its text is made from it; else the document is cut again, and only what has no vector is embedded.
        assert len(Counting.read) <= {"chunk": 1, "vector": 1}.get(drift, PARTS)


@pytest.mark.parametrize(
    "brand",
    [
        "memory",
        "sqlite",
        pytest.param("postgresql", marks=SERVER),
        pytest.param("pinecone", marks=pytest.mark.slow),
    ],
)
async def test_nothing_that_goes_on_meanwhile_is_taken_for_drift(
    brand: str, request: pytest.FixtureRequest
) -> None:
    async with opened(brand, request, "") as (app, _):

        async def change(name: str) -> None:
            for version in range(1, 4):
                text = text_of(f"{name} in version {version}")
                job = await app.ingest_text(
                    text, document_id=name, media_type="text/markdown", version=version
                )
                await asyncio.sleep(0)
                if version == 2 and name < "c":
                    await app.delete_document(name)
                    continue
                await app.wait(job.id, timeout=60)

        changing = asyncio.gather(*(change(name) for name in "abcdef"))
        looks = 0
        while not changing.done() or looks < 2:
            assert await verified(app, repair=bool(looks % 2)) == []
            looks += 1
            await asyncio.sleep(0)
        await changing
        assert await verified(app) == []
        assert len(await shown(app)) == 6 * PARTS


@pytest.mark.parametrize(("drift", "what"), [("vector", "vectors"), ("chunk", "lost")])
async def test_a_repair_that_died_is_taken_up_by_the_next(
    drift: str, what: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object, **__: object) -> Any:
        raise SystemError("killed here")

    async with opened("sqlite", request, drift) as (app, plant):
        await ingested(app, "a")
        before = await shown(app)
        await plant()
        # Between the document being called incomplete and its chunks being made again, or the job that brings them.
        monkeypatch.setattr(Vectorizer, "copy", die)
        monkeypatch.setattr(app.jobs, "add", die)
        with pytest.raises(SystemError):
            await verified(app, repair=True)
        monkeypatch.undo()
        [left] = await verified(app)
        assert (left.what, left.document_id) == (what, "a")
        [mended] = await verified(app, repair=True)
        if mended.job_id:
            await app.wait(mended.job_id, timeout=60)
        assert await verified(app) == []
        assert await shown(app) == before
        stored = await app.documents.document("default", "default", "a")
        assert stored is not None
        assert stored.complete


async def test_documents_under_way_are_left_alone_and_what_is_not_kept_is_told(tmp_path: Path) -> None:
    async with perdure.open("memory:", embedder=EMBEDDER, worker=False) as app:
        worker = app.make_worker()
        running = asyncio.create_task(worker.run())
        job = await app.ingest_stream(pieces(text_of("a")), name="a.md", document_id="a")
        await app.wait(job.id, timeout=60)
        worker.stop()
        await running
        assert isinstance(app.vectors, MemoryVectorStore)
        in_memory(app.vectors, "chunk")
        later = await app.ingest_text("leave", document_id="a")
        assert await verified(app, repair=True) == []
        await app.jobs.cancel(later.id, tenant="default")
        [drift] = await verified(app, repair=True)
        assert (drift.what, drift.mended, drift.job_id) == ("chunks", False, None)
        assert "ingest it again" in drift.remedy
        stored = await app.documents.document("default", "default", "a")
        assert stored is not None
        assert (stored.chunk_count, stored.complete) == (PARTS - 1, False)


async def test_a_generation_that_nobody_needs_is_removed() -> None:
    async with perdure.open("memory:", embedder=EMBEDDER) as app:
        await ingested(app, "a")
        vectorizer = await app._vectorizer(EMBEDDER)
        stored = await app.vectors.document("default", "default", "a")
        assert stored is not None
        await vectorizer.copy(stored, "default~7", Turn())
        [drift] = await verified(app)
        assert (drift.what, "default~7" in drift.message) == ("generation", True)
        assert [one.mended for one in await verified(app, repair=True)] == [True]
        assert await verified(app) == []
        assert len(await shown(app)) == PARTS


class Turn:
    """A run of no job."""

    epoch = 1

    def check(self) -> None: ...

    async def progress(self, fraction: float | None, message: str = "", **counts: int) -> None: ...


async def pieces(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


async def ingested(app: App, name: str) -> None:
    job = await app.ingest_text(text_of(name), document_id=name, media_type="text/markdown")
    await app.wait(job.id, timeout=60)


async def verified(app: App, *, repair: bool = False) -> list[Drift]:
    return [drift async for drift in app.verify(repair=repair)]


async def shown(app: App) -> list[tuple[str, str]]:
    hits = await app.search("leave", mode="vector", limit=100)
    return sorted((hit.document_id, hit.chunk_text) for hit in hits)


async def read(app: App, whole: list[tuple[str, str]], stop: asyncio.Event) -> None:
    """No search fails, shows a chunk twice, or lacks anything of the document that was not touched."""
    untouched = [one for one in whole if one[0] == "b"]
    while not stop.is_set():
        seen = await shown(app)
        assert len(seen) == len(set(seen))
        assert set(seen) <= set(whole)
        assert [one for one in seen if one[0] == "b"] == untouched
        await asyncio.sleep(0.005)
