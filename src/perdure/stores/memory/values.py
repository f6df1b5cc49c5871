"""Values in this process's memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count

from perdure.domain.record import Json
from perdure.domain.value import Value, decoded, encoded


class MemoryValues:
    """See `perdure.ports.key_value.KeyValueStore`.

    Args:
        check: called first; raises once the store is closed.
    """

    def __init__(self, check: Callable[[], object]) -> None:
        self._check = check
        self._spaces: defaultdict[str, dict[str, tuple[str, int]]] = defaultdict(dict)
        self._versions = count(1)

    async def read(self, space: str, keys: Sequence[str]) -> dict[str, Value]:
        self._check()
        kept = self._spaces[space]
        return {key: decoded(key, *kept[key]) for key in keys if key in kept}

    async def spaces(self) -> list[str]:
        self._check()
        return sorted(space for space, kept in self._spaces.items() if kept)

    async def scan(self, space: str, limit: int, after: str = "") -> list[Value]:
        self._check()
        kept = self._spaces[space]
        return [decoded(key, *kept[key]) for key in sorted(key for key in kept if key > after)[:limit]]

    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        self._check()
        text, kept = encoded(space, key, value), self._spaces[space]
        if kept.get(key, ("", 0))[1] != expect:
            return None
        if text is None:
            return expect if kept.pop(key, None) else None
        version = next(self._versions)
        kept[key] = (text, version)
        return version
