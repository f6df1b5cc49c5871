"""The counters behind `stats`: kept in the transaction that moves the jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import apsw

from perdure.domain.query import Stats
from perdure.domain.state import JobState
from perdure.stores.sqlite.queries import SQL, fetch

Lane: TypeAlias = tuple[str, str, str]
"""(tenant, kind, state)"""


def tally(connection: apsw.Connection, deltas: Mapping[Lane, int]) -> None:
    """Add to the counters; once for a batch of jobs, which mostly share a lane."""
    connection.executemany(SQL["count"], [(*lane, delta) for lane, delta in deltas.items() if delta])


def stats(connection: apsw.Connection, tenant: str | None) -> Stats:
    """Read the counters."""
    rows = fetch(connection, "stats_of_all") if tenant is None else fetch(connection, "stats", (tenant,))
    counts: dict[str, dict[JobState, int]] = {}
    for kind, state, number in rows:
        counts.setdefault(kind, {})[JobState(state)] = number
    return Stats(counts=counts)
