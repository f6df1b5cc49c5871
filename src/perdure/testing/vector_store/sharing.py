"""Many tasks, and where the store allows it two handles, at work on the same data."""

from __future__ import annotations

import asyncio

import pytest

from perdure.domain.document import Draft, EmbeddedChunk
from perdure.domain.errors import StaleWrite
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    NAMESPACE,
    TENANT,
    VectorStoreSuite,
    begun,
    chunks_of,
    document_of,
    ids,
    make_chunks,
    make_draft,
    publish,
    published,
    searched,
    seen,
)


class SharingSuite(VectorStoreSuite):
    """At the same time."""

    async def test_another_handle_sees_what_was_published(
        self, vectors: VectorStore, other: VectorStore
    ) -> None:
        draft, chunks = await published(vectors)
        assert await document_of(other, draft) == await document_of(vectors, draft)
        assert await seen(other) == set(ids(chunks))
        newer = await begun(other, 2)
        with pytest.raises(StaleWrite):
            await vectors.begin(make_draft(1, 1))
        await publish(other, newer, make_chunks(newer, ["new"]))
        assert [chunk.chunk_text for chunk in await chunks_of(vectors, newer)] == ["new"]
        assert [hit.chunk_text for hit in await searched(vectors)] == ["new"]

    async def test_two_handles_set_up_at_once(self, vectors: VectorStore, other: VectorStore) -> None:
        await asyncio.gather(*(handle.setup() for handle in (vectors, other) * 3))
        _, chunks = await published(other)
        assert await seen(vectors) == set(ids(chunks))

    async def test_readers_see_one_version_or_the_other_whole(
        self, vectors: VectorStore, other: VectorStore
    ) -> None:
        versions = {1: {f"v1 text {number}" for number in range(40)}}
        await published(vectors, sorted(versions[1]))
        for version in (2, 3, 4):
            versions[version] = {f"v{version} text {number}" for number in range(30 + version)}
            draft = await begun(vectors, version)
            chunks = make_chunks(draft, sorted(versions[version]))
            writing = asyncio.create_task(_write(vectors, draft, chunks))
            while not writing.done():
                assert {hit.chunk_text for hit in await searched(other)} in versions.values()
                page = await other.chunks(TENANT, NAMESPACE, "leave", 1000)
                assert {chunk.chunk_text for chunk in page} in versions.values()
                await asyncio.sleep(0)
            await writing
            assert {hit.chunk_text for hit in await searched(other)} == versions[version]

    async def test_of_many_runs_only_the_newest_publishes(
        self, vectors: VectorStore, other: VectorStore
    ) -> None:
        async def run(epoch: int) -> bool:
            handle, draft = (vectors, other)[epoch % 2], make_draft(1, epoch)
            chunks = make_chunks(draft, [f"by run {epoch}", "by all"])
            try:
                await handle.begin(draft)
                await handle.upsert(draft, chunks[:1])
                await publish(handle, draft, chunks)
            except StaleWrite:
                return False
            return True

        await asyncio.gather(*(run(epoch) for epoch in range(1, 13)))
        draft = make_draft(1, 12)
        texts = [chunk.chunk_text for chunk in await chunks_of(vectors, draft)]
        assert texts[1:] == ["by all"]
        assert {hit.chunk_text for hit in await searched(other)} == set(texts)
        [namespace] = await vectors.namespaces(TENANT)
        assert (namespace.documents, namespace.chunks) == (1, 2)

    @pytest.mark.parametrize("order", [(1, 2), (2, 1)])
    async def test_of_two_uploads_at_once_the_newer_wins(
        self, vectors: VectorStore, other: VectorStore, order: tuple[int, int]
    ) -> None:
        async def upload(version: int) -> bool:
            handle, draft = (vectors, other)[version % 2], make_draft(version)
            chunks = make_chunks(draft, [f"version {version}", "both"])
            try:
                await handle.begin(draft)
                await handle.upsert(draft, chunks[:1])
                await publish(handle, draft, chunks)
            except StaleWrite:
                return False
            return True

        won = dict(zip(order, await asyncio.gather(*map(upload, order)), strict=True))
        assert won[2]
        for handle in (vectors, other):
            assert {hit.chunk_text for hit in await searched(handle)} == {"version 2", "both"}
            with pytest.raises(StaleWrite):
                await handle.begin(make_draft(1, 9))
        stored = await document_of(vectors, make_draft(2))
        assert stored is not None
        assert (stored.document.version, stored.chunk_count) == (2, 2)

    async def test_many_documents_at_once(self, vectors: VectorStore, other: VectorStore) -> None:
        async def run(number: int) -> set[str]:
            handle = (vectors, other)[number % 2]
            _, chunks = await published(handle, 3, id=f"d{number}", namespace=f"n{number % 3}")
            return set(ids(chunks))

        written = await asyncio.gather(*(run(number) for number in range(60)))
        for remainder in range(3):
            expected = set().union(*written[remainder::3])
            assert await seen(other, namespace=f"n{remainder}") == expected
        spaces = await vectors.namespaces(TENANT)
        assert [(space.documents, space.chunks) for space in spaces] == [(20, 60)] * 3

    async def test_a_refused_write_does_not_harm_those_beside_it(self, vectors: VectorStore) -> None:
        await begun(vectors, 5, id="stale")

        async def run(number: int) -> bool:
            name, version = ("stale", 1) if number % 3 == 0 else (f"d{number}", 1)
            try:
                await published(vectors, 2, version, id=name)
            except StaleWrite:
                return False
            return True

        outcomes = await asyncio.gather(*(run(number) for number in range(30)))
        assert outcomes == [number % 3 != 0 for number in range(30)]
        stored = await vectors.documents(TENANT, NAMESPACE, 100)
        assert len(stored) == 20
        assert len(await seen(vectors)) == 40

    async def test_a_caller_that_gives_up_harms_nobody(self, vectors: VectorStore) -> None:
        tasks = [asyncio.create_task(published(vectors, 2, id=f"d{number}")) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        names = {stored.document.id for stored in await vectors.documents(TENANT, NAMESPACE, 100)}
        assert names >= {f"d{number}" for number in range(1, 20, 2)}
        for number in range(20):
            await published(vectors, 2, 2, id=f"d{number}")
        assert len(await seen(vectors)) == 40


async def _write(vectors: VectorStore, draft: Draft, chunks: list[EmbeddedChunk]) -> None:
    """Store the chunks bit by bit, and publish."""
    for first in range(0, len(chunks), 10):
        await vectors.upsert(draft, chunks[first : first + 10])
    await vectors.publish(draft, ids(chunks))
