"""Wakes whoever waits for a change: one subscription to the store's feed, however many wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from perdure.domain.errors import StoreError
from perdure.ports.job_store import JobStore

log = logging.getLogger(__name__)
_ANY = None


class Hints:
    """Turns a store's change feed into events. Hints may be lost: always wait with a timeout."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._listeners: dict[str | None, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def listen(self, job_id: str | None = _ANY) -> Iterator[asyncio.Event]:
        """Give an event that is set at each change of the job (None: of any job). The caller clears it."""
        if self._task is None:
            self._task = asyncio.create_task(self._pump(), name="perdure-hints")
        event = asyncio.Event()
        listeners = self._listeners.setdefault(job_id, set())
        listeners.add(event)
        try:
            yield event
        finally:
            listeners.discard(event)
            if not listeners:
                self._listeners.pop(job_id, None)

    def ring(self, job_id: str | None, *, work: bool = True) -> None:
        """Wake those who wait for this job; None wakes everybody.

        Args:
            work: whether there may be something to claim: wakes those who wait for any job, too.
        """
        if job_id is None:
            for events in self._listeners.values():
                for event in events:
                    event.set()
            return
        for event in self._listeners.get(job_id, ()):
            event.set()
        if work:
            for event in self._listeners.get(_ANY, ()):
                event.set()

    async def close(self) -> None:
        """Stop listening to the store."""
        if self._task is not None:
            await ended(self._task)
            self._task = None

    async def _pump(self) -> None:
        while True:
            try:
                async for change in self._store.changes():
                    self.ring(change.job_id)
                return
            except StoreError as error:
                log.warning("the change feed broke off, polling goes on: %s", error)
                await asyncio.sleep(1)


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most so long; clear it. Whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


async def ended(*tasks: asyncio.Task[None]) -> None:
    """Cancel the tasks and wait until they are over; again and again, as a driver that is just connecting may lose it."""
    left: set[asyncio.Task[None]] = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)
