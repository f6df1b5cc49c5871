"""Jobs that go, with all that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from perdure.stores.sqlite.counting import tally
from perdure.stores.sqlite.queries import SQL, fetch
from perdure.stores.sqlite.rows import json_text


def remove(connection: apsw.Connection, seqs: Sequence[int]) -> None:
    """Remove jobs by their numbers."""
    numbers = (json_text(seqs),)
    tally(
        connection,
        {
            (tenant, kind, state): -number
            for tenant, kind, state, number in fetch(connection, "census", numbers)
        },
    )
    for statement in ("delete_history", "delete_payloads", "delete_jobs"):
        connection.execute(SQL[statement], numbers)


def delete(connection: apsw.Connection, tenant: str, job_id: str, now: int) -> bool:
    """Remove one job of this tenant; whether there was one."""
    holders = fetch(connection, "holder_of_id", {"id": job_id, "now": now})
    seqs = [seq for seq, owner, *_ in holders if owner == tenant]
    remove(connection, seqs)
    return bool(seqs)


def purge(connection: apsw.Connection, now: int, limit: int) -> int:
    """Remove up to `limit` expired jobs; how many."""
    seqs = [seq for (seq,) in fetch(connection, "expired", (now, limit))]
    remove(connection, seqs)
    return len(seqs)
