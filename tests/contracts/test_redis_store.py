"""Redis and Valkey keep the contract: one server of each, and a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from perdure.ports.job_store import Capabilities, JobStore
from perdure.stores.redis import RedisJobStore
from perdure.testing import JobStoreContract
from tests.servers.redis import binaries, fresh, redis_server, redis_url

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("redis")]

ABILITIES = Capabilities(
    durable=True,
    multi_process=True,
    change_feed=True,
    native_ttl=False,
    constant_stats=True,
    transactions=True,
)


@pytest.fixture(scope="module", params=binaries())
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with redis_url(request.param) as url:
        yield url


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of one node, which refuses keys of two slots in one script like any other."""
    with redis_server(**{"cluster-enabled": "yes"}) as node:
        assert node.say("CLUSTER", "ADDSLOTSRANGE", "0", "16383").startswith(b"+OK")
        while b"cluster_state:ok" not in node.say("CLUSTER", "INFO"):
            pass
        yield node.url.replace("redis:", "redis+cluster:")


class RedisContract(JobStoreContract):
    """What the runs have in common."""

    capabilities = ABILITIES
    url: str

    async def second(self, store: JobStore) -> JobStore:
        handle = RedisJobStore(self.url)
        await handle.setup()
        return handle

    async def _open(self, url: str) -> AsyncIterator[RedisJobStore]:
        self.url = fresh(url)
        store = RedisJobStore(self.url)
        await store.setup()
        yield store
        await store.close()


class TestRedisJobStore(RedisContract):
    @pytest_asyncio.fixture
    async def store(self, server: str) -> AsyncIterator[RedisJobStore]:
        async for store in self._open(server):
            yield store


class TestRedisClusterJobStore(RedisContract):
    @pytest_asyncio.fixture
    async def store(self, cluster: str) -> AsyncIterator[RedisJobStore]:
        async for store in self._open(cluster):
            yield store
