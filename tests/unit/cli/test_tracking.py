from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from perdure.cli.tracking import Tracker
from perdure.domain.errors import NotFound, StoreUnavailable
from perdure.domain.job import Job, Progress
from perdure.domain.state import JobState
from perdure.testing.builders import make_job

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Shelf:
    """Jobs as a store would give them, and how often it was asked."""

    def __init__(self, number: int) -> None:
        self.jobs = {job.id: job for job in (make_job(NOW) for _ in range(number))}
        self.reads = 0

    async def get(self, job_id: str) -> Job:
        self.reads += 1
        if job_id not in self.jobs:
            raise NotFound("gone")
        return self.jobs[job_id]

    def set(self, index: int, **over: object) -> None:
        job_id = list(self.jobs)[index]
        self.jobs[job_id] = replace(self.jobs[job_id], **over)

    def complete(self, *indexes: int, **result: object) -> None:
        for index in indexes:
            self.set(index, state=JobState.COMPLETED, completed_at=NOW, result=result)

    def tracker(self, **weights: int) -> Tracker:
        ids = list(self.jobs)
        return Tracker(self.jobs.values(), {ids[int(key[1:])]: weight for key, weight in weights.items()})


async def test_a_batch_is_followed_to_its_end() -> None:
    shelf = Shelf(3)
    tracker = shelf.tracker()
    await tracker.look(shelf.get)
    assert (tracker.open, tracker.tally().done) == (3, 0)
    shelf.complete(0, chunks_total=4, chunks_embedded=3)
    shelf.complete(2, chunks_total=2, unchanged=True)
    await tracker.look(shelf.get)
    tally = tracker.tally()
    assert (tracker.open, tally.done, tally.unchanged, tally.chunks, tally.embedded) == (1, 2, 1, 6, 3)
    assert not tally.good
    shelf.complete(1)
    await tracker.look(shelf.get)
    assert tracker.tally().good


async def test_work_under_way_counts_by_its_progress_and_size() -> None:
    shelf = Shelf(2)
    tracker = shelf.tracker(_0=299, _1=99)
    progress = Progress(fraction=0.5, counts={"chunks_stored": 7, "chunks_embedded": 5})
    shelf.set(0, state=JobState.RUNNING, progress=progress)
    await tracker.look(shelf.get)
    tally = tracker.tally()
    assert (tally.done, tally.chunks, tally.embedded) == (0, 7, 5)
    assert tally.fraction == pytest.approx(0.375)
    shelf.complete(0, chunks_total=14, chunks_embedded=10)
    await tracker.look(shelf.get)
    tally = tracker.tally()
    assert (tally.done, tally.chunks, tally.embedded) == (1, 14, 10)
    assert tally.fraction == pytest.approx(0.75)


async def test_a_job_that_was_deleted_meanwhile_is_not_waited_for() -> None:
    shelf = Shelf(2)
    tracker = shelf.tracker()
    del shelf.jobs[next(iter(shelf.jobs))]
    shelf.complete(0)
    await tracker.look(shelf.get)
    tally = tracker.tally()
    assert (tracker.open, tally.done, tally.gone, tally.good) == (0, 2, 1, False)


async def test_jobs_that_end_in_whatever_order_are_all_found() -> None:
    shelf = Shelf(1000)
    tracker = shelf.tracker()
    shelf.complete(*range(100, 1000))
    for _ in range(20):
        await tracker.look(shelf.get)
    assert tracker.open == 100
    shelf.complete(*range(100))
    await tracker.look(shelf.get)
    assert tracker.open == 0
    assert tracker.tally().good


async def test_a_look_at_many_jobs_costs_no_more_than_at_a_few() -> None:
    shelf = Shelf(5000)
    tracker = shelf.tracker()
    await tracker.look(shelf.get)
    assert shelf.reads <= 128


async def test_a_store_in_trouble_is_told_and_nothing_is_lost() -> None:
    shelf = Shelf(1)
    tracker = shelf.tracker()

    async def broken(_job_id: str) -> Job:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        await tracker.look(broken)
    shelf.complete(0)
    await tracker.look(shelf.get)
    assert tracker.open == 0


async def test_an_empty_batch_is_done() -> None:
    tracker = Tracker([], {})
    await tracker.look(Shelf(0).get)
    assert (tracker.open, tracker.tally().fraction, tracker.tally().good) == (0, 1.0, True)
