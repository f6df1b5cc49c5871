"""Claims on terms: by limits and shares. What is claimed without any is one statement, `claim`.

By a limit only one transaction claims at a time: it holds the kind's lock before it looks how many run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from perdure.domain.job import Job
from perdure.domain.terms import Limit, Slots, Terms, Turns
from perdure.stores.postgres.rows import claimed_job_of

if TYPE_CHECKING:
    from perdure.databases.postgres.database import Connection

_ABOVE_ALL: Final = -1001
"""Before the rung of any priority."""


class ClaimOnTerms:
    """Claims in a transaction. Each process serves the tenants in turn."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries
        self._turns = Turns[str]()

    async def claim(
        self,
        connection: Connection,
        worker: str,
        kinds: Sequence[str],
        limit: int,
        lease: timedelta,
        terms: Terms,
    ) -> list[Job]:
        """Take up to `limit` jobs for `worker`, in the order of claiming. Needs a transaction."""
        slots = await self._slots(connection, terms.of(kinds))
        chosen: list[str] = []
        rung = _ABOVE_ALL
        while len(chosen) < limit and (free := [kind for kind in kinds if slots.left(kind)]):
            [row] = await connection.fetch(self._queries["next_rung"], free, rung)
            if row[0] is None:
                break
            rung, room = row[0], limit - len(chosen)
            lines = await self._lines(connection, free, rung, room, terms, slots)
            chosen += self._turns.deal(-rung, lines, room, terms, slots)
        if not chosen:
            return []
        rows = await connection.fetch(self._queries["take"], worker, chosen, len(chosen), lease)
        now = rows[0]["claimed_at"]
        jobs = {job.id: job for job in (claimed_job_of(row, worker, now, lease) for row in rows)}
        return [jobs[job_id] for job_id in chosen]

    async def _slots(self, connection: Connection, limits: Mapping[str, Limit]) -> Slots:
        if not limits:
            return Slots({}, {})
        await connection.fetch(self._queries["hold_limits"], list(limits))
        rows = await connection.fetch(self._queries["running"], list(limits))
        return Slots(limits, {(row["kind"], row["tenant"]): row["jobs"] for row in rows})

    async def _lines(
        self, connection: Connection, kinds: Sequence[str], rung: int, room: int, terms: Terms, slots: Slots
    ) -> dict[str, list[tuple[str, str]]]:
        """(kind, id) of each tenant's first jobs there, in the order of their turns."""
        last, begun = self._turns.last(-rung, terms)
        full = slots.full()
        laden = [kind for kind, _ in full], [tenant for _, tenant in full]
        rows = await connection.fetch(self._queries["next_tenants"], kinds, rung, room, last, *laden)
        tenants = [row["tenant"] for row in rows]
        if begun:
            tenants = [last, *(tenant for tenant in tenants if tenant != last)]
        tenants = tenants[:room]
        shares = terms.portions(tenants, room)
        lanes = [
            (kind, tenant, min(shares[tenant], left))
            for tenant in tenants
            for kind in kinds
            if (left := slots.left(kind, tenant))
        ]
        asked = list(map(list, zip(*lanes, strict=True))) or [[], [], []]
        lines: defaultdict[str, list[tuple[str, str]]] = defaultdict(list, {tenant: [] for tenant in tenants})
        for row in await connection.fetch(self._queries["next_in_lanes"], *asked, rung):
            lines[row["tenant"]].append((row["kind"], str(row["id"])))
        return lines
