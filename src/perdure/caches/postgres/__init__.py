"""Vectors of known texts in a PostgreSQL database, for workers on many machines."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from perdure.databases.postgres import PostgresDatabase, PostgresGuest, Schema
from perdure.ports.embedding_cache import Cached

SCHEMA: Final = Schema(
    scripts=Path(__file__).with_name("migrations"),
    version_table="perdure_embedding_cache_version",
    head="0001",
)
FIND: Final = "SELECT key, vector, tokens, used_on FROM perdure_embedding_cache WHERE key = ANY ($1::text[])"
# What others touch at the same time is left to them; in one order nobody waits in a ring.
TOUCH: Final = """
UPDATE perdure_embedding_cache c SET used_on = $2 FROM (
    SELECT key FROM perdure_embedding_cache WHERE key = ANY ($1::text[]) AND used_on < $2 ORDER BY key FOR UPDATE SKIP LOCKED
) old WHERE c.key = old.key
"""
KEEP: Final = """
INSERT INTO perdure_embedding_cache (key, vector, tokens, used_on)
SELECT a.key, a.vector, a.tokens, $4 FROM unnest($1::text[], $2::bytea[], $3::integer[]) AS a (key, vector, tokens)
ORDER BY a.key ON CONFLICT DO NOTHING
"""
SWEEP: Final = """
WITH old AS (SELECT key FROM perdure_embedding_cache WHERE used_on < $1 LIMIT $2 FOR UPDATE SKIP LOCKED),
     gone AS (DELETE FROM perdure_embedding_cache c USING old WHERE c.key = old.key RETURNING 1)
SELECT count(*) AS gone FROM gone
"""


class PostgresEmbeddingCache(PostgresGuest):
    """See `perdure.ports.embedding_cache.EmbeddingCache`.

    Args:
        where: a URL, or a database that others hold too; it is closed with its last holder.
    """

    def __init__(self, where: str | PostgresDatabase) -> None:
        super().__init__(where, "cache", SCHEMA)

    async def find(self, keys: Collection[str], day: int) -> dict[str, Cached]:
        rows = await self._run(FIND, list(keys))
        if any(row["used_on"] < day for row in rows):
            await self._run(TOUCH, list(keys), day)
        return {row["key"]: Cached(row["vector"], row["tokens"]) for row in rows}

    async def keep(self, cached: Mapping[str, Cached], day: int) -> None:
        items = cached.values()
        vectors, tokens = [item.vector for item in items], [item.tokens for item in items]
        await self._run(KEEP, list(cached), vectors, tokens, day)

    async def sweep(self, before: int, limit: int) -> int:
        [row] = await self._run(SWEEP, before, limit)
        return int(row["gone"])
