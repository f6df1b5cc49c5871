"""How much a tenant may have."""

from __future__ import annotations

import time
from typing import Final

from perdure.core.jobs import JobService
from perdure.domain.errors import QuotaExceeded
from perdure.domain.state import JobState
from perdure.ports.vector_store import VectorStore
from perdure.settings import Settings

FRESH_SECONDS: Final = 10.0
"""How long a count of chunks is good: in some stores it takes a while."""


class Quotas:
    """Refuses what would be too much. Callers at the same moment may exceed a quota together.

    Args:
        settings: `max_pending_jobs` and `max_chunks`; 0: no limit, and nothing is counted.
    """

    def __init__(self, settings: Settings, jobs: JobService, vectors: VectorStore) -> None:
        self._max_pending, self._max_chunks = settings.max_pending_jobs, settings.max_chunks
        self._jobs = jobs
        self._vectors = vectors
        self._counted: dict[str, tuple[float, int]] = {}

    async def check_jobs(self, tenant: str, more: int = 1) -> None:
        """Whether the tenant may have `more` pending jobs.

        Raises:
            QuotaExceeded: they would be too many.
        """
        if self._max_pending:
            pending = (await self._jobs.stats(tenant)).by_state[JobState.PENDING]
            if pending + more > self._max_pending:
                raise QuotaExceeded(
                    10,
                    f"tenant {tenant!r} has {pending:,} pending jobs and may have {self._max_pending:,}; "
                    f"add {more:,} more when some have run",
                )

    async def check_documents(self, tenant: str, more: int = 1) -> None:
        """Whether the tenant may submit `more` documents: as `check_jobs`, and its chunks must be fewer than it may have.

        Raises:
            QuotaExceeded: there is no room.
        """
        await self.check_jobs(tenant, more)
        if self._max_chunks and (chunks := await self._chunks(tenant)) >= self._max_chunks:
            raise QuotaExceeded(
                60,
                f"tenant {tenant!r} has {chunks:,} chunks stored and may have {self._max_chunks:,}; "
                "delete documents, or let PERDURE_MAX_CHUNKS be raised, then submit it again",
            )

    async def _chunks(self, tenant: str) -> int:
        """What readers see of all its documents, with what is kept of a model before."""
        now = time.monotonic()
        counted = self._counted.get(tenant)
        if counted is None or now - counted[0] >= FRESH_SECONDS:
            namespaces = await self._vectors.namespaces(tenant)
            counted = self._counted[tenant] = now, sum(one.chunks for one in namespaces)
        return counted[1]
