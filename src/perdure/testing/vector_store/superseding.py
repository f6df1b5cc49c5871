"""Drafts are ordered by (version, epoch): the newest holds the document, and nothing an older one says changes it."""

from __future__ import annotations

import pytest

from perdure.domain.document import Draft
from perdure.domain.errors import StaleWrite
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    VectorStoreSuite,
    begun,
    chunks_of,
    document_of,
    ids,
    make_chunks,
    make_draft,
    publish,
    published,
    seen,
)

NEWER = {"a newer run": (3, 3), "a newer version": (4, 1)}
OLDER = {"an older run": (3, 1), "an older version": (2, 9)}
"""Beside version 3 of run 2."""


class SupersedeSuite(VectorStoreSuite):
    """Who holds the document."""

    async def _refused(self, vectors: VectorStore, draft: Draft) -> None:
        """Every write of the draft must be refused."""
        chunks = make_chunks(draft, ["stale"])
        with pytest.raises(StaleWrite):
            await vectors.upsert(draft, chunks)
        with pytest.raises(StaleWrite):
            await publish(vectors, draft, chunks)
        with pytest.raises(StaleWrite):
            await vectors.publish(draft, [])

    @pytest.mark.parametrize("newer", NEWER)
    async def test_a_superseded_draft_changes_nothing(self, vectors: VectorStore, newer: str) -> None:
        stale = await begun(vectors, 3, 2)
        await vectors.upsert(stale, make_chunks(stale))
        fresh = await begun(vectors, *NEWER[newer])
        await self._refused(vectors, stale)
        with pytest.raises(StaleWrite):
            await vectors.begin(stale)
        assert await document_of(vectors, stale) is None
        chunks = make_chunks(fresh, ["fresh"])
        await publish(vectors, fresh, chunks)
        assert await chunks_of(vectors, fresh) == [item.chunk for item in chunks]

    @pytest.mark.parametrize("newer", NEWER)
    async def test_a_draft_changes_nothing_once_a_newer_one_is_published(
        self, vectors: VectorStore, newer: str
    ) -> None:
        stale = await begun(vectors, 3, 2)
        await vectors.upsert(stale, make_chunks(stale))
        fresh, chunks = await published(vectors, ["fresh"], *NEWER[newer])
        standing = await document_of(vectors, fresh)
        await self._refused(vectors, stale)
        with pytest.raises(StaleWrite):
            await vectors.begin(stale)
        assert await document_of(vectors, fresh) == standing
        assert await seen(vectors) == set(ids(chunks))

    @pytest.mark.parametrize("older", OLDER)
    async def test_an_older_draft_cannot_be_begun(self, vectors: VectorStore, older: str) -> None:
        fresh = await begun(vectors, 3, 2)
        chunks = make_chunks(fresh)
        await vectors.upsert(fresh, chunks[:2])
        with pytest.raises(StaleWrite):
            await vectors.begin(make_draft(*OLDER[older]))
        await self._refused(vectors, make_draft(*OLDER[older]))
        assert await vectors.missing(fresh, ids(chunks)) == set(ids(chunks[2:]))
        await vectors.publish(fresh, ids(chunks), last=chunks[2:])
        with pytest.raises(StaleWrite):
            await vectors.begin(make_draft(*OLDER[older]))
        await self._refused(vectors, make_draft(*OLDER[older]))
        assert await seen(vectors) == set(ids(chunks))

    async def test_a_newer_version_wins_whatever_the_epochs(self, vectors: VectorStore) -> None:
        await published(vectors, ["old"], 1, 9)
        draft, chunks = await published(vectors, ["new"], 2, 1)
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks]
        with pytest.raises(StaleWrite):
            await vectors.begin(make_draft(1, 10))

    async def test_a_newer_draft_does_not_hide_what_is_published(self, vectors: VectorStore) -> None:
        _, chunks = await published(vectors)
        newer = await begun(vectors, 2)
        await vectors.upsert(newer, make_chunks(newer, ["new"]))
        newest = await begun(vectors, 3)
        assert await seen(vectors) == set(ids(chunks))
        await self._refused(vectors, newer)
        assert await seen(vectors) == set(ids(chunks))
        new = make_chunks(newest, ["newest"])
        await publish(vectors, newest, new)
        assert await seen(vectors) == set(ids(new))

    async def test_documents_do_not_supersede_each_other(self, vectors: VectorStore) -> None:
        first = await begun(vectors, 1, id="a")
        second = await begun(vectors, 5, 5, id="b")
        for draft in (first, second):
            await publish(vectors, draft, make_chunks(draft))
        assert len(await seen(vectors)) == 6
