"""Jobs in a PostgreSQL database that any number of processes share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from perdure.databases.postgres import Duplicate, Gathering, PostgresDatabase, Schema, load_queries, prepare
from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Entry, Job
from perdure.domain.log import LogPage
from perdure.domain.query import JobFilter, Stats
from perdure.domain.state import JobState
from perdure.domain.terms import PLAIN, Terms
from perdure.domain.transition import Transition
from perdure.ports.job_store import Capabilities, Change
from perdure.stores.postgres import finding
from perdure.stores.postgres.adding import COPY_FROM, Adder
from perdure.stores.postgres.aftermath import CHANNEL, Aftermath, changes_of, names
from perdure.stores.postgres.claiming import ClaimOnTerms
from perdure.stores.postgres.floor import FIRST, Floor, Mark, with_floor
from perdure.stores.postgres.joining import Joining
from perdure.stores.postgres.keeping import Keeping
from perdure.stores.postgres.rows import STATES, claimed_job_of, decode_entry, job_of, moves_as_columns
from perdure.stores.postgres.values import PostgresValues, log

if TYPE_CHECKING:
    from perdure.databases.postgres import Connection

SCHEMA: Final = Schema(
    scripts=Path(__file__).with_name("migrations"),
    version_table="perdure_jobs_version",
    head="0002",
    indexes=(
        *(
            f"perdure_jobs_{name}"
            for name in ("pending", "overdue", "finished", "listed", "by_user", "by_document", "key")
        ),
        "perdure_history_log",
    ),
)


class PostgresJobStore:
    """See `JobStore`.

    A call is one statement, hence one transaction, wherever it can be; PostgreSQL's clock decides (`now()`: when the
    statement began). Statements run at READ COMMITTED.

    Args:
        where: a URL, or a database that others hold too; it is closed with its last holder.
    """

    def __init__(self, where: str | PostgresDatabase) -> None:
        database = PostgresDatabase(where) if isinstance(where, str) else where
        database.hold(self)
        self._database = database
        self._closed = asyncio.Event()
        self._queries = load_queries("perdure.stores.postgres", "queries.sql")
        self._adder = Adder(self._queries)
        self._hints = database.options.hints == "on" and database.options.pooler == "none"
        self._joining = Joining(database, self._queries, announce=self._hints)
        self._aftermath = Aftermath(database, self._queries["fold"], announce=self._hints)
        self.values = PostgresValues(self._fetch)
        self._gathering = Gathering(self._look)
        self._keeping = Keeping(lambda: self._fetch("enough"))
        self._on_terms = ClaimOnTerms(self._queries)
        self._claim_from = with_floor(self._queries["claim"])
        self._floors: dict[tuple[str, ...], Floor] = {}
        self._overdue = Mark()
        self._purged = FIRST
        self._turns: defaultdict[tuple[str, ...], dict[int, str]] = defaultdict(dict)
        """kinds → priority → the tenant that this process served last."""

    @property
    def capabilities(self) -> Capabilities:
        """See `JobStore.capabilities`."""
        return Capabilities(
            durable=True,
            multi_process=True,
            change_feed=self._hints,
            native_ttl=False,
            constant_stats=True,
            transactions=True,
            joins=True,
        )

    async def setup(self) -> None:
        """See `JobStore.setup`.

        Raises:
            SchemaMismatch: also where the schema is older and the URL says ``migrate=off``.
        """
        await prepare(self._here(), SCHEMA, change=self._database.options.migrate == "on")

    async def close(self) -> None:
        """See `JobStore.close`."""
        if not self._closed.is_set():
            self._closed.set()
            await self._aftermath.close()
            for floor in self._floors.values():
                await floor.close()
            await self._database.release(self)

    async def now(self) -> datetime:
        """See `JobStore.now`."""
        [row] = await self._fetch("now")
        moment: datetime = row[0]
        return moment

    # --- writing ----------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job], *, connection: object | None = None) -> list[Job]:
        """See `JobStore.add` and `JoiningJobStore.add`; connections are asyncpg's."""
        database = self._here()
        if connection is not None:
            stored = await self._joining.add(connection, jobs) if jobs else []
            self._aftermath.tell(())
            return stored
        return await self._add(database, jobs) if jobs else []

    async def _add(self, database: PostgresDatabase, jobs: Sequence[Job]) -> list[Job]:
        if len(jobs) == 1:
            return await self._add_one(database, jobs[0])
        if len(jobs) >= COPY_FROM and all(job.idempotency_key is None for job in jobs):
            try:
                await database.run(lambda connection: self._adder.many(connection, jobs), atomic=True)
            except Duplicate:  # said before, perhaps in a call whose answer was lost
                pass
            else:
                self._aftermath.tell(names(jobs))
                return list(jobs)
        return await self._add_any(database, jobs)

    async def _add_one(self, database: PostgresDatabase, job: Job) -> list[Job]:
        notice = self._aftermath.ride(job)
        if not await database.run(lambda connection: self._adder.one(connection, job, notice), lasting=True):
            return await self._add_any(database, [job])
        self._aftermath.tell(names([job] if notice is None else []))
        return [job]

    async def _add_any(self, database: PostgresDatabase, jobs: Sequence[Job]) -> list[Job]:
        stored = await database.run(lambda connection: self._adder.any(connection, jobs), atomic=True)
        self._aftermath.tell(names(stored))
        return stored

    async def claim(
        self, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
    ) -> list[Job]:
        """See `JobStore.claim`. Each process serves the tenants in turn."""
        if terms.of(kinds) or terms.shares:
            jobs = await self._here().run(
                lambda connection: self._on_terms.claim(connection, worker, kinds, limit, lease, terms),
                atomic=True,
            )
            self._aftermath.tell(names(jobs))
            return jobs
        jobs = []
        more = limit > 0
        while more and len(jobs) < limit:
            try:
                taken, more = await self._claim_round(worker, tuple(kinds), limit - len(jobs), lease)
            except StoreUnavailable:
                if not jobs:
                    raise
                break  # those of the rounds before are ours
            jobs += taken
        if jobs:
            self._aftermath.tell(names(jobs))
        return jobs

    async def _claim_round(
        self, worker: str, kinds: tuple[str, ...], limit: int, lease: timedelta
    ) -> tuple[list[Job], bool]:
        turns = self._turns[kinds]
        rungs = [-priority for priority in turns]
        values = [worker, kinds, limit, lease, rungs, list(turns.values())]
        floor = self._floors.get(kinds) or self._floors.setdefault(kinds, Floor(kinds, self._fetch))
        lasting, begun = await self._lasting(), time.monotonic()
        since = floor.since
        if since is None:
            rows = await self._fetch("claim", *values, lasting=lasting)
        else:
            rows = await self._select((self._claim_from, [*values, since]), lasting=lasting)
        head = rows[0]["head"] if rows and since is not None else None
        floor.note(time.monotonic() - begun, head)
        if not rows:
            return [], False
        now = rows[0]["claimed_at"]
        jobs = [claimed_job_of(row, worker, now, lease) for row in _in_turn(rows)]
        turns[jobs[-1].priority] = jobs[-1].tenant
        return jobs, rows[0]["more"]

    async def extend(self, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
        """See `JobStore.extend`."""
        if not epochs:
            return set()
        lasting = await self._lasting()
        rows = await self._fetch(
            "extend", worker, list(epochs), list(epochs.values()), lease, lasting=lasting
        )
        tenants = {str(row["id"]): row["tenant"] for row in rows}
        self._aftermath.tell((tenant, job_id) for job_id, tenant in tenants.items())
        return epochs.keys() - tenants.keys()

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        """See `JobStore.apply`. A call with one transition for each job, none of them refused, is one statement."""
        rounds = _rounds(transitions)

        async def work(connection: Connection) -> set[int]:
            stand: set[int] = set()
            for places in rounds:
                moves = moves_as_columns([transitions[place] for place in places])
                [row] = await connection.fetch(self._queries["apply"], *moves)
                stand |= {places[place - 1] for place in row["places"] or ()}
            return stand

        stand = await self._here().run(work, atomic=len(rounds) > 1, lasting=await self._lasting())
        stand |= await self._written_before(transitions, stand)
        self._aftermath.tell(names(transitions[place].after for place in stand))
        return [place in stand for place in range(len(transitions))]

    async def _written_before(self, transitions: Sequence[Transition], stand: set[int]) -> set[int]:
        """Places of those refused that had gone through before. Asked later, for one may have waited for another's lock."""
        told = [
            (place, move.after.id, move.entry.id)
            for place, move in enumerate(transitions)
            if place not in stand and move.entry is not None
        ]
        if not told:
            return set()
        places, job_ids, entry_ids = zip(*told, strict=True)
        return {places[row["place"] - 1] for row in await self._fetch("written_before", job_ids, entry_ids)}

    async def delete(self, tenant: str, job_id: str) -> bool:
        """See `JobStore.delete`."""
        removed = len(await self._remove("lock", tenant, job_id))
        self._aftermath.tell((tenant, job_id) for _ in range(removed))
        return removed > 0

    async def purge(self, limit: int) -> int:
        """See `JobStore.purge`. Those that are just being requeued are passed over. A bite begins where the last one ended."""
        gone = await self._remove("purge", limit, self._purged)
        self._purged = gone[-1]["due_at"] if 0 < len(gone) == limit else FIRST
        self._aftermath.tell(())
        return len(gone)

    async def _remove(self, which: str, *values: object) -> list[asyncpg.Record]:
        """Lock the jobs that a statement chooses, then remove them with all of their history."""

        async def work(connection: Connection) -> list[asyncpg.Record]:
            chosen = await connection.fetch(self._queries[which], *values)
            await connection.fetch(self._queries["remove"], [row["id"] for row in chosen])
            return chosen

        return await self._here().run(work, atomic=True)

    # --- reading ----------------------------------------------------------------------------

    async def get(self, tenant: str, job_id: str) -> Job | None:
        """See `JobStore.get`."""
        job = await self._gathering.get(job_id)
        return job if job is not None and job.tenant == tenant else None

    async def _look(self, job_ids: Sequence[str]) -> dict[str, Job]:
        rows = await self._fetch("get", job_ids, lasting=await self._lasting())
        return {job.id: job for job in map(job_of, rows)}

    async def find(self, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
        """See `JobStore.find`."""
        return [job_of(row) for row in await self._select(finding.page(self._queries, query, limit, after))]

    async def count(self, query: JobFilter) -> int:
        """See `JobStore.count`."""
        [row] = await self._select(finding.count(self._queries, query))
        return int(row[0])

    async def stats(self, tenant: str | None) -> Stats:
        """See `JobStore.stats`."""
        counts: defaultdict[str, dict[JobState, int]] = defaultdict(dict)
        for row in await self._fetch("stats", tenant):
            counts[row["kind"]][STATES[row["state"]]] = row["jobs"]
        return Stats(counts=dict(counts))

    async def tenants(self, limit: int, after: str = "") -> dict[str, datetime | None]:
        """See `JobStore.tenants`."""
        return {row["tenant"]: row["due_at"] for row in await self._fetch("tenants", after, limit)}

    async def expired(self, limit: int) -> list[Job]:
        """See `JobStore.expired`."""
        since, begun = self._overdue.begin(), time.monotonic()
        rows = await self._fetch("expired", limit, since)
        spent = time.monotonic() - begun
        reached = rows[0]["due_at"] if rows else await self.now() - timedelta(seconds=spent + 1)
        self._overdue.end(since, spent, reached)
        return [job_of(row) for row in rows]

    async def history(self, tenant: str, job_id: str) -> list[Entry]:
        """See `JobStore.history`."""
        return [decode_entry(row["entry"]) for row in await self._fetch("history", tenant, job_id)]

    async def entries(self, after: str | None, limit: int) -> LogPage:
        """See `JobStore.entries`. A transaction that writes for long holds up what is committed after it began."""
        return await log(self._fetch, after, limit)

    async def changes(self) -> AsyncIterator[Change]:
        """See `JobStore.changes`. Over one connection that listens, made again whenever it breaks."""
        self._here()
        if not self._hints:
            await self._closed.wait()
            return
        async for notice in self._database.listen(self, CHANNEL):
            for change in changes_of(notice):
                yield change

    # --- how ----------------------------------------------------------------------------------

    def _here(self) -> PostgresDatabase:
        if self._closed.is_set():
            raise StoreUnavailable(f"the job store in {self._database.address} was closed; open it again")
        return self._database

    async def _lasting(self) -> bool:
        """Whether a plan that reads jobs may be kept."""
        return self._here().keeps_plans and await self._keeping.allowed()

    async def _fetch(self, name: str, *values: object, lasting: bool = False) -> list[asyncpg.Record]:
        return await self._select((self._queries[name], values), lasting=lasting)

    async def _select(self, statement: finding.Statement, *, lasting: bool = False) -> list[asyncpg.Record]:
        text, values = statement
        return await self._here().run(lambda connection: connection.fetch(text, *values), lasting=lasting)


def _rounds(transitions: Sequence[Transition]) -> list[list[int]]:
    """Places of transitions: in each round at most one of each job, in order."""
    if len({move.after.id for move in transitions}) == len(transitions):
        return [list(range(len(transitions)))]
    rounds: list[list[int]] = []
    seen: Counter[str] = Counter()
    for place, move in enumerate(transitions):
        if seen[move.after.id] == len(rounds):
            rounds.append([])
        rounds[seen[move.after.id]].append(place)
        seen[move.after.id] += 1
    return rounds


def _in_turn(rows: list[asyncpg.Record]) -> list[asyncpg.Record]:
    """The first job of each tenant, then the second of each, and so on; by age within a tenant."""
    lanes: defaultdict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        lanes[row["tenant"]].append(row)
    for lane in lanes.values():
        lane.sort(key=lambda row: (row["due_at"], row["id"]))
    return [row for turn in zip_longest(*lanes.values()) for row in turn if row is not None]
