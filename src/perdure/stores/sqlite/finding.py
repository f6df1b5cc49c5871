"""Lists and counts of jobs.

Where jobs can be at all is known from the counters: a few lanes (tenant, kind, state). A page takes the newest of each
lane by its index and merges them, so that it costs the same at any number of jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import apsw

from perdure.domain.errors import CursorLost
from perdure.domain.job import Entry
from perdure.domain.log import Logged, LogPage
from perdure.domain.moments import micros
from perdure.domain.query import JobFilter
from perdure.stores.sqlite.counting import Lane
from perdure.stores.sqlite.queries import SQL, Row, fetch, fetch_value
from perdure.stores.sqlite.rows import json_text, to_entry

ALL: Final = -1
"""No limit."""

AFTER_ALL: Final = "~"
"""Greater than any id; the empty text is less."""


def get(connection: apsw.Connection, tenant: str, job_id: str, now: int) -> Row | None:
    """The row of a job, unless it is expired."""
    values = {"tenant": tenant, "id": job_id, "now": now}
    return next(iter(fetch(connection, "get", values)), None)


def find(connection: apsw.Connection, query: JobFilter, limit: int, after: str | None, now: int) -> list[Row]:
    """The rows of a page."""
    found: list[Row] = []
    after = after or ("" if query.oldest_first else AFTER_ALL)
    for statement, values in _searches(connection, query, limit, after, now):
        if query.oldest_first:
            statement = statement.replace("id < :after", "id > :after").replace("id DESC", "id")  # noqa: PLW2901
        found += connection.execute(statement, values).fetchall()
    first = sorted(found, reverse=not query.oldest_first)[:limit]
    return fetch(connection, "rows", (json_text([seq for _id, seq in first]),))


def count(connection: apsw.Connection, query: JobFilter, now: int) -> int:
    """How many jobs match."""
    return sum(
        connection.execute(f"SELECT count(*) FROM ({statement})", values).get  # noqa: S608 (of our own file)
        for statement, values in _searches(connection, query, ALL, AFTER_ALL, now)
    )


def _searches(
    connection: apsw.Connection, query: JobFilter, limit: int, after: str, now: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The statements that find what matches, each with its values; no job is found by two."""
    common: dict[str, Any] = {
        "limit": limit,
        "after": after,
        "now": now,
        "user_id": query.user_id,
        "document_id": query.document_id,
        "kinds": json_text(query.kinds) if query.kinds else None,
        "states": json_text(query.states) if query.states else None,
        "created_from": -(2**63) if query.created_from is None else micros(query.created_from),
        "created_before": 2**63 - 1 if query.created_before is None else micros(query.created_before),
    }
    if query.user_id is not None or query.document_id is not None:
        statement = SQL["find_of_document" if query.user_id is None else "find_of_user"]
        for tenant in _tenants(connection, query):
            yield statement, {**common, "tenant": tenant}
    elif query.tenant is None and not query.kinds and not query.states:
        yield SQL["find_of_all"], common
    else:
        for tenant, kind, state in _lanes(connection, query):
            yield SQL["find_in_lane"], {**common, "tenant": tenant, "kind": kind, "state": state}


def _tenants(connection: apsw.Connection, query: JobFilter) -> list[str]:
    if query.tenant is not None:
        return [query.tenant]
    return [tenant for (tenant,) in fetch(connection, "tenants")]


def _lanes(connection: apsw.Connection, query: JobFilter) -> list[Lane]:
    lanes = (
        fetch(connection, "lanes_of_all")
        if query.tenant is None
        else fetch(connection, "lanes", (query.tenant,))
    )
    return [
        (tenant, kind, state)
        for tenant, kind, state in lanes
        if (not query.kinds or kind in query.kinds) and (not query.states or state in query.states)
    ]


def history(connection: apsw.Connection, tenant: str, job_id: str, now: int) -> list[Entry]:
    """The job's entries, oldest first."""
    values = {"tenant": tenant, "id": job_id, "now": now}
    return [to_entry(row) for row in fetch(connection, "history", values)]


def log(connection: apsw.Connection, after: str | None, limit: int) -> LogPage:
    """Entries by the numbers under which they were written: SQLite has one writer, so these are in the order of commits."""
    end: int = fetch_value(connection, "end_of_log")
    done = end if after is None else int(after)
    if done > end:
        raise CursorLost(f"the log ends at {end}, before this position ({done}): it is of another file")
    rows = fetch(connection, "log", (done, limit))
    lines = tuple(
        Logged(tenant=tenant, job_id=job_id, kind=kind, entry=to_entry(entry))
        for _seq, tenant, job_id, kind, *entry in rows
        if tenant is not None
    )
    reached = rows[-1][0] if rows else done
    return LogPage(lines=lines, next=str(reached), more=reached < end and len(rows) == limit)


def overdue(connection: apsw.Connection, now: int, limit: int) -> list[Row]:
    """The rows of unfinished jobs whose time is over."""
    seqs = [seq for (seq,) in fetch(connection, "overdue", (now, limit))]
    return fetch(connection, "rows", (json_text(seqs),))
