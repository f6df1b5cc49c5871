from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from perdure.vectors.memory import MemoryVectorStore
from tests.leaping import LeapingLoop
from tests.unit.pipeline.fakes import FakeEmbedder


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    leaping = item.get_closest_marker("leaping")
    return {"leaping": LeapingLoop} if leaping else {"usual": asyncio.new_event_loop}


@pytest.fixture
def store() -> MemoryVectorStore:
    return MemoryVectorStore()


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder()
