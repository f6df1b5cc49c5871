"""A long random walk over all calls; the store in memory, which other tests compare with the definition, is the model."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.domain.document import Draft, EmbeddedChunk, StoredDocument
from perdure.domain.errors import PerdureError
from perdure.domain.search import Hit, SearchQuery
from perdure.ports.vector_store import Begun, VectorStore
from perdure.testing.vector_store.base import (
    VectorStoreSuite,
    ids,
    make_chunks,
    make_draft,
    make_vector,
)
from perdure.vectors.memory import MemoryVectorStore

TENANTS, NAMESPACES, DOCUMENTS = ("acme", "bolt"), ("a", "b"), ("d1", "d2", "d3")
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
WORDS = ("leave", "salary", "laptop", "visa", "canteen")


class Walk:
    """Does one random thing after another to both stores; their answers must be the same."""

    def __init__(self, vectors: VectorStore, seed: int) -> None:
        self.both: tuple[VectorStore, VectorStore] = (vectors, MemoryVectorStore())
        self.chance = random.Random(seed)

    async def run(self, steps: int) -> None:
        """Take that many steps."""
        actions: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.begin, 6),
            (self.upsert, 4),
            (self.publish, 8),
            (self.delete, 1),
            (self.sweep, 1),
            (self.look, 4),
            (self.search, 4),
        ]
        choices, weights = zip(*actions, strict=True)
        for action in self.chance.choices(choices, weights, k=steps):
            await action()

    async def begin(self) -> None:
        """Begin something, new or old."""
        draft = self._draft()
        await self._same(lambda store: store.begin(draft))

    async def upsert(self) -> None:
        """Store a few chunks of something."""
        draft = self._draft()
        chunks = self._some(draft)
        await self._same(lambda store: store.upsert(draft, chunks))

    async def publish(self) -> None:
        """Publish something, mostly with all that it needs."""
        draft = self._draft()
        if self.chance.random() < 0.5:
            await self._same(lambda store: store.begin(draft))
        last, wanted = self._some(draft), ids(self._some(draft))
        if self.chance.random() < 0.7:
            wanted = ids(last)
        await self._same(lambda store: store.publish(draft, wanted, last=last))

    async def delete(self) -> None:
        """Delete a document, sometimes up to a version."""
        document, version = self._draft().document, self.chance.choice((None, 1, 2, 3))
        place = (document.tenant, document.namespace, document.id)
        await self._same(lambda store: store.delete(*place, version=version))

    async def sweep(self) -> None:
        """Sweep a little, which is to change no answer."""
        await self.both[0].sweep(self.chance.randint(1, 20))

    async def look(self) -> None:
        """Ask for everything that is not a search."""
        draft = self._draft()
        document = draft.document
        place = (document.tenant, document.namespace)
        all_chunks = make_chunks(draft, list(WORDS))
        await self._same(lambda store: store.document(*place, document.id))
        await self._same(lambda store: store.documents(*place, 10))
        await self._same(lambda store: store.chunks(*place, document.id, 10))
        await self._same(lambda store: store.namespaces(document.tenant))
        await self._same(lambda store: store.missing(draft, ids(all_chunks)))
        hashes = [item.chunk.chunk_hash for item in all_chunks]
        await self._same(lambda store: store.vectors(draft, hashes))

    async def search(self) -> None:
        """Search by meaning, and by words."""
        document = self._draft().document
        near = make_vector(self.chance.random(), self.chance.choice((8, 8, 8, 16)))
        query = SearchQuery(
            tenant=document.tenant, namespace=document.namespace, vector=near, limit=self.chance.randint(1, 9)
        )
        await self._same(lambda store: store.search(query))
        if self.both[0].capabilities.full_text:
            words = replace(query, vector=None, text=" ".join(self.chance.sample(WORDS, 2)), limit=100)
            await self._same(lambda store: _found_words(store, words))

    def _draft(self) -> Draft:
        model, dimension = self.chance.choice([("model-a", 8)] * 9 + [("model-b", 16)])
        return make_draft(
            self.chance.randint(1, 4),
            self.chance.randint(1, 3),
            tenant=self.chance.choice(TENANTS),
            namespace=self.chance.choice(NAMESPACES),
            id=self.chance.choice(DOCUMENTS),
            model=model,
            dimension=dimension,
        )

    def _some(self, draft: Draft) -> list[EmbeddedChunk]:
        chunks = make_chunks(draft, list(WORDS))
        return sorted(
            self.chance.sample(chunks, self.chance.randint(0, 5)), key=lambda item: item.chunk.chunk_index
        )

    async def _same(self, call: Callable[[VectorStore], Awaitable[object]]) -> None:
        one, other = [await _outcome(call, store) for store in self.both]
        assert one == other


async def _outcome(call: Callable[[VectorStore], Awaitable[object]], store: VectorStore) -> Any:
    """What the call gives, or the kind of its refusal; without what differs by nature."""
    try:
        return _comparable(await call(store))
    except PerdureError as error:
        return type(error)


async def _found_words(store: VectorStore, query: SearchQuery) -> set[str]:
    """What is found; how it is ranked is each store's own."""
    return {hit.chunk_id for hit in await store.search_text(query)}


def _comparable(answer: Any) -> Any:
    match answer:
        case list():
            return [_comparable(item) for item in answer]
        case StoredDocument():
            return replace(answer, published_at=EPOCH)
        case Hit():
            return replace(answer, score=0.0)
        case Begun():
            return replace(answer, published=_comparable(answer.published))
        case _:
            return answer


class WalkSuite(VectorStoreSuite):
    """Any sequence of calls, not only those that somebody thought of."""

    @pytest.mark.parametrize("seed", range(4))
    async def test_a_random_walk_gives_the_answers_of_the_model(
        self, vectors: VectorStore, seed: int
    ) -> None:
        await Walk(vectors, seed).run(250)
