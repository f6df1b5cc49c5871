"""Which job is next, and who holds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, TypeAlias

import apsw

from perdure.domain.terms import Limit, Slots, Terms, Turns
from perdure.stores.sqlite.counting import tally
from perdure.stores.sqlite.queries import SQL, Row, fetch, fetch_value
from perdure.stores.sqlite.rows import json_text

PROMOTED: Final = 10_000
"""Most jobs that one claim puts into line as they become due; when more become due at once, later claims go on."""

ABOVE_ALL: Final = 1001
"""Higher than any priority."""

Due: TypeAlias = Row
"""(due_at, id, seq, kind)"""


class Queue:
    """The line of jobs that are due. It is walked lane by lane in one index, so that neither how many wait in it
    nor how many are scheduled for later changes what a claim costs.
    """

    def __init__(self) -> None:
        self._turns = Turns[int]()

    def claim(
        self,
        connection: apsw.Connection,
        worker: str,
        kinds: Sequence[str],
        limit: int,
        now: int,
        until: int,
        *,
        terms: Terms,
    ) -> list[Row]:
        """Take up to `limit` jobs for `worker`; their rows, in the order of claiming."""
        connection.execute(SQL["promote"], (now, PROMOTED))
        seqs = json_text(list(self._next(connection, kinds, limit, now, terms)))
        connection.execute(SQL["take"], {"seqs": seqs, "worker": worker, "now": now, "until": until})
        rows = fetch(connection, "rows", (seqs,))
        lanes = Counter(row[2:4] for row in rows)  # (tenant, kind)
        tally(connection, {(*lane, "pending"): -number for lane, number in lanes.items()})
        tally(connection, {(*lane, "running"): number for lane, number in lanes.items()})
        return rows

    def _next(
        self, connection: apsw.Connection, kinds: Sequence[str], limit: int, now: int, terms: Terms
    ) -> Iterator[int]:
        """The numbers of the next jobs, priority by priority."""
        slots = _slots(connection, terms.of(kinds))
        room, below = limit, ABOVE_ALL
        while room > 0:
            heads = {
                kind: fetch_value(connection, "next_priority", (kind, below))
                for kind in kinds
                if slots.left(kind)
            }
            below = max((head for head in heads.values() if head is not None), default=-ABOVE_ALL)
            level = Level(
                connection, [kind for kind, head in heads.items() if head == below], below, now, slots
            )
            if not level.kinds:
                return
            last, begun = self._turns.last(below, terms)
            lines = level.lines(room, last, terms, begun=begun > 0)
            dealt = self._turns.deal(below, lines, room, terms, slots)
            yield from dealt
            room -= len(dealt)


def _slots(connection: apsw.Connection, limits: Mapping[str, Limit]) -> Slots:
    rows = fetch(connection, "running", (json_text(list(limits)),)) if limits else []
    return Slots(limits, {(kind, tenant): number for kind, tenant, number in rows})


class Level:
    """Jobs of one priority that are due."""

    def __init__(
        self, connection: apsw.Connection, kinds: Sequence[str], priority: int, now: int, slots: Slots
    ) -> None:
        self._connection = connection
        self._priority = priority
        self._now = now
        self._slots = slots
        self.kinds = kinds

    def lines(self, room: int, last: str, terms: Terms, *, begun: bool) -> dict[str, list[tuple[str, int]]]:
        """(kind, number) of each tenant's first jobs, together at least `room` where there are so many.

        Args:
            last: the tenant served last: its turn has only `begun`, or it is the next one's.
        """
        tenants = self._tenants(room, last)
        if begun:
            tenants = [last, *(tenant for tenant in tenants if tenant != last)]
        lines: dict[str, list[Due]] = {tenant: [] for tenant in tenants}
        hungry = list(lines)
        while hungry and room > 0:
            for tenant, share in terms.portions(hungry[:room], room).items():
                found = self._due(tenant, lines[tenant], share)
                lines[tenant] += found
                room -= len(found)
                if len(found) < share:
                    hungry.remove(tenant)
        return {tenant: [(due[3], due[2]) for due in line] for tenant, line in lines.items()}

    def _tenants(self, limit: int, last: str) -> list[str]:
        """Up to `limit` tenants in line: first those after `last`, then from the beginning."""
        tenants: list[str] = []
        for begin, end in ((last, None), ("", last)):
            tenant = self._tenant(begin)
            while tenant is not None and len(tenants) < limit and (end is None or tenant <= end):
                tenants.append(tenant)
                tenant = self._tenant(tenant)
        return tenants

    def _tenant(self, after: str) -> str | None:
        found = (self._tenant_of(kind, after) for kind in self.kinds)
        return min((tenant for tenant in found if tenant is not None), default=None)

    def _tenant_of(self, kind: str, after: str) -> str | None:
        """The next tenant who has jobs of the kind, and may run one."""
        while True:
            tenant: str | None = fetch_value(self._connection, "next_tenant", (kind, self._priority, after))
            if tenant is None or self._slots.left(kind, tenant):
                return tenant
            after = tenant

    def _due(self, tenant: str, before: Sequence[Due], limit: int) -> list[Due]:
        """A tenant's next `limit` jobs after those that it got before."""
        due_at, job_id, *_ = before[-1] if before else (-(2**63), "", 0, "")
        lanes = (
            fetch(
                self._connection,
                "next_due",
                (
                    kind,
                    self._priority,
                    tenant,
                    self._now,
                    due_at,
                    job_id,
                    min(limit, self._slots.left(kind, tenant)),
                ),
            )
            for kind in self.kinds
        )
        return sorted(chain.from_iterable(lanes))[:limit]


def tenants(connection: apsw.Connection, limit: int, after: str, now: int) -> dict[str, int | None]:
    """Who has jobs, and since when the first of each has been due: one look for each lane."""
    oldest = Counter[str]()
    for tenant, due_at in _first_of_each(connection, now):
        oldest[tenant] = min(due_at, oldest[tenant] or due_at)
    names = fetch(connection, "next_tenants", (after, limit))
    return {name: oldest.get(name) for (name,) in names}


def _first_of_each(connection: apsw.Connection, now: int) -> Iterator[tuple[str, int]]:
    yield from fetch(connection, "not_promoted", (now, PROMOTED))
    for (kind,) in set(fetch(connection, "pending_kinds")):
        priority = ABOVE_ALL
        while (priority := fetch_value(connection, "next_priority", (kind, priority))) is not None:
            tenant = ""
            while (tenant := fetch_value(connection, "next_tenant", (kind, priority, tenant))) is not None:
                lane = (kind, priority, tenant, now, -(2**63), "", 1)
                yield from ((tenant, due_at) for due_at, *_ in fetch(connection, "next_due", lane))


def extend(connection: apsw.Connection, worker: str, epochs: Mapping[str, int], until: int) -> set[str]:
    """Move the leases on; the ids that the worker no longer owns."""
    values = {"epochs": json_text(epochs), "worker": worker, "until": until}
    kept = {job_id for (job_id,) in fetch(connection, "extend", values)}
    return set(epochs) - kept
