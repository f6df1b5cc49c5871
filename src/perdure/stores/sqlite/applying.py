"""Transitions: written where their guard holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import apsw

from perdure.databases.sqlite import write_rows
from perdure.domain.transition import Transition
from perdure.stores.sqlite.counting import Lane, tally
from perdure.stores.sqlite.queries import SQL, Row, fetch_value
from perdure.stores.sqlite.rows import edit_row, entry_row, run_row


class Change(NamedTuple):
    """A transition, made ready before the transaction begins, which keeps that short."""

    transition: Transition
    statement: str
    row: Row
    entry: Row | None


def prepare(move: Transition, now: int) -> Change:
    """Make a transition ready to be applied at a moment of the store's clock."""
    after = move.after
    entry = None if move.entry is None else entry_row(after.id, move.entry)
    if move.version is None:
        return Change(move, "apply_fenced", (*run_row(after, now), after.id, move.epoch), entry)
    row = (*run_row(after, now), after.id, move.version, *edit_row(after))
    return Change(move, "apply_guarded", row, entry)


def apply(connection: apsw.Connection, changes: Sequence[Change]) -> list[bool]:
    """Write each change whose guard holds; for each whether it stands."""
    if all(change.statement == "apply_fenced" for change in changes):
        connection.execute("SAVEPOINT together")
        together = _apply_together(connection, changes)
        if not together:  # a conflict, or a repeat: look at each
            connection.execute("ROLLBACK TO together")
        connection.execute("RELEASE together")
        if together:
            return [True] * len(changes)
    return [_apply(connection, change) for change in changes]


def _apply_together(connection: apsw.Connection, changes: Sequence[Change]) -> bool:
    """The way of a worker's batch, of which every guard holds: few statements. False: one did not."""
    before = connection.total_changes()
    write_rows(connection, SQL["apply_fenced"], [change.row for change in changes])
    if connection.total_changes() - before < len(changes):
        return False
    write_rows(connection, SQL["write_entry"], [change.entry for change in changes if change.entry])
    tally(connection, _moves(changes))
    return True


def _apply(connection: apsw.Connection, change: Change) -> bool:
    write_rows(connection, SQL[change.statement], [change.row])
    if connection.changes() == 0:
        return _written_before(connection, change.transition)
    if change.entry is not None:
        write_rows(connection, SQL["write_entry"], [change.entry])
    tally(connection, _moves([change]))
    return True


def _written_before(connection: apsw.Connection, move: Transition) -> bool:
    """Whether the answer to this very write was lost."""
    if move.entry is None:
        return False
    return bool(fetch_value(connection, "has_entry", (move.after.id, move.entry.id)))


def _moves(changes: Iterable[Change]) -> Counter[Lane]:
    """What the changes do to the counters."""
    ways = Counter(
        (move.after.tenant, move.after.kind, move.before, move.after.state)
        for move in (change.transition for change in changes)
    )
    moves: Counter[Lane] = Counter()
    for (tenant, kind, before, after), number in ways.items():
        moves[tenant, kind, before] -= number
        moves[tenant, kind, after] += number
    return moves
