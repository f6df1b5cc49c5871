"""How a connection to an SQLite file is opened, and how it waits for others."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar

import apsw

T = TypeVar("T")

Equipment: TypeAlias = Callable[[apsw.Connection], None]
"""Gives a connection what it needs beyond SQLite: an extension, a function."""

PATIENCE: Final = 60.0
"""Seconds after which waiting for other processes is given up."""

BRIEFLY: Final = 0.2
"""Seconds that a checkpoint waits for others."""

CHECKPOINT_PAGES: Final = 4000
"""Pages (of 4 KiB) in the write-ahead log after which they are copied into the file; SQLite's own 1000 copies pages
that change often more often."""

TOO_MANY_PAGES: Final = 16_000
"""From then on a checkpoint waits a moment for readers, who otherwise, coming one upon the other, would let the log
grow for ever."""

WAL_KEPT: Final = 64 * 1024 * 1024
"""Bytes at which the write-ahead log's file is cut again, once it has grown beyond."""

STATEMENTS: Final = 200
"""Prepared statements that each connection keeps; ours are fewer."""


class Link:
    """A connection, with what of the equipment it has already."""

    def __init__(self, path: str, *, writes: bool) -> None:
        self.connection = patiently(lambda: _connect(path, writes=writes))
        self._has: set[Equipment] = set()

    def equip(self, equipment: Sequence[Equipment]) -> apsw.Connection:
        """Give the connection what it does not have yet."""
        for give in equipment:
            if give not in self._has:
                give(self.connection)
                self._has.add(give)
        return self.connection


def _connect(path: str, *, writes: bool) -> apsw.Connection:
    connection = apsw.Connection(path, statementcachesize=STATEMENTS)
    try:
        patience = _Patience()
        connection.set_busy_handler(patience)
        if writes:
            connection.set_wal_hook(_Checkpoints(patience))
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.pragma("journal_size_limit", WAL_KEPT)
        else:
            connection.pragma("query_only", True)
        # In files, what a statement may have to undo costs as much as the statement.
        connection.pragma("temp_store", "memory")
        # Otherwise SQLite may plan a statement anew for each value bound to it, which costs more than running it.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    except BaseException:
        connection.close()
        raise
    return connection


class _Patience:
    """SQLite's own timeout waits ever longer, so that under contention newcomers overtake whoever waits
    longest. Short waits of random length give everybody the same chance.
    """

    def __init__(self) -> None:
        self.seconds = PATIENCE
        self._deadline = 0.0

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._deadline = now + self.seconds
        if now > self._deadline:
            return False
        time.sleep(random.uniform(0.000_2, 0.001))  # noqa: S311 (jitter, not a secret)
        return True


class _Checkpoints:
    """Called after each commit with the length of the write-ahead log."""

    def __init__(self, patience: _Patience) -> None:
        self._patience = patience
        self._last = 0

    def __call__(self, connection: apsw.Connection, schema: str, pages: int) -> int:
        if pages < self._last:  # it began anew
            self._last = 0
        if pages - self._last >= CHECKPOINT_PAGES:
            self._last = pages
            self._checkpoint(connection, schema, pages)
        return apsw.SQLITE_OK

    def _checkpoint(self, connection: apsw.Connection, schema: str, pages: int) -> None:
        many = pages >= TOO_MANY_PAGES
        self._patience.seconds = BRIEFLY
        try:
            connection.wal_checkpoint(
                schema, apsw.SQLITE_CHECKPOINT_RESTART if many else apsw.SQLITE_CHECKPOINT_PASSIVE
            )
        except apsw.Error:  # a reader stays, or the disk is full: next time. The commit itself stands
            return
        finally:
            self._patience.seconds = PATIENCE


def patiently(attempt: Callable[[], T]) -> T:
    """Repeat what SQLite refuses at once, without asking the busy handler, where waiting could deadlock
    (switching to WAL, recovery): we hold nothing there that others wait for.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.01))  # noqa: S311 (jitter, not a secret)
