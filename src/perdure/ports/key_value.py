"""Small durable values that every replica sees alike: who has a key, where a feed stands, who leads.

What holds for every call of `perdure.ports.job_store` holds here, too. Values lie in spaces; a key is any text of at most 500
characters, a value any JSON of at most 1 MB but null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.domain.record import Json
from perdure.domain.value import Value


class KeyValueStore(Protocol):
    """The contract. Everything here is tested by `perdure.testing.JobStoreContract`."""

    async def read(self, space: str, keys: Sequence[str]) -> dict[str, Value]:
        """Those of `keys` (at most 1,000) that are there."""
        ...

    async def spaces(self) -> list[str]:
        """The spaces in which there is a value, by name. May cost what all values cost: for copies and checks."""
        ...

    async def scan(self, space: str, limit: int, after: str = "") -> list[Value]:
        """Up to `limit` values by key, ascending by code points; only keys greater than `after`."""
        ...

    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        """Put the value in the place of what is at version `expect` (0: nothing is there); None removes it.

        Returns:
            The new version (of what was removed: `expect`); None on a conflict, or where there is nothing to remove:
            nothing was changed, read again and decide again. A write whose answer was lost and that is repeated conflicts with itself: reading tells.
        """
        ...
