"""For those who write a store: the contracts as test classes, and builders of what they work on.

Needs pytest and pytest-asyncio, which Perdure itself does not.
"""

import pytest

# Before the suites are imported, so that a failed assert in them says what it compared.
pytest.register_assert_rewrite(
    "perdure.testing.blob_store",
    "perdure.testing.jobs",
    "perdure.testing.vector_store",
)

from perdure.testing import builders  # noqa: E402  # see above
from perdure.testing.blob_store import BlobStoreContract  # noqa: E402  # see above
from perdure.testing.job_store import JobStoreContract  # noqa: E402  # see above
from perdure.testing.vector_store import FullTextSuite, VectorStoreContract  # noqa: E402  # see above

__all__ = ["BlobStoreContract", "FullTextSuite", "JobStoreContract", "VectorStoreContract", "builders"]
