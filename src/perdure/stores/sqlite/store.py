"""The job store port, over an SQLite file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from weakref import WeakSet

import apsw

from perdure.databases.sqlite import MEMORY, SqliteGuest, Watch
from perdure.domain.job import Entry, Job
from perdure.domain.log import LogPage
from perdure.domain.moments import micros, micros_of, moment
from perdure.domain.query import JobFilter, Stats
from perdure.domain.terms import PLAIN, Terms
from perdure.domain.transition import Transition
from perdure.ports.job_store import Capabilities, Change
from perdure.stores.sqlite import adding, applying, claiming, counting, finding, removing
from perdure.stores.sqlite.queries import COMPONENT, STEPS, Row
from perdure.stores.sqlite.rows import to_job
from perdure.stores.sqlite.values import SqliteValues


def utc_now() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)


class SqliteJobStore(SqliteGuest):
    """See `perdure.ports.job_store.JobStore`. Every call is one transaction.

    Its clock is the machine's: processes that share a file share the machine.

    Args:
        path: the file, which vectors and blobs may share; ":memory:" for a private one that dies with this object.
        clock: tells the time, aware; where it steps back the store's time stands still.
    """

    def __init__(self, path: str | Path, clock: Callable[[], datetime] = utc_now) -> None:
        super().__init__(path, "job store", COMPONENT, STEPS)
        self._clock = clock
        self._latest = 0
        self._queue = claiming.Queue()
        self._watches: WeakSet[Watch] = WeakSet()
        self.values = SqliteValues(self._read, self._write)

    @property
    def capabilities(self) -> Capabilities:
        """All but native TTL, of a file; a database in memory is this process's own."""
        on_disk = str(self._path) != MEMORY
        return Capabilities(
            durable=on_disk,
            multi_process=on_disk,
            change_feed=True,
            native_ttl=False,
            constant_stats=True,
            transactions=True,
        )

    async def close(self) -> None:
        for watch in self._watches:
            watch.wake(closed=True)
        await super().close()

    async def now(self) -> datetime:
        return moment(self._now())

    # --- writing: what is sent is encoded before the transaction begins, what comes back decoded after it ended --------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        now = self._now()
        additions = [adding.prepare(job, now) for job in jobs]
        known = await self._write(lambda connection: adding.add(connection, additions, now))
        return [job if row is None else to_job(row) for job, row in zip(jobs, known, strict=True)]

    async def claim(
        self, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
    ) -> list[Job]:
        def work(connection: apsw.Connection) -> list[Row]:
            now = self._now()  # not before: a lease should not run while the claim waits for its turn
            until = now + micros_of(lease)
            return self._queue.claim(
                connection, worker, list(dict.fromkeys(kinds)), limit, now, until, terms=terms
            )

        return [to_job(row) for row in await self._write(work)]

    async def extend(self, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
        return await self._write(
            lambda connection: claiming.extend(connection, worker, epochs, self._now() + micros_of(lease))
        )

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        now = self._now()
        changes = [applying.prepare(move, now) for move in transitions]
        return await self._write(lambda connection: applying.apply(connection, changes))

    async def delete(self, tenant: str, job_id: str) -> bool:
        return await self._write(lambda connection: removing.delete(connection, tenant, job_id, self._now()))

    async def purge(self, limit: int) -> int:
        return await self._write(lambda connection: removing.purge(connection, self._now(), limit))

    # --- reading ----------------------------------------------------------------------------

    async def get(self, tenant: str, job_id: str) -> Job | None:
        now = self._now()
        row = await self._read(lambda connection: finding.get(connection, tenant, job_id, now))
        return None if row is None else to_job(row)

    async def find(self, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
        now = self._now()
        rows = await self._read(lambda connection: finding.find(connection, query, limit, after, now))
        return [to_job(row) for row in rows]

    async def count(self, query: JobFilter) -> int:
        now = self._now()
        return await self._read(lambda connection: finding.count(connection, query, now))

    async def stats(self, tenant: str | None) -> Stats:
        return await self._read(lambda connection: counting.stats(connection, tenant))

    async def tenants(self, limit: int, after: str = "") -> dict[str, datetime | None]:
        now = self._now()
        found = await self._read(lambda connection: claiming.tenants(connection, limit, after, now))
        return {name: None if due is None else moment(due) for name, due in found.items()}

    async def expired(self, limit: int) -> list[Job]:
        now = self._now()
        rows = await self._read(lambda connection: finding.overdue(connection, now, limit))
        return [to_job(row) for row in rows]

    async def history(self, tenant: str, job_id: str) -> list[Entry]:
        now = self._now()
        return await self._read(lambda connection: finding.history(connection, tenant, job_id, now))

    async def entries(self, after: str | None, limit: int) -> LogPage:
        return await self._read(lambda connection: finding.log(connection, after, limit))

    async def changes(self) -> AsyncIterator[Change]:
        """See the port. The hints name no job: SQLite tells that something was committed, and no more."""
        watch = self._opened().watch()
        self._watches.add(watch)
        async for _ in watch:
            yield Change()

    # --- behind it --------------------------------------------------------------------------

    def _now(self) -> int:
        """Microseconds since 1970."""
        self._opened()
        self._latest = max(self._latest, micros(self._clock()))
        return self._latest
