"""Vectors of known texts in an SQLite file, or in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from perdure.databases.sqlite import SqliteGuest
from perdure.ports.embedding_cache import Cached

COMPONENT: Final = "embedding_cache"
STEPS: Final = (
    """
    CREATE TABLE embedding_cache (
        key     TEXT    PRIMARY KEY NOT NULL,
        vector  BLOB    NOT NULL,
        tokens  INTEGER NOT NULL,
        used_on INTEGER NOT NULL  -- days since 1970
    ) STRICT;
    CREATE INDEX embedding_cache_age ON embedding_cache (used_on);
    """,
)
FIND: Final = (
    "SELECT key, vector, tokens, used_on FROM embedding_cache WHERE key IN (SELECT value FROM json_each(?))"
)
TOUCH: Final = (
    "UPDATE embedding_cache SET used_on = ? WHERE key IN (SELECT value FROM json_each(?)) AND used_on < ?"
)
KEEP: Final = "INSERT OR REPLACE INTO embedding_cache (key, vector, tokens, used_on) VALUES (?, ?, ?, ?)"
SWEEP: Final = (
    "DELETE FROM embedding_cache WHERE key IN (SELECT key FROM embedding_cache WHERE used_on < ? LIMIT ?)"
)


class SqliteEmbeddingCache(SqliteGuest):
    """See `perdure.ports.embedding_cache.EmbeddingCache`.

    Args:
        path: the file, which others may share; ":memory:" for a private one that dies with this object.
    """

    def __init__(self, path: str | Path = ":memory:") -> None:
        super().__init__(path, "cache", COMPONENT, STEPS)

    async def find(self, keys: Collection[str], day: int) -> dict[str, Cached]:
        asked = msgspec.json.encode(list(keys)).decode()
        rows: list[Any] = await self._read(lambda connection: connection.execute(FIND, (asked,)).fetchall())
        if any(used_on < day for *_, used_on in rows):
            await self._write(lambda connection: connection.execute(TOUCH, (day, asked, day)).fetchall())
        return {key: Cached(vector, tokens) for key, vector, tokens, _ in rows}

    async def keep(self, cached: Mapping[str, Cached], day: int) -> None:
        rows = [(key, item.vector, item.tokens, day) for key, item in cached.items()]
        await self._write(lambda connection: connection.executemany(KEEP, rows).fetchall())

    async def sweep(self, before: int, limit: int) -> int:
        def work(connection: apsw.Connection) -> int:
            connection.execute(SWEEP, (before, limit))
            return connection.changes()

        return await self._write(work)
