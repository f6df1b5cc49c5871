"""Makes delivery jobs of what happens to jobs (see `perdure.core.webhooks`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from perdure.core.events import Reader
from perdure.core.hints import wait_for
from perdure.core.jobs import JobService
from perdure.core.webhooks import DESK, KEPT, KIND, POSITION, RETRY, Subscription, all_subscriptions, begin
from perdure.domain.errors import CursorLost, StoreError
from perdure.domain.ids import uuid7
from perdure.domain.job import NewJob
from perdure.domain.log import JobEvent
from perdure.domain.record import Json

log = logging.getLogger(__name__)

LEAD: Final = timedelta(seconds=15)
"""How long a leader that gave no sign of life is waited for."""
SAVE: Final = timedelta(seconds=5)
"""How often the position is kept, at most."""
IDLE: Final = 1.0
BATCH: Final = 500


class Dispatcher:
    """Makes delivery jobs of events, in one process at a time.

    Args:
        name: of the worker that it belongs to.
    """

    def __init__(self, jobs: JobService, name: str) -> None:
        self._jobs = jobs
        self._name = name
        self._seen: datetime | None = None

    async def run(self) -> None:
        """Go on until cancelled; while another leads, stand by."""
        while True:
            try:
                # Where nobody subscribed there is nothing to lead, and nothing is written.
                if await self._active() and await self._leads():
                    await self._dispatch()
            except StoreError as error:
                log.warning("webhooks wait for the store: %s", error)
            await asyncio.sleep(IDLE * (0.75 + self._jobs.chance.random() / 2))

    async def _leads(self) -> bool:
        """Take the lead, or keep it, where nobody else has it."""
        values, now = self._jobs.store.values, self._jobs.clock.now()
        found = (await values.read(DESK, ["leader"])).get("leader")
        holder = found.value if found else None
        if isinstance(holder, dict) and holder["name"] != self._name:
            if datetime.fromisoformat(str(holder["until"])) > now:
                return False
        elif self._seen is not None and now - self._seen < LEAD / 3:
            return True
        told: dict[str, Json] = {"name": self._name, "until": (now + LEAD).isoformat()}
        if await values.write(DESK, "leader", told, expect=found.version if found else 0) is None:
            return False
        self._seen = now
        return True

    async def _dispatch(self) -> None:
        """Read on for as long as this process leads and something is subscribed."""
        values = self._jobs.store.values
        subscriptions = await self._active()
        await begin(self._jobs)
        kept = (await values.read(DESK, [POSITION]))[POSITION]
        reader, version = Reader.at(self._jobs, str(kept.value)), kept.version
        saved, save_at = reader.position, self._jobs.clock.now() + SAVE
        with self._jobs.hints.listen() as changed:
            while await self._leads():
                try:
                    await self._read(reader, subscriptions)
                except CursorLost as error:
                    log.error("webhooks have a gap: %s", error)
                    reader = await Reader.at_the_end(self._jobs)
                # Not at each look: what is made again after a death is there already, and a write wakes everybody.
                if reader.position != saved and self._jobs.clock.now() >= save_at:
                    written = await values.write(DESK, POSITION, reader.mark, expect=version)
                    if written is None:  # somebody else leads, and has read on
                        return
                    version, saved = written, reader.position
                    save_at = self._jobs.clock.now() + SAVE
                subscriptions = await self._active()
                await asyncio.sleep(0.1)
                await wait_for(changed, IDLE)

    async def _active(self) -> list[Subscription]:
        return [one for one in await all_subscriptions(self._jobs) if one.active]

    async def _read(self, reader: Reader, subscriptions: Sequence[Subscription]) -> None:
        new: list[NewJob] = []
        async with aclosing(reader.news()) as news:
            async for event in news:
                if event.kind != KIND:
                    new += self._deliveries(event, subscriptions, len(new))
                if len(new) >= BATCH:
                    await self._jobs.add_many(new, same=lambda *_: True)
                    new = []
        if new:
            await self._jobs.add_many(new, same=lambda *_: True)

    def _deliveries(
        self, event: JobEvent, subscriptions: Sequence[Subscription], number: int
    ) -> Iterator[NewJob]:
        for one in subscriptions:
            if one.wants(event):
                yield NewJob(
                    kind=KIND,
                    # ids grow in the order of events, by which deliveries about one job are ordered
                    id=uuid7(self._jobs.clock.now(), (number << 48) | self._jobs.chance.getrandbits(48)),
                    tenant=event.tenant,
                    payload={"subscription": one.id, "message": message_of(event)},
                    idempotency_key=f"webhook {one.id} {event.entry.id}",
                    user_id=one.id,
                    document_id=f"{one.id} {event.job_id}",
                    created_by=self._name,
                    ttl=KEPT,
                    max_attempts=RETRY.max_attempts,
                )
                number += 1


def message_of(event: JobEvent) -> dict[str, Any]:
    """What a receiver gets, as JSON."""
    return {
        "type": f"job.{event.entry.state.value}",
        "timestamp": msgspec.to_builtins(event.entry.at),
        "data": {
            "job_id": event.job_id,
            "kind": event.kind,
            "tenant": event.tenant,
            "status": event.entry.state.value,
            "event": event.entry.event.value,
            "entry": msgspec.to_builtins(event.entry),
        },
    }
