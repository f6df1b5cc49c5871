"""The job store port, over a container of Cosmos DB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from azure.cosmos.aio import CosmosClient

from perdure.databases.cosmos.address import Address, parse
from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Entry, Job
from perdure.domain.log import LogPage
from perdure.domain.query import JobFilter, Stats
from perdure.domain.terms import PLAIN, Terms
from perdure.domain.transition import Transition
from perdure.ports.job_store import Capabilities, Change
from perdure.stores.cosmos import adding, claiming, finding, schema
from perdure.stores.cosmos.clock import CALL, Charge, ListeningTransport
from perdure.stores.cosmos.documents import Document, text_of, to_entry, to_job
from perdure.stores.cosmos.errors import translated
from perdure.stores.cosmos.items import SYSTEM, Items, together
from perdure.stores.cosmos.values import CosmosValues, log

PATIENCE: Final = 30.0
"""Seconds that a call takes at most; until then the driver waits out what is throttled."""

POLL: Final = 0.5
"""Seconds between two looks for changes."""


class CosmosJobStore:
    """See `perdure.ports.job_store.JobStore`. A job with its history is one item, in its tenant's partition; every change
    replaces the item that was read, or is a patch under a condition. Its clock is the service's.

    Args:
        url: see `perdure.databases.cosmos.address.parse`.
        database, container: win over those in the URL.
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
        behind=1.5,  # the second that a `Date` leaves out, and the time of an answer
    )

    def __init__(
        self,
        url: str,
        *,
        database: str | None = None,
        container: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._address = parse(url, database, container)
        self._patience = patience
        self._transport = ListeningTransport()
        self._client: CosmosClient | None = None
        self._items: Items | None = None
        self._setting_up = asyncio.Lock()
        self._queue = claiming.Queue()
        self.values = CosmosValues(self._call)

    @property
    def charges(self) -> Mapping[str, Charge]:
        """What each kind of call (`add`, `claim`, …) has cost so far, in request units."""
        return self._transport.charges

    async def setup(self) -> None:
        async with self._setting_up:
            try:
                async with self._gate("setup"):
                    if self._client is None:
                        self._client = _client(self._address, self._transport)
                        await self._client.__aenter__()
                    self._items = await schema.prepare(self._client, self._address, self._transport.clock)
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        client, self._client, self._items = self._client, None, None
        if client is not None:
            await client.close()

    async def now(self) -> datetime:
        async with self._call("now") as items:
            return items.clock.now()

    # --- writing ----------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        async with self._call("add") as items:
            return await adding.add(items, jobs)

    async def claim(
        self, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
    ) -> list[Job]:
        async with self._call("claim") as items:
            return await self._queue.claim(items, worker, kinds, limit, lease, terms) if kinds else []

    async def extend(self, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
        async with self._call("extend") as items:
            return await claiming.extend(items, worker, epochs, lease) if epochs else set()

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        async with self._call("apply") as items:
            return await claiming.apply(items, transitions)

    async def delete(self, tenant: str, job_id: str) -> bool:
        async with self._call("delete") as items:
            while (found := await items.read(tenant, job_id)) is not None:
                if await items.delete(found):
                    return True
            return False

    async def purge(self, limit: int) -> int:
        """See the port. The service does so itself; this also clears up after adds that died half-way."""
        async with self._call("purge") as items:
            await adding.sweep(items, limit)
            found = await items.query(finding.OVER, {"limit": limit, "now": text_of(items.clock.now())})
            return sum(await together(items.delete(row) for row in found))

    # --- reading ----------------------------------------------------------------------------

    async def get(self, tenant: str, job_id: str) -> Job | None:
        found = await self._shown(tenant, job_id)
        return None if found is None else to_job(found)

    async def find(self, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
        async with self._call("find") as items:
            return await finding.find(items, query, limit, after)

    async def count(self, query: JobFilter) -> int:
        async with self._call("count") as items:
            return await finding.count(items, query)

    async def stats(self, tenant: str | None) -> Stats:
        async with self._call("stats") as items:
            return await finding.stats(items, tenant)

    async def tenants(self, limit: int, after: str = "") -> dict[str, datetime | None]:
        async with self._call("tenants") as items:
            return await finding.tenants(items, limit, after)

    async def expired(self, limit: int) -> list[Job]:
        async with self._call("expired") as items:
            return await finding.expired(items, limit)

    async def history(self, tenant: str, job_id: str) -> list[Entry]:
        """See the port. The last `perdure.stores.cosmos.documents.HISTORY_KEPT`."""
        found = await self._shown(tenant, job_id)
        return [] if found is None else [to_entry(text) for text in found["history"]]

    async def entries(self, after: str | None, limit: int) -> LogPage:
        async with self._call("entries") as items:
            return await log(items, after, limit)

    async def changes(self) -> AsyncIterator[Change]:
        """See the port. Asks twice a second what was written since."""
        feed = finding.Feed()
        while self._items is not None:
            async with self._call("changes") as items:
                seen = await feed.poll(items)
            for change in seen:
                yield change
            await asyncio.sleep(POLL)

    # --- behind it --------------------------------------------------------------------------

    async def _shown(self, tenant: str, job_id: str) -> Document | None:
        """A job's item, unless it has expired."""
        async with self._call("get") as items:
            found = await items.read(tenant, job_id)
            if found is None or found["type"] != "job":
                return None
            over = found["expiresAt"] is not None and found["expiresAt"] <= text_of(items.clock.now())
            return None if over else found

    @asynccontextmanager
    async def _call(self, name: str) -> AsyncIterator[Items]:
        """The gate of every call: how long it may take, and whose errors come out."""
        items = self._items
        if items is None:
            raise StoreUnavailable(
                f"the job store {self._address.shown} is closed, or was not set up; call setup() first"
            )
        async with self._gate(name):
            if items.clock.stale:
                await items.read(SYSTEM, "schema")
            yield items

    @asynccontextmanager
    async def _gate(self, name: str) -> AsyncIterator[None]:
        called = CALL.set(name)
        try:
            with translated(self._address.shown):
                async with asyncio.timeout(self._patience):
                    yield
        finally:
            CALL.reset(called)


def _client(address: Address, transport: ListeningTransport) -> CosmosClient:
    plain = address.endpoint.startswith("http:")  # an emulator, which may say that it is somewhere else
    return CosmosClient(
        address.endpoint,
        address.key,
        transport=transport,
        enable_endpoint_discovery=not plain,
        enable_compact_utf8_item_writes=True,
        retry_throttle_total=10_000,  # as long as the call may take
        retry_throttle_backoff_max=PATIENCE,
        user_agent_suffix="perdure",
    )
