"""The job store port, over a collection of MongoDB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import pymongo
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.read_concern import ReadConcern

from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Entry, Job
from perdure.domain.log import LogPage
from perdure.domain.moments import micros
from perdure.domain.query import JobFilter, Stats
from perdure.domain.terms import PLAIN, Terms
from perdure.domain.transition import Transition
from perdure.ports.job_store import Capabilities, Change
from perdure.stores.mongodb import adding, applying, claiming, finding, schema
from perdure.stores.mongodb.address import parse, unusable
from perdure.stores.mongodb.claiming import Jobs
from perdure.stores.mongodb.documents import WHOLE, Document, to_entry, to_job
from perdure.stores.mongodb.errors import translate, translated
from perdure.stores.mongodb.finding import VISIBLE
from perdure.stores.mongodb.values import MongoValues, log

PATIENCE: Final = 30.0
"""Seconds that a call takes at most; until then the driver tries again where a server falls away."""

SELECTION_MS: Final = 5000
"""Milliseconds until a call says that no server answers."""


class MongoJobStore:
    """See `perdure.ports.job_store.JobStore`. A job with its history is one document; its clock is the server's.

    Writes wait for the journals of a majority; reads see only what a majority has.

    Args:
        url: ``mongodb://host/database``, with ``.collection`` after it where that is not `vectorization_jobs`. Must name
            a replica set (of one member at least) or a sharded cluster.
        database, collection: win over those in the URL.
        patience: seconds that a call takes at most.

    Raises:
        InvalidInput: the URL is none.
    """

    capabilities = Capabilities(
        durable=True,
        multi_process=True,
        change_feed=True,
        native_ttl=True,
        constant_stats=False,
        transactions=False,
    )

    def __init__(
        self,
        url: str,
        *,
        database: str | None = None,
        collection: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._address = parse(url, database, collection)
        self._patience = patience
        self._client: AsyncMongoClient[Document] | None = None
        self._jobs: Jobs | None = None
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._setting_up = asyncio.Lock()
        self._queue = claiming.Queue()
        self.values = MongoValues(self._call)

    async def setup(self) -> None:
        async with self._setting_up:
            try:
                with translated(self._address.shown):
                    await self._connect()
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        client, self._client, self._jobs = self._client, None, None
        if client is not None:
            await client.close()

    async def now(self) -> datetime:
        with self._call() as jobs:
            told: datetime = (await jobs.database.command("hello"))["localTime"]
        self._latest = max(self._latest, told.astimezone(UTC))
        return self._latest

    # --- writing ----------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        with self._call() as collection:
            return await adding.add(collection, jobs, self._now_us)

    async def claim(
        self, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
    ) -> list[Job]:
        with self._call() as jobs:
            taken = await self._queue.claim(jobs, worker, list(dict.fromkeys(kinds)), limit, lease, terms)
        return [to_job(job) for job in taken]

    async def extend(self, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
        with self._call() as jobs:
            return await claiming.extend(jobs, worker, epochs, lease) if epochs else set()

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        with self._call() as jobs:
            return await applying.apply(jobs, transitions) if transitions else []

    async def delete(self, tenant: str, job_id: str) -> bool:
        with self._call() as jobs:
            return (await jobs.delete_one({"_id": job_id, "tenant": tenant})).deleted_count > 0

    async def purge(self, limit: int) -> int:
        """See the port. The server does so itself, about once a minute."""
        with self._call() as jobs:
            over = {"expires_at": {"$type": "date"}, "expires_us": {"$lte": await self._now_us()}}
            found = jobs.find(over, {"_id": 1}).sort("expires_at").limit(limit)
            gone = [job["_id"] async for job in found]
            return (await jobs.delete_many({"_id": {"$in": gone}, **over})).deleted_count if gone else 0

    # --- reading ----------------------------------------------------------------------------

    async def get(self, tenant: str, job_id: str) -> Job | None:
        with self._call() as jobs:
            found = await jobs.find_one({"_id": job_id, "tenant": tenant, **VISIBLE}, WHOLE)
        return None if found is None else to_job(found)

    async def find(self, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
        with self._call() as jobs:
            order = pymongo.ASCENDING if query.oldest_first else pymongo.DESCENDING
            found = jobs.find(finding.condition(query, after), WHOLE).sort("_id", order)
            return [to_job(job) async for job in found.limit(limit)]

    async def count(self, query: JobFilter) -> int:
        with self._call() as jobs:
            return await jobs.count_documents(finding.condition(query))

    async def stats(self, tenant: str | None) -> Stats:
        with self._call() as jobs:
            return await finding.stats(jobs, tenant)

    async def tenants(self, limit: int, after: str = "") -> dict[str, datetime | None]:
        with self._call() as jobs:
            return await finding.tenants(jobs, limit, after, await self._now_us())

    async def expired(self, limit: int) -> list[Job]:
        with self._call() as jobs:
            overdue = {"status": {"$in": ["running", "waiting"]}, "due_us": {"$lt": await self._now_us()}}
            found = jobs.find(overdue, WHOLE).sort([("due_us", 1), ("_id", 1)]).limit(limit)
            return [to_job(job) async for job in found]

    async def history(self, tenant: str, job_id: str) -> list[Entry]:
        """See the port. The last `perdure.stores.mongodb.applying.HISTORY_KEPT`."""
        with self._call() as jobs:
            found = await jobs.find_one({"_id": job_id, "tenant": tenant, **VISIBLE}, {"history": 1})
        return [] if found is None else [to_entry(entry) for entry in found["history"]]

    async def entries(self, after: str | None, limit: int) -> LogPage:
        """See the port. Goes back as far as the server's oplog."""
        with self._call() as jobs:
            return await log(jobs, after, limit)

    async def changes(self) -> AsyncIterator[Change]:
        feed = finding.Feed(self._opened())
        while self._jobs is not None:
            try:
                async for change in feed.changes():
                    yield change
            except PyMongoError as error:
                if self._jobs is None:  # closing broke the stream off
                    return
                if not feed.recovers(error):
                    raise translate(error, self._address.shown) from error
                await asyncio.sleep(1)
                yield Change()

    # --- behind it --------------------------------------------------------------------------

    async def _connect(self) -> None:
        address = self._address
        if self._client is None:
            self._client = _client(address.url)
        jobs = self._client.get_database(
            address.database,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", j=True),
        )[address.collection]
        schema.check_server(await jobs.database.command("hello"), address.shown)
        await schema.prepare(jobs, address.shown)
        self._jobs = jobs

    def _opened(self) -> Jobs:
        if self._jobs is None:
            raise StoreUnavailable(
                f"the job store {self._address.shown} is closed, or was not set up; call setup() first"
            )
        return self._jobs

    @contextmanager
    def _call(self) -> Iterator[Jobs]:
        """The gate of every call: how long it may take, and whose errors come out."""
        with translated(self._address.shown), pymongo.timeout(self._patience):
            yield self._opened()

    async def _now_us(self) -> int:
        return micros(await self.now())


def _client(url: str) -> AsyncMongoClient[Document]:
    try:
        return AsyncMongoClient(
            url, appname="perdure", tz_aware=True, retryWrites=True, serverSelectionTimeoutMS=SELECTION_MS
        )
    except (ConfigurationError, ValueError):
        raise unusable() from None  # the driver's own message may repeat a part of the password
