"""Values beside the jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import apsw
import msgspec

from perdure.domain.record import Json
from perdure.domain.value import Value, decoded, encoded
from perdure.stores.sqlite.queries import Row, fetch, fetch_value

Run = Callable[[Callable[[apsw.Connection], Any]], Awaitable[Any]]


class SqliteValues:
    """See `perdure.ports.key_value.KeyValueStore`."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def read(self, space: str, keys: Sequence[str]) -> dict[str, Value]:
        asked = (space, msgspec.json.encode(list(keys)).decode())
        rows: list[Row] = await self._read(lambda connection: fetch(connection, "read_values", asked))
        return {key: decoded(key, text, version) for key, text, version in rows}

    async def spaces(self) -> list[str]:
        rows: list[Row] = await self._read(lambda connection: fetch(connection, "spaces"))
        return [space for (space,) in rows]

    async def scan(self, space: str, limit: int, after: str = "") -> list[Value]:
        asked = (space, after, limit)
        rows: list[Row] = await self._read(lambda connection: fetch(connection, "scan_values", asked))
        return [decoded(*row) for row in rows]

    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        text = encoded(space, key, value)

        def work(connection: apsw.Connection) -> int | None:
            version: int | None = fetch_value(connection, "version_of_value", (space, key))
            if (version or 0) != expect:
                return None
            if text is None:
                fetch(connection, "remove_value", (space, key))
                return expect or None
            version = int(fetch_value(connection, "next_version"))
            fetch(connection, "put_value", (space, key, text, version))
            return version

        answer: int | None = await self._write(work)
        return answer
