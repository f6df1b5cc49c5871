"""Many rows in one step."""

from __future__ import annotations

from contextlib import closing

import apsw
from hypothesis import given
from hypothesis import strategies as some

from perdure.databases.sqlite import write_rows
from perdure.databases.sqlite.rows import MOST

TABLE = "CREATE TABLE pairs (n INTEGER PRIMARY KEY, word TEXT)"
INSERT = "INSERT INTO pairs (n, word) VALUES {rows}"
UPDATE = "UPDATE pairs SET word = new.column2 FROM (VALUES {rows}) AS new WHERE pairs.n = new.column1"


@given(some.lists(some.text(min_size=1), max_size=3 * MOST))
def test_every_row_is_written_once_and_in_order(words: list[str]) -> None:
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(TABLE)
        rows = list(enumerate(word.replace("\x00", "") for word in words))
        write_rows(connection, INSERT, rows)
        assert connection.execute("SELECT n, word FROM pairs ORDER BY n").fetchall() == rows
        changed = [(number, word + "!") for number, word in rows]
        write_rows(connection, UPDATE, changed)
        assert connection.execute("SELECT n, word FROM pairs ORDER BY n").fetchall() == changed


def test_rows_take_few_steps() -> None:
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(TABLE)
        steps = list[str]()

        def seen(_cursor: object, statement: str, _values: object) -> bool:
            steps.append(statement)
            return True

        connection.set_exec_trace(seen)
        write_rows(connection, INSERT, [(number, "x") for number in range(3 * MOST + 5)])
        assert len(steps) == 3 + 2
