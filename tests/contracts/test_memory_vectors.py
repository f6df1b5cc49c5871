"""The vector store in memory keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from perdure.ports.vector_store import VectorCapabilities
from perdure.testing.vector_store import FullTextSuite, VectorStoreContract
from perdure.vectors.memory import MemoryVectorStore


class TestMemoryVectorStore(VectorStoreContract, FullTextSuite):
    capabilities = VectorCapabilities(durable=False, multi_process=False, full_text=True)

    @pytest_asyncio.fixture
    async def vectors(self) -> AsyncIterator[MemoryVectorStore]:
        vectors = MemoryVectorStore()
        await vectors.setup()
        yield vectors
        await vectors.close()
