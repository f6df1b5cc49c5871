"""New jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import apsw

from perdure.databases.sqlite import write_rows
from perdure.domain.errors import InvalidInput
from perdure.domain.job import Job
from perdure.stores.sqlite.counting import Lane, tally
from perdure.stores.sqlite.queries import SQL, Row, fetch, fetch_value
from perdure.stores.sqlite.removing import remove
from perdure.stores.sqlite.rows import job_row, json_text


class Addition(NamedTuple):
    """A new job, made ready before the transaction begins, which keeps that short."""

    job: Job
    row: Row
    payload: str | None

    @property
    def lane(self) -> Lane:
        """What it counts in."""
        return self.job.tenant, self.job.kind, self.job.state


def prepare(job: Job, now: int) -> Addition:
    """Make a job ready to be added."""
    return Addition(job, job_row(job, now), json_text(job.payload) if job.payload else None)


def add(connection: apsw.Connection, additions: Sequence[Addition], now: int) -> list[Row | None]:
    """Insert the jobs; for each the row that was there already, or None."""
    connection.execute("SAVEPOINT together")
    together = _insert(connection, additions)
    if not together:  # some are known: look at each
        connection.execute("ROLLBACK TO together")
    connection.execute("RELEASE together")
    return [None] * len(additions) if together else [_add(connection, one, now) for one in additions]


def _insert(connection: apsw.Connection, additions: Sequence[Addition]) -> bool:
    """Insert all; False where one is known, and only some were inserted."""
    first = fetch_value(connection, "next_seq")
    before = connection.total_changes()
    write_rows(connection, SQL["insert"], [(seq, *new.row) for seq, new in enumerate(additions, first)])
    if connection.total_changes() - before < len(additions):
        return False
    payloads = [(seq, new.payload) for seq, new in enumerate(additions, first) if new.payload is not None]
    write_rows(connection, SQL["insert_payload"], payloads)
    tally(connection, Counter(new.lane for new in additions))
    return True


def _add(connection: apsw.Connection, new: Addition, now: int) -> Row | None:
    """Insert one, unless it is known. An expired one makes way, and one whose key has lapsed loses that."""
    for seq, tenant, expired, lapsed in _holders(connection, new.job, now):
        if expired:
            remove(connection, [seq])
        elif tenant != new.job.tenant:
            raise InvalidInput(f"the job id {new.job.id} is taken; give every job a new UUIDv7")
        elif lapsed:
            connection.execute(SQL["unkey"], (seq,))
        else:
            return fetch(connection, "rows", (json_text([seq]),))[0]
    _insert(connection, [new])
    return None


def _holders(connection: apsw.Connection, job: Job, now: int) -> list[Row]:
    values = {"id": job.id, "tenant": job.tenant, "key": job.idempotency_key, "now": now}
    return [*fetch(connection, "holder_of_id", values), *fetch(connection, "holder_of_key", values)]
