from __future__ import annotations

import pytest

from perdure.vectors.memory import MemoryVectorStore
from tests.unit.pipeline.fakes import FakeEmbedder


@pytest.fixture
def store() -> MemoryVectorStore:
    return MemoryVectorStore()


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder()
