"""Blobs in an SQLite file, a piece at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw

from perdure.blobs.pieces import ABANDONED, Piecewise, still_there
from perdure.databases.sqlite import SqliteGuest

BITE: Final = 16
"""Pieces that one transaction removes."""

COMPONENT: Final = "blobs"
STEPS: Final = (
    """
    CREATE TABLE blobs (
        seq        INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant     TEXT    NOT NULL,
        id         TEXT    NOT NULL,
        whole      INTEGER NOT NULL,  -- 0: still being written, or left over; nobody can read it
        touched_at REAL    NOT NULL   -- when the last piece came, or the whole was there; seconds since 1970
    ) STRICT;
    CREATE UNIQUE INDEX blobs_whole ON blobs (tenant, id) WHERE whole = 1;
    CREATE INDEX blobs_age ON blobs (whole, touched_at);
    CREATE TABLE blob_pieces (
        blob   INTEGER NOT NULL,
        number INTEGER NOT NULL,
        bytes  BLOB    NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX blob_pieces_number ON blob_pieces (blob, number);
    """,
)

BEGIN: Final = "INSERT INTO blobs (tenant, id, whole, touched_at) VALUES (?, ?, 0, ?) RETURNING seq"
TOUCH: Final = "UPDATE blobs SET touched_at = ? WHERE seq = ? AND whole = 0"
ADD_PIECE: Final = "INSERT INTO blob_pieces (blob, number, bytes) VALUES (?, ?, ?)"
RETIRE: Final = "UPDATE blobs SET whole = 0, touched_at = 0 WHERE tenant = ? AND id = ? AND whole = 1"
PUBLISH: Final = "UPDATE blobs SET whole = 1, touched_at = ? WHERE seq = ? AND whole = 0"
GIVE_UP: Final = "UPDATE blobs SET touched_at = 0 WHERE seq = ? AND whole = 0"
FIND: Final = "SELECT seq FROM blobs WHERE tenant = ? AND id = ? AND whole = 1"
PIECE_OF: Final = "SELECT (SELECT bytes FROM blob_pieces WHERE blob = seq AND number = ?) FROM blobs WHERE seq = ? AND whole = 1"
LEFT: Final = "SELECT seq FROM blobs WHERE whole = 0 AND touched_at < ? ORDER BY touched_at LIMIT 1"
AGED: Final = "SELECT tenant, id FROM blobs WHERE whole = 1 AND touched_at < ? ORDER BY touched_at"
REMOVE_PIECES: Final = (
    "DELETE FROM blob_pieces WHERE rowid IN (SELECT rowid FROM blob_pieces WHERE blob = ? LIMIT ?)"
)
REMOVE: Final = "DELETE FROM blobs WHERE seq = ?"


class SqliteBlobStore(Piecewise, SqliteGuest):
    """See `perdure.ports.blob_store.BlobStore`.

    Args:
        path: the file, which jobs and vectors may share; ":memory:" for a private one that dies with this object.
        clock: seconds since 1970.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        super().__init__(path, "blob store", COMPONENT, STEPS)
        self._clock = clock

    async def aged(self, age: timedelta) -> list[tuple[str, str]]:
        before = self._clock() - age.total_seconds()
        found = await self._read(lambda connection: connection.execute(AGED, (before,)).fetchall())
        return [(str(tenant), str(blob_id)) for tenant, blob_id in found]

    # --- behind it --------------------------------------------------------------------------

    async def _begin(self, tenant: str, blob_id: str) -> int:
        def work(connection: apsw.Connection) -> int:
            seq: int = connection.execute(BEGIN, (tenant, blob_id, self._clock())).get
            return seq

        return await self._write(work)

    async def _add_piece(self, seq: int, number: int, piece: bytes) -> None:
        def work(connection: apsw.Connection) -> None:
            still_there(_changes(connection, TOUCH, (self._clock(), seq)))
            connection.execute(ADD_PIECE, (seq, number, piece))

        await self._write(work)

    async def _publish(self, tenant: str, blob_id: str, seq: int) -> None:
        def work(connection: apsw.Connection) -> None:
            connection.execute(RETIRE, (tenant, blob_id))
            still_there(_changes(connection, PUBLISH, (self._clock(), seq)))

        await self._write(work)

    async def _give_up(self, seq: int) -> None:
        await self._write(lambda connection: _changes(connection, GIVE_UP, (seq,)))

    async def _find(self, tenant: str, blob_id: str) -> int | None:
        return await self._read(lambda connection: connection.execute(FIND, (tenant, blob_id)).get)

    async def _piece(self, seq: int, number: int) -> Sequence[Any] | None:
        return await self._read(lambda connection: connection.execute(PIECE_OF, (number, seq)).fetchone())

    async def _retire(self, tenant: str, blob_id: str) -> bool:
        return await self._write(lambda connection: _changes(connection, RETIRE, (tenant, blob_id)))

    async def _sweep(self) -> None:
        before = self._clock() - ABANDONED.total_seconds()
        while seq := await self._read(lambda connection: connection.execute(LEFT, (before,)).get):
            await self._write(partial(_remove_some, seq=seq))


def _changes(connection: apsw.Connection, statement: str, values: tuple[Any, ...]) -> bool:
    """Whether the statement changed a row."""
    connection.execute(statement, values)
    return bool(connection.changes())


def _remove_some(connection: apsw.Connection, seq: int) -> None:
    if not _changes(connection, REMOVE_PIECES, (seq, BITE)):
        connection.execute(REMOVE, (seq,))
