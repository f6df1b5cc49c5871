"""Tracked work as it is known here: what the store does not know yet is kept, in bounded memory."""

from __future__ import annotations

import logging

from perdure.domain.job import Job
from perdure.domain.transition import Transition

log = logging.getLogger(__name__)


class Tale:
    """One unit of work as it is known here, and what of that the store does not know yet."""

    __slots__ = ("called_off", "end", "job", "known", "lost", "note", "size")

    def __init__(self, job: Job, size: int) -> None:
        self.job = job
        self.size = size
        """Bytes of its payload and result."""
        self.known = False
        """Whether its record is in the store."""
        self.note: Transition | None = None
        """The last report of progress, unless it is written: those before it need not be."""
        self.end: Transition | None = None
        self.lost = False
        """Whether nothing more of it is written."""
        self.called_off = False


class Buffer:
    """Every tale that is not told to its end. Work under way has one each; of ended work only so many are kept.

    Args:
        limit, max_bytes: for the tales of ended work; beyond either, the oldest are dropped.
    """

    def __init__(self, limit: int, max_bytes: int) -> None:
        self.limit = limit
        self.under_way: dict[str, Tale] = {}
        self.dirty: dict[str, Tale] = {}
        """Those that the store does not know all of, longest first."""
        self.dropped = 0
        self.full = False
        """Whether some were dropped for lack of room, since the store answered last."""
        self._max_bytes = max_bytes
        self._ended: dict[str, Tale] = {}
        self._bytes = 0

    def end(self, tale: Tale) -> None:
        """The work has ended."""
        del self.under_way[tale.job.id]
        self._ended[tale.job.id] = self.dirty[tale.job.id] = tale
        self._bytes += tale.size
        while len(self._ended) > self.limit or (self._bytes > self._max_bytes and len(self._ended) > 1):
            if not self.full:
                log.warning(
                    "tracking: %d records of ended work wait for the store, and no more fit: the oldest are dropped until "
                    "it takes some",
                    len(self._ended) - 1,
                )
            self.full = True
            self.drop(next(iter(self._ended.values())))

    def told(self, tale: Tale) -> None:
        """The store knows all of it, unless there is more by now."""
        if tale.lost or (tale.note is None and tale.end is None):
            self.dirty.pop(tale.job.id, None)

    def forget(self, tale: Tale) -> None:
        """Nothing more of it is written."""
        tale.lost = True
        self.dirty.pop(tale.job.id, None)
        self.under_way.pop(tale.job.id, None)
        if self._ended.pop(tale.job.id, None):
            self._bytes -= tale.size

    def drop(self, tale: Tale) -> None:
        """Forget it although the store should have known."""
        self.forget(tale)
        self.dropped += 1
