"""The gRPC face in this process: an app in memory, behind a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc
import pytest

from perdure.app import App
from perdure.grpc import serving
from perdure.grpc.v1.perdure_pb2_grpc import PerdureStub
from tests.unit.faces import SETTINGS, app, worker

if TYPE_CHECKING:
    from perdure.grpc.v1.perdure_pb2_grpc import PerdureAsyncStub

__all__ = ["SETTINGS", "app", "worker"]


@pytest.fixture
async def address(app: App) -> AsyncIterator[str]:
    async with serving(app, "127.0.0.1:0") as address:
        yield address


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> PerdureAsyncStub:
    return PerdureStub(channel)
