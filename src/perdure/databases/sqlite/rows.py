"""Many rows in one step of SQLite.

Before each step SQLite's thread lets go of the interpreter, and afterwards waits for it, while others hold it: where a loop
and other threads are busy, a step for each row takes many times as long as its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

import apsw

MOST: Final = 64
"""Rows of a step; with 128 hardly anything is gained."""


def write_rows(connection: apsw.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Execute a statement for all of the rows, which are of one length.

    Args:
        statement: with ``VALUES {rows}`` where the rows stand.
    """
    done, count = 0, MOST
    while left := len(rows) - done:
        while count > left:  # powers of two, so that the statements are few and stay prepared
            count //= 2
        values = tuple(chain.from_iterable(rows[done : done + count]))
        connection.execute(_spelt(statement, len(rows[0]), count), values)
        done += count


@cache
def _spelt(statement: str, columns: int, count: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return statement.format(rows=", ".join([row] * count))
