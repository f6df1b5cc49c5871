"""Documents that were never heard of are begun by one statement for all who begin meanwhile, without a look at them first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from perdure.domain.document import Draft
from perdure.domain.errors import PerdureError, StoreUnavailable
from perdure.domain.heads import Place, place_of

Insert: TypeAlias = Callable[[Mapping[Place, Draft]], Awaitable[set[Place]]]


class Beginning:
    """Begins what needs no decision.

    Args:
        insert: begins those drafts whose documents are new and whose vectors fit into their namespaces; which.
    """

    def __init__(self, insert: Insert) -> None:
        self._insert = insert
        self._asking = asyncio.Lock()
        self._asked: dict[Place, Draft] = {}
        self._answer: asyncio.Task[set[Place]] | None = None

    async def begin(self, draft: Draft) -> bool:
        """Whether it was begun; if not, somebody has to decide.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        place = place_of(draft)
        if place in self._asked:  # somebody else's draft of the document comes first
            return False
        self._asked[place] = draft
        if self._answer is None:
            self._answer = asyncio.create_task(self._ask())
        return place in await asyncio.shield(self._answer)

    async def drain(self) -> None:
        """Wait for statements under way."""
        async with self._asking:
            pass

    async def _ask(self) -> set[Place]:
        async with self._asking:
            asked, self._asked, self._answer = self._asked, {}, None
            try:
                return await self._insert(asked)
            except StoreUnavailable:
                raise
            except PerdureError:  # one is to blame, and will hear of it alone
                return set()
