"""The caches of vectors keep the contract."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from perdure.caches.postgres import PostgresEmbeddingCache
from perdure.caches.sqlite import SqliteEmbeddingCache
from perdure.domain.errors import StoreUnavailable
from perdure.ports.embedding_cache import Cached, EmbeddingCache
from tests.servers.postgres import fresh_schema

ONE, OTHER = Cached(os.urandom(1024), 7), Cached(os.urandom(6144), 0)


class CacheContract:
    async def test_what_was_kept_is_found_and_nothing_else(self, cache: EmbeddingCache) -> None:
        assert await cache.find(["a"], 1) == {}
        await cache.keep({"a": ONE, "b": OTHER}, 1)
        assert await cache.find(["a", "c"], 1) == {"a": ONE}
        assert await cache.find([], 1) == {}
        await cache.keep({"a": ONE, "c": OTHER}, 2)
        assert await cache.find(["a", "b", "c"], 2) == {"a": ONE, "b": OTHER, "c": OTHER}

    async def test_what_is_not_used_is_forgotten_in_bites(self, cache: EmbeddingCache) -> None:
        await cache.keep({f"{number}": ONE for number in range(10)}, 1)
        assert set(await cache.find(["3", "4"], 5)) == {"3", "4"}
        assert await cache.sweep(1, 100) == 0
        assert await cache.sweep(5, 5) == 5
        assert await cache.sweep(5, 5) == 3
        assert await cache.sweep(5, 5) == 0
        assert set(await cache.find(list(map(str, range(10))), 5)) == {"3", "4"}

    async def test_many_keep_and_find_the_same_at_once(self, cache: EmbeddingCache) -> None:
        await cache.setup()
        texts = {f"{number}": ONE for number in range(50)}
        backwards = dict(reversed(texts.items()))
        await asyncio.gather(*(cache.keep(backwards if n % 2 else texts, n) for n in range(20)))
        found = await asyncio.gather(*(cache.find(backwards if n % 2 else texts, 30) for n in range(20)))
        assert all(each == texts for each in found)

    async def test_closed_it_says_so(self, cache: EmbeddingCache) -> None:
        await cache.close()
        await cache.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await cache.find(["a"], 1)


class TestMemory(CacheContract):
    @pytest_asyncio.fixture
    async def cache(self) -> AsyncIterator[EmbeddingCache]:
        cache = SqliteEmbeddingCache()
        await cache.setup()
        yield cache
        await cache.close()


class TestSqlite(CacheContract):
    @pytest_asyncio.fixture
    async def cache(self, tmp_path: Path) -> AsyncIterator[EmbeddingCache]:
        cache = SqliteEmbeddingCache(tmp_path / "p.db")
        await cache.setup()
        yield cache
        await cache.close()


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
class TestPostgres(CacheContract):
    url: ClassVar[str]

    @pytest_asyncio.fixture
    async def cache(self, postgres_url: str) -> AsyncIterator[EmbeddingCache]:
        async with fresh_schema(postgres_url) as url:
            cache = PostgresEmbeddingCache(url)
            await cache.setup()
            yield cache
            await cache.close()
