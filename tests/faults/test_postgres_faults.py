"""PostgreSQL killed and restarted under load, answers that get lost, processes that race."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import ClassVar

import pytest
import pytest_asyncio

from perdure.databases.postgres import PostgresDatabase
from perdure.stores.postgres import PostgresJobStore
from tests.faults.suite import AnswerSuite, KillSuite
from tests.servers.postgres import PostgresServer, fresh_database, postgres_server

pytestmark = [pytest.mark.server, pytest.mark.fault, pytest.mark.xdist_group("postgres")]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


class TestPostgresFaults(AnswerSuite, KillSuite):
    asks_first = True
    # ReadyForQuery, and no transaction is open: it was committed. Of a claim after its four rows, for a connection that is
    # made meanwhile gets answers too.
    words: ClassVar = {
        "": (b"", b"Z\x00\x00\x00\x05I"),
        "claim": (b"", b"SELECT 4\x00Z\x00\x00\x00\x05I"),
    }

    @pytest_asyncio.fixture
    async def url(self, server: PostgresServer) -> AsyncIterator[str]:
        async with fresh_database(server.url) as url:
            yield url

    def make(self, url: str, patience: float) -> PostgresJobStore:
        return PostgresJobStore(PostgresDatabase(url))
