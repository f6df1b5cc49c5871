"""Writes go in batches: at most two at once, and those of one job one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from perdure.core.outbox import MAX_BATCH, NOTE_DELAY, Outbox
from perdure.domain.job import Job, Progress
from perdure.domain.transition import Transition, claim, complete, save
from perdure.testing.builders import make_job, make_stamp

NOW = datetime(2031, 5, 4, tzinfo=UTC)


class SlowStore:
    """Holds each batch until it is let go."""

    def __init__(self) -> None:
        self.held: list[tuple[Sequence[Transition], asyncio.Event]] = []
        self.written: list[Transition] = []

    async def apply(self, moves: Sequence[Transition]) -> list[bool]:
        go = asyncio.Event()
        self.held.append((moves, go))
        await go.wait()
        self.written += moves
        return [True] * len(moves)

    def sizes(self) -> list[int]:
        return [len(moves) for moves, _ in self.held]

    def let_go(self, place: int = 0) -> None:
        self.held.pop(place)[1].set()


@pytest.fixture
def slow() -> SlowStore:
    return SlowStore()


@pytest.fixture
async def outbox(slow: SlowStore) -> AsyncIterator[Outbox]:
    outbox = Outbox(slow.apply, lambda _: None, lambda *_: None, lambda: None)
    task = asyncio.create_task(outbox.run())
    yield outbox
    task.cancel()


def running() -> Job:
    return claim(make_job(NOW), "w", timedelta(minutes=1), NOW)


def ended(job: Job | None = None) -> Transition:
    return complete(job or running(), None, make_stamp(NOW))


async def rest() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_second_batch_goes_beside_the_first_when_it_is_full(outbox: Outbox, slow: SlowStore) -> None:
    outbox.put(ended())
    await rest()
    for _ in range(MAX_BATCH - 1):
        outbox.put(ended())
    await rest()
    assert slow.sizes() == [1]
    for _ in range(MAX_BATCH + 1):
        outbox.put(ended())
    await rest()
    assert slow.sizes() == [1, MAX_BATCH]
    slow.let_go()
    await rest()
    assert slow.sizes() == [MAX_BATCH, MAX_BATCH]


async def test_the_writes_of_a_job_wait_for_each_other(outbox: Outbox, slow: SlowStore) -> None:
    job = running()
    told = save(job, NOW, progress=Progress(fraction=0.5))
    writing = asyncio.create_task(outbox.write(told))
    await rest()
    outbox.put(ended(job))
    for _ in range(2 * MAX_BATCH):
        outbox.put(ended())
    await rest()
    slow.let_go(1)
    await rest()
    slow.let_go(1)
    await rest()
    assert slow.sizes() == [1]
    assert job.id not in {move.after.id for move in slow.written}
    flushed = asyncio.create_task(outbox.flush())
    slow.let_go()
    await rest()
    assert writing.done()
    assert not flushed.done()
    slow.let_go()
    await flushed
    assert [move.after.state for move in slow.written if move.after.id == job.id] == ["running", "completed"]


async def test_a_note_that_a_newer_write_took_the_place_of_keeps_nobody_waiting(slow: SlowStore) -> None:
    outbox = Outbox(slow.apply, lambda _: None, lambda *_: None, lambda: None)
    task = asyncio.create_task(outbox.run())
    job = running()
    outbox.note(save(job, NOW, progress=Progress(fraction=0.5)))
    outbox.put(ended(job))
    await rest()
    slow.let_go()
    await asyncio.sleep(NOTE_DELAY + 0.05)
    async with asyncio.timeout(10):
        await outbox.flush()
    task.cancel()
    assert [move.after.state for move in slow.written] == ["completed"]
