"""MongoDB when the server dies, when its answers get lost, and when many processes pull at one queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import ClassVar

import pytest
import pytest_asyncio

from perdure.stores.mongodb import MongoJobStore
from tests.faults.suite import AnswerSuite, KillSuite
from tests.servers.mongodb import MongoServer, fresh_database, mongodb_server

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.xdist_group("mongodb")]


def _asks(command: bytes) -> tuple[bytes, bytes]:
    """A command's name is the first field of its document."""
    return command + b"\x00", b""


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    with mongodb_server() as server:
        yield server


class TestMongoFaults(AnswerSuite, KillSuite):
    total, batch = 500, 10
    words: ClassVar = {
        "add": _asks(b"\x02insert"),
        "add_many": _asks(b"\x10commitTransaction"),
        "delete": _asks(b"\x02delete"),
        "": _asks(b"\x02update"),
    }

    @pytest_asyncio.fixture
    async def url(self, server: MongoServer) -> AsyncIterator[str]:
        async with fresh_database(server.url) as name:
            yield f"{server.url}{name}?directConnection=true"

    def make(self, url: str, patience: float) -> MongoJobStore:
        return MongoJobStore(url, patience=patience)
