"""Gathers the writes of all of a worker's jobs into batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from perdure.domain.errors import LeaseLost, PerdureError, StoreError, StoreUnavailable
from perdure.domain.transition import Transition

log = logging.getLogger(__name__)

MAX_BATCH = 500
NOTE_DELAY = 0.25
"""Seconds that a progress report may wait for company."""
AT_ONCE = 2
"""Batches under way: while one is committed, and its answer comes, the store works on the other."""
_PATIENCE = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between tries while the store is away; the last one goes on."""

Letter = tuple[Transition, "asyncio.Future[None] | None"]


class Outbox:
    """While one batch is on its way the next one gathers: under load batches grow, idle they are single.

    A second one goes beside it only when it is full. The writes of one job go one after the other.

    A write whose answer got lost is said again with the same entry ids, so that it counts once. As long as the
    store is away the outbox keeps what it holds, and `write` waits.

    Args:
        apply: writes a batch; for each whether it stands.
        lost: called with each transition that did not: the job is another's by now.
        refused: called with a write that the store will never take, unless somebody waits for it.
        sent: called after each batch.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[Transition]], Awaitable[list[bool]]],
        lost: Callable[[Transition], None],
        refused: Callable[[Transition, PerdureError], None],
        sent: Callable[[], None],
    ) -> None:
        self._apply = apply
        self._lost = lost
        self._refused = refused
        self._sent = sent
        self._letters: list[Letter] = []
        self._notes: dict[str, Transition] = {}
        self._flying: set[str] = set()
        """Jobs with a write under way."""
        self._batches = 0
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._noted: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """Whether writes come faster than the store takes them: more than two batches wait."""
        return len(self._letters) > 2 * MAX_BATCH

    def put(self, move: Transition) -> None:
        """Write it as soon as may be; nobody waits for it. An older note of the job is taken back."""
        self._notes.pop(move.after.id, None)
        self._letters.append((move, None))
        self._wanted.set()
        self._idle.clear()

    async def write(self, move: Transition) -> None:
        """Write it; return once it is durable.

        Raises:
            LeaseLost: the guard did not hold.
        """
        self._notes.pop(move.after.id, None)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._letters.append((move, future))
        self._wanted.set()
        self._idle.clear()
        await future

    def note(self, move: Transition) -> None:
        """Write it within `NOTE_DELAY`, unless a newer write of the job takes its place."""
        self._notes[move.after.id] = move
        if self._noted is None:
            loop = asyncio.get_running_loop()
            self._noted = loop.call_later(NOTE_DELAY, self._post_notes)

    def _post_notes(self) -> None:
        self._noted = None
        self._letters.extend((move, None) for move in self._notes.values())
        self._notes.clear()
        self._wanted.set()
        self._idle.clear()

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while batch := self._next_batch():
                    group.create_task(self._fly(batch))
                if not self._letters and not self._batches:
                    self._idle.set()

    def _next_batch(self) -> list[Letter]:
        """What may go now."""
        if self._batches == AT_ONCE or (self._batches and len(self._letters) < MAX_BATCH):
            return []
        batch, rest = list[Letter](), list[Letter]()
        for letter in self._letters:
            goes = len(batch) < MAX_BATCH and letter[0].after.id not in self._flying
            (batch if goes else rest).append(letter)
        self._letters = rest
        if batch:
            self._batches += 1
            self._flying.update(move.after.id for move, _ in batch)
        return batch

    async def _fly(self, batch: list[Letter]) -> None:
        await self._send(batch)
        self._batches -= 1
        self._flying.difference_update(move.after.id for move, _ in batch)
        self._sent()
        self._wanted.set()

    async def flush(self) -> None:
        """Wait until all that was put before is written."""
        if self._noted is not None:
            self._noted.cancel()
            self._post_notes()
        await self._idle.wait()

    async def _send(self, batch: list[Letter]) -> None:
        try:
            outcomes = await self._persist([move for move, _ in batch])
        except PerdureError as error:
            await self._send_apart(batch, error)
            return
        except Exception as error:  # noqa: BLE001  # no write, however odd, may end the outbox and so the worker
            await self._send_apart(batch, StoreError(f"it cannot be written: {error!r}"))
            return
        for (move, future), stands in zip(batch, outcomes, strict=True):
            if not stands:
                self._lost(move)
                reason = f"job {move.after.id} (epoch {move.epoch}) is not ours any more; stop working on it"
                _fail(future, LeaseLost(reason))
            elif future is not None and not future.done():
                future.set_result(None)

    async def _persist(self, moves: list[Transition]) -> list[bool]:
        """Write a batch, again and again while the store is away."""
        tries = 0
        while True:
            try:
                return await self._apply(moves)
            except StoreUnavailable as error:
                pause = _PATIENCE[min(tries, len(_PATIENCE) - 1)]
                tries += 1
                log.warning("%d writes wait %.2f s for the store: %s", len(moves), pause, error)
                await asyncio.sleep(pause)

    async def _send_apart(self, batch: list[Letter], error: PerdureError) -> None:
        """One write of the batch cannot be taken: find it, so that the others are not held up."""
        if len(batch) > 1:
            for letter in batch:
                await self._send([letter])
            return
        move, future = batch[0]
        told = {"job": move.after.id, "tenant": move.after.tenant}
        log.error("job %s: the store refuses its write: %s", move.after.id, error, extra=told)
        _fail(future, error)
        if future is None:
            self._refused(move, error)


def _fail(future: asyncio.Future[None] | None, error: PerdureError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
