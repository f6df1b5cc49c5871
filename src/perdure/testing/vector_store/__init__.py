"""The contract of `perdure.ports.vector_store.VectorStore`, as tests.

A backend's whole suite is a class with its abilities and one fixture:

```python
class TestMyVectors(VectorStoreContract):
    capabilities = VectorCapabilities(durable=True, ...)

    @pytest_asyncio.fixture
    async def vectors(self, tmp_path):
        vectors = MyVectorStore(tmp_path / "vectors")
        await vectors.setup()
        yield vectors
        await vectors.close()

    async def second(self, vectors):
        handle = MyVectorStore(vectors.path)
        await handle.setup()
        return handle
```

A store that searches words too (`full_text`) takes `FullTextSuite` beside it. No test may be overridden. Needs pytest and
pytest-asyncio.
"""

from __future__ import annotations

from perdure.testing.vector_store.affirming import AffirmSuite
from perdure.testing.vector_store.auditing import AuditSuite
from perdure.testing.vector_store.beginning import BeginSuite
from perdure.testing.vector_store.deleting import DeleteSuite
from perdure.testing.vector_store.filtering import FilterSuite
from perdure.testing.vector_store.publishing import PublishSuite
from perdure.testing.vector_store.reading import ReadSuite
from perdure.testing.vector_store.resuming import ResumeSuite
from perdure.testing.vector_store.searching import SearchSuite
from perdure.testing.vector_store.sharing import SharingSuite
from perdure.testing.vector_store.superseding import SupersedeSuite
from perdure.testing.vector_store.sweeping import SweepSuite
from perdure.testing.vector_store.walking import WalkSuite
from perdure.testing.vector_store.walls import WallSuite
from perdure.testing.vector_store.wording import FullTextSuite

__all__ = ["FullTextSuite", "VectorStoreContract"]


class VectorStoreContract(
    BeginSuite,
    AffirmSuite,
    ResumeSuite,
    PublishSuite,
    SupersedeSuite,
    ReadSuite,
    DeleteSuite,
    SearchSuite,
    FilterSuite,
    WallSuite,
    SharingSuite,
    SweepSuite,
    AuditSuite,
    WalkSuite,
):
    """Everything that a vector store promises but search by words. Subclass it once for each backend."""
