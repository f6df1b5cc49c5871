"""The cache keeps the contract in front of every store: the same suite, each time with it in between."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.core.cache import CachedJobStore
from perdure.databases.postgres import PostgresDatabase
from perdure.databases.sqlite import database
from perdure.ports.job_store import Capabilities, JobStore
from perdure.stores.cosmos import CosmosJobStore
from perdure.stores.memory import MemoryJobStore
from perdure.stores.mongodb import MongoJobStore
from perdure.stores.postgres import PostgresJobStore
from perdure.stores.redis import RedisJobStore
from perdure.stores.sqlite import SqliteJobStore
from perdure.testing import JobStoreContract
from perdure.testing.clock import MovableClock
from tests.contracts.test_cosmos_store import CAPABILITIES as COSMOS
from tests.servers import cosmos
from tests.servers.cosmos_peer import Peer, cosmos_peer
from tests.servers.mongodb import fresh_database, mongodb_url
from tests.servers.postgres import fresh_schema
from tests.servers.redis import fresh, redis_url

SHARED = Capabilities(
    durable=True,
    multi_process=True,
    change_feed=True,
    native_ttl=False,
    constant_stats=True,
    transactions=True,
)


async def cached(store: JobStore) -> CachedJobStore:
    cache = CachedJobStore(store)
    await cache.setup()
    return cache


class Moved(JobStoreContract):
    """On stores whose clock is moved by hand; the cache's own goes with it."""

    def monotonic(self) -> float:
        return time.monotonic() + self.moved

    async def cached_and_moved(self, store: JobStore) -> CachedJobStore:
        cache = CachedJobStore(store, monotonic=self.monotonic)
        await cache.setup()
        return cache

    clock: MovableClock
    moved = 0.0

    async def advance(self, store: JobStore, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        self.moved += seconds


class TestCachedMemory(Moved):
    crowd = 10_000
    capabilities = MemoryJobStore.capabilities

    @pytest_asyncio.fixture
    async def store(self) -> AsyncIterator[CachedJobStore]:
        self.clock = MovableClock()
        store = await self.cached_and_moved(MemoryJobStore(self.clock))
        yield store
        await store.close()


@pytest.mark.slow
class TestCachedSqlite(Moved):
    capabilities = SHARED
    path: Path

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[CachedJobStore]:
        self.path, self.clock = tmp_path / "perdure.db", MovableClock()
        store = await self.cached_and_moved(SqliteJobStore(self.path, self.clock))
        yield store
        await store.close()

    async def second(self, store: JobStore) -> JobStore:
        database._shared.clear()  # or it would share the first one's connections
        return await self.cached_and_moved(SqliteJobStore(self.path, self.clock))


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
class TestCachedPostgres(JobStoreContract):
    crowd = 10_000
    capabilities = replace(SHARED, joins=True)
    url: str

    @pytest_asyncio.fixture
    async def store(self, postgres_url: str) -> AsyncIterator[CachedJobStore]:
        async with fresh_schema(postgres_url) as self.url:
            store = await cached(PostgresJobStore(PostgresDatabase(self.url)))
            yield store
            await store.close()

    async def second(self, store: JobStore) -> JobStore:
        return await cached(PostgresJobStore(PostgresDatabase(self.url)))


@pytest.fixture(scope="module")
def mongo_server() -> Iterator[str]:
    with mongodb_url() as url:
        yield url


@pytest.mark.server
@pytest.mark.xdist_group("mongodb")
class TestCachedMongo(JobStoreContract):
    crowd = 300
    capabilities = MongoJobStore.capabilities
    url: str
    database: str

    @pytest_asyncio.fixture
    async def store(self, mongo_server: str) -> AsyncIterator[CachedJobStore]:
        self.url = mongo_server
        async with fresh_database(mongo_server) as self.database:
            store = await cached(MongoJobStore(self.url, database=self.database))
            yield store
            await store.close()

    async def second(self, store: JobStore) -> JobStore:
        return await cached(MongoJobStore(self.url, database=self.database))


@pytest.fixture(scope="module")
def redis_server() -> Iterator[str]:
    with redis_url() as url:
        yield url


@pytest.mark.server
@pytest.mark.xdist_group("redis")
class TestCachedRedis(JobStoreContract):
    crowd = 10_000
    capabilities = SHARED
    url: str

    @pytest_asyncio.fixture
    async def store(self, redis_server: str) -> AsyncIterator[CachedJobStore]:
        self.url = fresh(redis_server)
        store = await cached(RedisJobStore(self.url))
        yield store
        await store.close()

    async def second(self, store: JobStore) -> JobStore:
        return await cached(RedisJobStore(self.url))


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with cosmos_peer() as peer:
        yield peer


@pytest.mark.server
@pytest.mark.xdist_group("cosmos-cached")
class TestCachedCosmos(JobStoreContract):
    crowd = 500
    capabilities = COSMOS
    url: str
    database: str

    @pytest_asyncio.fixture
    async def store(self, peer: Peer) -> AsyncIterator[CachedJobStore]:
        self.url = peer.url
        async with cosmos.fresh_database(peer.url) as self.database:
            store = await cached(CosmosJobStore(self.url, database=self.database))
            yield store
            await store.close()

    async def second(self, store: JobStore) -> JobStore:
        return await cached(CosmosJobStore(self.url, database=self.database))
