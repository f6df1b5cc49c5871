"""Where events about documents come from: a folder, a database, a queue.

One process reads a feed at a time; the runner sees to that. It carries out a batch, makes it durable, keeps its marks in the job store
and only then asks for the next one. If it dies before that, the next reader gets the same marks, and so the same events, again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from perdure.domain.change import Batch, Marks

Recall: TypeAlias = Callable[[Sequence[str]], Awaitable[Marks]]
"""Gives those of the keys (at most 1,000) that have a mark, as the last durable batch left them."""


class ChangeFeed(Protocol):
    """The contract, at least once: `perdure.testing.ChangeFeedContract` checks it."""

    async def read(self, recall: Recall, limit: int) -> Batch:
        """The events after the marks, about `limit` at most.

        Without any mark the feed begins with what the source holds now: nothing is missed that was there before it. An empty
        batch says that there is nothing new; it may come after a wait of some seconds. A position that the source does not know
        any more is no error: the feed scans everything, what went meanwhile among it as far as the source can tell, and says so
        in the batch's `note`. An event that can't be read is `poison`, and holds up no other.

        Raises:
            StoreUnavailable: the source can't be reached; the runner tries again later.
        """
        ...

    async def settle(self, batch: Batch) -> None:
        """The batch is durable and its marks are kept: a queue that keeps its own position may forget it now."""
        ...

    async def close(self) -> None:
        """Let go of connections; `read` may be called again."""
        ...
