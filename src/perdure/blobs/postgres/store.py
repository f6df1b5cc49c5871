"""The blob store port, over PostgreSQL: a piece at a time, so that a large one does not hold a connection."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from perdure.blobs.pieces import ABANDONED, Piecewise, still_there
from perdure.databases.postgres import Connection, PostgresDatabase, PostgresGuest, Schema

SCHEMA: Final = Schema(
    scripts=Path(__file__).with_name("migrations"), version_table="perdure_blobs_version", head="0001"
)

BEGIN: Final = "INSERT INTO perdure_blobs (tenant, id) VALUES ($1, $2) RETURNING seq"
ADD_PIECE: Final = """
WITH touched AS (UPDATE perdure_blobs SET touched_at = now() WHERE seq = $1 AND NOT whole RETURNING seq)
INSERT INTO perdure_blob_pieces (blob, number, bytes) SELECT seq, $2, $3 FROM touched RETURNING number
"""
RETIRE: Final = """
UPDATE perdure_blobs SET whole = false, touched_at = '-infinity' WHERE tenant = $1 AND id = $2 AND whole RETURNING seq
"""
PUBLISH: Final = """
UPDATE perdure_blobs SET whole = true, touched_at = now() WHERE seq = $1 AND NOT whole RETURNING seq
"""
GIVE_UP: Final = "UPDATE perdure_blobs SET touched_at = '-infinity' WHERE seq = $1 AND NOT whole"
ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1 || ' ' || $2, 0))"
FIND: Final = "SELECT seq FROM perdure_blobs WHERE tenant = $1 AND id = $2 AND whole"
PIECE_OF: Final = """
SELECT (SELECT bytes FROM perdure_blob_pieces WHERE blob = seq AND number = $2) AS bytes
FROM perdure_blobs WHERE seq = $1 AND whole
"""
AGED: Final = """
SELECT tenant, id FROM perdure_blobs WHERE whole AND touched_at < now() - $1::interval ORDER BY touched_at
"""
LEFT: Final = """
SELECT seq FROM perdure_blobs WHERE NOT whole AND touched_at < now() - $1::interval
ORDER BY touched_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
REMOVE: Final = """
WITH pieces AS (DELETE FROM perdure_blob_pieces WHERE blob = $1) DELETE FROM perdure_blobs WHERE seq = $1
"""


class PostgresBlobStore(Piecewise, PostgresGuest):
    """See `perdure.ports.blob_store.BlobStore`.

    Args:
        where: a URL, or a database that others hold too; it is closed with its last holder.
    """

    def __init__(self, where: str | PostgresDatabase) -> None:
        super().__init__(where, "blob store", SCHEMA)

    async def setup(self) -> None:
        """See the port. Removes what writes that died have left."""
        await super().setup()
        await self._sweep()

    async def aged(self, age: timedelta) -> list[tuple[str, str]]:
        return [(row["tenant"], row["id"]) for row in await self._run(AGED, age)]

    # --- behind it --------------------------------------------------------------------------------

    async def _begin(self, tenant: str, blob_id: str) -> int:
        [begun] = await self._run(BEGIN, tenant, blob_id)
        return int(begun["seq"])

    async def _add_piece(self, seq: int, number: int, piece: bytes) -> None:
        still_there(await self._run(ADD_PIECE, seq, number, piece))

    async def _publish(self, tenant: str, blob_id: str, seq: int) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(ONE_AT_A_TIME, tenant, blob_id)
            await connection.execute(RETIRE, tenant, blob_id)
            still_there(await connection.fetch(PUBLISH, seq))

        await self._here().run(work, atomic=True)

    async def _give_up(self, seq: int) -> None:
        await self._run(GIVE_UP, seq)

    async def _find(self, tenant: str, blob_id: str) -> int | None:
        return next((row["seq"] for row in await self._run(FIND, tenant, blob_id)), None)

    async def _piece(self, seq: int, number: int) -> Sequence[Any] | None:
        return next(iter(await self._run(PIECE_OF, seq, number)), None)

    async def _retire(self, tenant: str, blob_id: str) -> bool:
        return bool(await self._run(RETIRE, tenant, blob_id))

    async def _sweep(self) -> None:
        async def work(connection: Connection) -> bool:
            left = await connection.fetchval(LEFT, ABANDONED)
            if left is not None:
                await connection.execute(REMOVE, left)
            return left is not None

        while await self._here().run(work, atomic=True):
            pass
