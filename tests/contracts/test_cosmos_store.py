"""The Cosmos DB store keeps the contract, on an emulator that others wrote and on a peer that does what that does wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from perdure.ports.job_store import Capabilities, JobStore
from perdure.stores.cosmos import CosmosJobStore
from perdure.testing import JobStoreContract
from tests.servers.cosmos import emulator_url, fresh_database
from tests.servers.cosmos_peer import Peer, cosmos_peer

pytestmark = pytest.mark.server

CAPABILITIES = Capabilities(
    durable=True,
    multi_process=True,
    change_feed=True,
    native_ttl=True,
    constant_stats=False,
    transactions=False,
    behind=1.5,
)


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    with emulator_url() as url:
        yield url


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with cosmos_peer() as peer:
        yield peer


class _Suite(JobStoreContract):
    capabilities = CAPABILITIES
    crowd = 500

    async def second(self, store: JobStore) -> JobStore:
        handle = CosmosJobStore(self.url, database=self.database)
        await handle.setup()
        return handle

    async def opened(self, url: str) -> AsyncIterator[CosmosJobStore]:
        async with fresh_database(url) as self.database:
            self.url = url
            store = CosmosJobStore(url, database=self.database)
            await store.setup()
            yield store
            await store.close()


@pytest.mark.xdist_group("cosmos-emulator")
class TestOnTheEmulator(_Suite):
    @pytest_asyncio.fixture
    async def store(self, emulator: str) -> AsyncIterator[CosmosJobStore]:
        async for store in self.opened(emulator):
            yield store


@pytest.mark.xdist_group("cosmos-peer")
class TestOnThePeer(_Suite):
    @pytest_asyncio.fixture
    async def store(self, peer: Peer) -> AsyncIterator[CosmosJobStore]:
        async for store in self.opened(peer.url):
            yield store
