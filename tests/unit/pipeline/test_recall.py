"""Remembered vectors, in front of a cache that is away, or holds what does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.caches.sqlite import SqliteEmbeddingCache
from perdure.domain.errors import StoreUnavailable, TextRejected
from perdure.pipeline.embedding import EmbeddingBatcher
from perdure.pipeline.recall import Recall
from tests.unit.pipeline.fakes import FakeEmbedder


class Away:
    async def find(self, *_: Any) -> Any:
        raise StoreUnavailable("away")

    keep = find


async def outcomes(batcher: EmbeddingBatcher, *texts: str, tenant: str = "t") -> Any:
    async with batcher.embed(texts, tenant) as answer:
        return answer


async def test_without_the_cache_all_is_embedded(caplog: pytest.LogCaptureFixture) -> None:
    away: Any = Away()
    embedder = FakeEmbedder()
    batcher = EmbeddingBatcher(embedder, recall=Recall(away, lambda: 1, 30))
    for _ in range(2):
        assert len((await outcomes(batcher, "a", "b")).outcomes) == 2
    assert embedder.texts == ["a", "b"] * 2
    assert "does not answer: away" in caplog.text


async def test_known_and_new_texts_come_in_their_order_and_refused_ones_are_not_kept() -> None:
    cache = SqliteEmbeddingCache()
    await cache.setup()
    embedder = FakeEmbedder()
    batcher = EmbeddingBatcher(embedder, recall=Recall(cache, lambda: 1, 30))
    embedder.poison = "bad"
    first = await outcomes(batcher, "b", "bad", "d")
    assert isinstance(first.outcomes[1], TextRejected)
    embedder.batches.clear()
    embedder.poison = None
    second = await outcomes(batcher, "a", "b", "bad", "d")
    assert embedder.texts == ["a", "bad"]
    plain = await outcomes(EmbeddingBatcher(FakeEmbedder()), "a", "b", "bad", "d")
    assert second.outcomes == plain.outcomes
    assert set(second.saved) == {"b", "d"}
    await cache.close()


async def test_a_vector_of_another_dimension_is_not_taken_and_old_ones_are_forgotten() -> None:
    cache, today = SqliteEmbeddingCache(), [1]
    await cache.setup()
    recall = Recall(cache, lambda: today[0], 30)
    await outcomes(EmbeddingBatcher(FakeEmbedder(), recall=recall), "a")
    other = FakeEmbedder(dimension=16)
    await outcomes(EmbeddingBatcher(other, recall=recall), "a")
    assert other.texts == ["a"]
    today[0] = 32
    await recall.sweep()
    third = FakeEmbedder()
    await outcomes(EmbeddingBatcher(third, recall=recall), "a")
    assert third.texts == ["a"]
    await cache.close()
