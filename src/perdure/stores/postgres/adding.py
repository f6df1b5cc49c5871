"""How new jobs get in: all of a call or none, and each once however often it is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from perdure.domain.job import Job
from perdure.stores.postgres.aftermath import CHANNEL
from perdure.stores.postgres.rows import COLUMNS, job_of, row_of

if TYPE_CHECKING:
    from perdure.databases.postgres.database import Connection

COPY_FROM: Final = 50
"""Jobs of one call from which on COPY is worth its round trips."""


class Adder:
    """Writes new jobs on a connection."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries

    async def one(self, connection: Connection, job: Job, notice: str | None) -> bool:
        """Write one job in one statement, and notify; False where something is there already under its id or key."""
        return bool(await connection.fetch(self._queries["insert_one"], *row_of(job), CHANNEL, notice))

    async def many(self, connection: Connection, jobs: Sequence[Job]) -> None:
        """Write jobs of which none is there yet, by COPY. Needs a transaction.

        Raises:
            asyncpg.UniqueViolationError: one is.
        """
        # Made as they are sent, while the server takes in those before.
        await connection.copy_records_to_table("perdure_jobs", records=map(row_of, jobs), columns=COLUMNS)
        counts = Counter((job.tenant, job.kind, job.state) for job in jobs)
        rows = [(*lane, number) for lane, number in counts.items()]
        await connection.execute(self._queries["count_copied"], *_turned(rows))

    async def any(self, connection: Connection, jobs: Sequence[Job]) -> list[Job]:
        """Write those that are not there yet; the answer of `JobStore.add`. Needs a transaction."""
        stored = _Stored()
        while rest := [job for job in jobs if stored.like(job) is None]:
            fresh = await self._insert(connection, rest)
            stored.put(job for job in rest if job.id in fresh)
            if unknown := [job for job in rest if stored.like(job) is None]:
                stored.put(await self._known(connection, unknown))
        return [found for job in jobs if (found := stored.like(job))]

    async def _insert(self, connection: Connection, jobs: Sequence[Job]) -> set[str]:
        """The ids of those that were not there. In the order of what may collide, so that nobody waits in a circle."""
        first_of_each = dict(reversed({job.id: job for job in reversed(jobs)}.items()))
        rows = [row_of(job) for job in sorted(first_of_each.values(), key=_order)]
        return {str(row["id"]) for row in await connection.fetch(self._queries["insert"], *_turned(rows))}

    async def _known(self, connection: Connection, jobs: Sequence[Job]) -> list[Job]:
        """What is there under the ids and keys of these jobs. Expired ones make way, lapsed ones lose their key."""
        keyed = [job for job in jobs if job.idempotency_key is not None]
        rows = await connection.fetch(
            self._queries["known"],
            [job.id for job in jobs],
            [job.tenant for job in keyed],
            [job.idempotency_key for job in keyed],
        )
        if expired := [row["id"] for row in rows if not row["visible"]]:
            gone = await connection.fetch(self._queries["expire"], expired)
            await connection.execute(self._queries["remove"], [row["id"] for row in gone])
        ours = {job.id for job in jobs}
        found = [(job_of(row), row["asked_at"]) for row in rows if row["visible"]]
        lapsed = {job.id for job, now in found if job.id not in ours and job.lapsed(now)}
        if lapsed:
            await connection.execute(self._queries["unkey"], list(lapsed))
        return [job for job, _now in found if job.id not in lapsed]


class _Stored:
    """The jobs of one call that are stored by now, under their ids and keys."""

    def __init__(self) -> None:
        self._ids: dict[str, Job] = {}
        self._keys: dict[tuple[str, str], Job] = {}

    def put(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._ids.setdefault(job.id, job)
            if job.idempotency_key is not None:
                self._keys.setdefault((job.tenant, job.idempotency_key), job)

    def like(self, job: Job) -> Job | None:
        """The stored job that this one is, or repeats."""
        return self._ids.get(job.id) or self._keys.get((job.tenant, job.idempotency_key or ""))


def _order(job: Job) -> tuple[str, str, str]:
    key = job.idempotency_key
    return (job.tenant, "", job.id) if key is None else (job.tenant, key, "")


def _turned(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """Rows as columns."""
    return list(map(list, zip(*rows, strict=True)))
