"""Carries a change feed's events into jobs: one reader at a time, nothing missed, nothing twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from perdure.domain import validation as check
from perdure.domain.change import Action, Batch, Change, Marks, Poison, last_of_each
from perdure.domain.errors import InvalidInput, NotFound, StoreError
from perdure.domain.job import DEFAULT_TENANT
from perdure.domain.record import Json, Record
from perdure.domain.value import Value
from perdure.ports.change_feed import ChangeFeed
from perdure.ports.key_value import KeyValueStore

SPACE: Final = "feeds"
LEASE: Final = timedelta(seconds=15)
PAGE: Final = 500
AT_ONCE: Final = 64
"""Marks that are written at the same time; a store may take them together."""
log = logging.getLogger(__name__)


class FeedStatus(Record):
    """How a feed stands.

    Attributes:
        leader: who reads it, until `until` (seconds since 1970, on the store's clock) unless it says so again; empty: nobody.
        tenant: whose feed it is.
        upserts, deletes, parked: events that were read since the feed was first run. They count before they are carried out, so none
            is left out when a reader is killed; those of the batch that was under way count again when the next one reads them.
        changed_at: when the last one changed at its source; 0: unknown. read_at: when it was read.
        note: the last thing that operators had to know.
    """

    name: str
    tenant: str = DEFAULT_TENANT
    leader: str = ""
    until: float = 0.0
    upserts: int = 0
    deletes: int = 0
    parked: int = 0
    changed_at: float = 0.0
    read_at: float = 0.0
    note: str = ""

    @property
    def lag(self) -> float | None:
        """Seconds from the last event's change to its reading; None: unknown."""
        return max(0.0, self.read_at - self.changed_at) if self.changed_at and self.read_at else None


class Sink(Protocol):
    """Where events go: what is returned from is durable."""

    async def take(self, changes: Sequence[Change]) -> list[Poison]:
        """Carry the changes out; those that never can be."""
        ...

    async def pending(self, tenants: Sequence[str]) -> int:
        """How many jobs of these tenants wait."""
        ...


class Feeds:
    """What the job store knows of all feeds.

    Args:
        now: the store's clock.
    """

    def __init__(self, values: KeyValueStore, now: Callable[[], datetime]) -> None:
        self.values = values
        self.now = now

    async def all(self) -> list[FeedStatus]:
        """Every feed that was ever run here, by name."""
        found: list[FeedStatus] = []
        while page := await self.values.scan(SPACE, PAGE, found[-1].name if found else ""):
            found += [msgspec.convert(value.value, FeedStatus) for value in page]
        return found

    async def parked(self, name: str, limit: int, after: str = "") -> list[Poison]:
        """Up to `limit` events of a feed that could not be carried out, by id; only ids greater than `after`."""
        return [
            msgspec.convert(value.value, Poison)
            for value in await self.values.scan(_parking(name), limit, after)
        ]

    async def replay(
        self, name: str, poison_id: str, take: Callable[[Sequence[Change]], Awaitable[list[Poison]]]
    ) -> None:
        """Carry a parked event out after all; it stays where it is if that fails again.

        Raises:
            NotFound: there is none, or it was never readable. InvalidInput: it failed again, with the reason.
        """
        kept = (await self.values.read(_parking(name), [poison_id])).get(poison_id)
        poison = None if kept is None else msgspec.convert(kept.value, Poison)
        if kept is None or poison is None or poison.change is None:
            what = "was not readable; repair it at its source" if poison else "is not parked"
            raise NotFound(f"event {poison_id!r} of feed {name!r} {what}")
        if again := await take([poison.change]):
            raise InvalidInput(f"event {poison_id!r} still can't be carried out: {again[0].reason}")
        await self.values.write(_parking(name), poison_id, None, expect=kept.version)

    async def put(self, space: str, key: str, value: Json) -> None:
        """Write whatever is there now."""
        while True:
            kept = (await self.values.read(space, [key])).get(key)
            if (kept is None and value is None) or (kept is not None and kept.value == value):
                return
            if await self.values.write(space, key, value, expect=kept.version if kept else 0) is not None:
                return


class FeedRunner:
    """Reads one feed for as long as it is the one that may; else waits to take over.

    Args:
        name: of the feed; replicas that share it say the same.
        reader: of this process, e.g. host and process id; no two may say the same.
        poll: how long to wait after an empty batch.
        most_pending: jobs of the feed's tenants that may wait; beyond that nothing is read.
    """

    def __init__(
        self,
        name: str,
        feed: ChangeFeed,
        feeds: Feeds,
        sink: Sink,
        *,
        reader: str,
        tenant: str = DEFAULT_TENANT,
        poll: timedelta = timedelta(seconds=1),
        lease: timedelta = LEASE,
        most_pending: int = 10_000,
        batch: int = PAGE,
    ) -> None:
        self.name = check.name(name, "the feed's name")
        self.status = FeedStatus(name=name, tenant=tenant)
        self._feed, self._feeds, self._sink = feed, feeds, sink
        self._reader, self._lease, self._batch = reader, lease, batch
        self._poll, self._most_pending = poll.total_seconds(), most_pending
        self._version = 0
        self._writing = asyncio.Lock()
        self._known: dict[str, Value | None] = {}
        """The marks that the batch under way was read from."""
        self._tenants: set[str] = set()
        self._stop = asyncio.Event()

    @property
    def active(self) -> int:
        """Batches under way; those of a stopped runner are given up, and read again."""
        return 0

    def stop(self) -> None:
        """Stop after the batch that is under way, and give the feed free."""
        self._stop.set()

    async def run(self) -> None:
        """Read until stopped."""
        try:
            while not self._stop.is_set():
                await self._try()
        finally:
            with suppress(StoreError, OSError):
                await self._resign()

    async def _try(self) -> None:
        try:
            if await self._lead():
                log.info("feed %s: started by %s", self.name, self._reader)
                await self._reign()
                log.info("feed %s: %s stopped reading", self.name, self._reader)
                return
        except (StoreError, OSError) as error:
            log.warning("feed %s: %s; trying again", self.name, error)
            self.status = msgspec.structs.replace(self.status, note=str(error))
        await self._pause(min(self._poll * 2, self._lease.total_seconds() / 3))

    async def _lead(self) -> bool:
        """Become, or stay, the one reader. A lease that ran out is anybody's."""
        kept = (await self._feeds.values.read(SPACE, [self.name])).get(self.name)
        now = self._feeds.now().timestamp()
        if kept is not None:
            status = msgspec.convert(kept.value, FeedStatus)
            if status.leader not in ("", self._reader) and status.until > now:
                return False
            if kept.version != self._version:
                self.status = msgspec.structs.replace(status, tenant=self.status.tenant)
        self._version = kept.version if kept else 0
        return await self._say(leader=self._reader, until=now + self._lease.total_seconds())

    async def _say(self, **changes: Json) -> bool:
        """Tell how the feed stands; False: somebody else took it."""
        async with self._writing:
            told = msgspec.structs.replace(self.status, **changes)
            version = await self._feeds.values.write(
                SPACE, self.name, msgspec.to_builtins(told), expect=self._version
            )
            if version is None:
                return False
            self.status, self._version = told, version
            return True

    async def _stay(self, **changes: Json) -> float:
        """Tell how the feed stands, and read on; the time at which nobody else had read since this one began.

        Raises:
            StoreError: somebody had, perhaps while this process stood still: what it read does not hold any more.
        """
        now = self._feeds.now().timestamp()
        if not await self._say(until=now + self._lease.total_seconds(), **changes):
            raise StoreError("another reader took over")
        return now

    async def _resign(self) -> None:
        if self.status.leader == self._reader:
            await self._say(leader="", until=0.0)

    async def _reign(self) -> None:
        """Read while the lease holds; it is kept beside, so that a slow batch does not lose it."""
        reading = asyncio.create_task(self._read_on())
        try:
            while not reading.done():
                await asyncio.wait([reading], timeout=self._lease.total_seconds() / 3)
                if not reading.done():
                    await self._stay()
            await reading
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, StoreError, OSError):
                await reading
            await self._feed.close()  # another reader may go on: what this one saw does not hold any more

    async def _read_on(self) -> None:
        while not self._stop.is_set():
            if self._tenants and await self._sink.pending(sorted(self._tenants)) >= self._most_pending:
                await self._pause(self._poll)
                continue
            self._known = {}
            batch = await self._feed.read(self._recall, self._batch)
            await self.carry(batch)
            if not (batch.changes or batch.poison or batch.marks):
                await self._pause(self._poll)

    async def carry(self, batch: Batch) -> None:
        """Make a batch durable: it is counted, then its events, then what could not be carried out, then the marks."""
        if batch.changes or batch.poison or batch.marks or batch.note:
            alone = await self._stay(**self._counts(batch))
            changes = [_until(change, alone) for change in last_of_each(batch.changes)]
            poison = [*batch.poison, *(await self._sink.take(changes) if changes else [])]
            for event in poison:
                log.warning("feed %s: parked event %s: %s", self.name, event.id, event.reason)
                await self._feeds.put(_parking(self.name), event.id, msgspec.to_builtins(event))
            if poison:
                await self._stay(parked=self.status.parked + len(poison))
            await self._keep(batch.marks)
        await self._feed.settle(batch)

    def _counts(self, batch: Batch) -> dict[str, Json]:
        if batch.note:
            log.warning("feed %s: %s", self.name, batch.note)
        if not batch.changes:
            return {"note": batch.note or self.status.note}
        deletes = sum(change.action == "delete" for change in batch.changes)
        self._tenants = {change.tenant for change in batch.changes}
        return {
            "upserts": self.status.upserts + len(batch.changes) - deletes,
            "deletes": self.status.deletes + deletes,
            "changed_at": max(change.at for change in batch.changes) or self.status.changed_at,
            "read_at": self._feeds.now().timestamp(),
            "note": batch.note or self.status.note,
        }

    async def _keep(self, marks: Marks) -> None:
        """Put the marks in the place of those that the batch was read from."""
        if unknown := [key for key in marks if key not in self._known]:
            await self._recall(unknown)
        new = [(key, value) for key, value in marks.items() if not _holds(self._known[key], value)]
        for at in range(0, len(new), AT_ONCE):
            await asyncio.gather(*(self._mark(key, value) for key, value in new[at : at + AT_ONCE]))

    async def _mark(self, key: str, value: Json) -> None:
        space, before = _marks(self.name), self._known[key]
        expect = before.version if before else 0
        if await self._feeds.values.write(space, key, value, expect=expect) is None:
            # Perhaps by this very call, whose first answer was lost.
            kept = (await self._feeds.values.read(space, [key])).get(key)
            if not _holds(kept, value):
                raise StoreError("another reader took over")

    async def _recall(self, keys: Sequence[str]) -> Marks:
        found = await self._feeds.values.read(_marks(self.name), keys)
        self._known |= {key: found.get(key) for key in keys}
        return {key: value.value for key, value in found.items()}

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


def _until(change: Change, alone: float) -> Change:
    """A file's deletion, of what came before this time only: what another reader submitted later stays."""
    if change.action is Action.DELETE and change.path is not None and change.version is None:
        return msgspec.structs.replace(change, version=int(alone * 1_000_000))
    return change


def _holds(kept: Value | None, value: Json) -> bool:
    return value is None if kept is None else kept.value == value


def _marks(name: str) -> str:
    return f"{SPACE}:{name}:marks"


def _parking(name: str) -> str:
    return f"{SPACE}:{name}:parked"
