"""Work whose store goes and comes: the work never notices, and its record is right in the end."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from perdure.core import replay, tracking
from perdure.core.tracking import Tracker
from perdure.domain.errors import StoreError
from perdure.domain.job import Job, Progress
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from tests.unit.core.tracked import House, failing, infos, right, run, until, warnings, written

# --- the store is away ----------------------------------------------------------------------


async def test_a_store_that_is_away_from_the_start_gets_all_when_it_comes(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    house.cut()
    async with house.tracker() as tracker:
        ids = await run(tracker, 30)
        for _ in range(3):
            await house.until_tried(tracker)
        assert tracker.waiting == 30
        house.mend()
        await written(tracker)
        await right(house, ids)
        [warning] = warnings(caplog)
        assert "db.example:5432 does not answer" in warning
        assert "10,000" in warning
        assert "see that it runs" in warning
        [info] = infos(caplog)
        assert "takes records again" in info
    assert tracker.dropped == 0


async def test_a_store_that_goes_and_comes_in_the_middle_gets_all(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async with house.tracker() as tracker:
        ids = await run(tracker, 30)
        await written(tracker)
        async with tracker.track("work", payload={"n": 30}) as work:
            await written(tracker)
            house.cut()
            work.progress(0.1)
            await house.until_tried(tracker)
            work.progress(0.2)
            work.result = 30
        ids += [work.id, *await run(tracker, 30, first=31)]
        await house.until_tried(tracker)
        house.mend()
        await written(tracker)
        await right(house, ids)
    assert (await house.job(work.id)).progress == Progress(fraction=0.2)
    assert len(warnings(caplog)) == 1


async def test_a_store_that_never_comes_costs_its_records_and_nothing_else(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.cut()
    async with house.tracker(grace=0.2) as tracker:
        assert len(await run(tracker, 30)) == 30
    assert tracker.dropped == 30
    assert "30 records are not written to their end" in warnings(caplog)[-1]
    assert await house.store.count(JobFilter(tenant=None)) == 0


@pytest.mark.parametrize("error", [RuntimeError("a driver's bug"), StoreError("wrong password"), OSError()])
async def test_no_error_of_the_store_whatever_comes_out(house: House, error: Exception) -> None:
    house.line.cut = error
    async with house.tracker() as tracker:
        ids = await run(tracker, 3)
        await house.until_tried(tracker)
        house.mend()
        await written(tracker)
        await right(house, ids)


async def test_a_store_that_says_nothing_is_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PATIENCE", 0.05)
    hung = asyncio.Event()
    add = house.store.add

    async def hanging(jobs: list[Job]) -> list[Job]:
        if not hung.is_set():
            hung.set()
            await asyncio.sleep(60)
        return await add(jobs)

    monkeypatch.setattr(house.store, "add", hanging)
    async with house.tracker() as tracker:
        ids = await run(tracker, 3)
        await written(tracker)
        await right(house, ids)
    assert hung.is_set()


async def test_what_is_said_again_because_its_answer_was_lost_counts_once(house: House) -> None:
    chance = random.Random(7)
    house.line.lose = lambda: chance.random() < 0.4
    async with house.tracker() as tracker:
        ids = await run(tracker, 60)
        await written(tracker)
    await right(house, ids)


# --- the buffer -----------------------------------------------------------------------------


async def test_a_full_buffer_drops_the_oldest_ends_and_tells_so(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    house.cut()
    async with house.tracker(buffer=3) as tracker, tracker.track("work") as long:
        for n in range(500):
            long.progress(n / 500)
        ids = await run(tracker, 9)
        assert tracker.dropped == 6
        assert tracker.waiting == 4, "the three last, and the one under way"
        await house.until_tried(tracker)
        house.mend()
        await written(tracker)
        assert {job.id for job in await house.store.find(JobFilter(tenant=None), 20)} == {long.id, *ids[6:]}
        assert len([text for text in warnings(caplog) if "oldest are dropped" in text]) == 1
        assert "6 were dropped" in infos(caplog)[-1]


async def test_the_buffer_is_bounded_in_bytes_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "BUFFER_BYTES", 100_000)
    house.cut()
    async with house.tracker() as tracker:
        for _ in range(30):
            async with tracker.track("work", payload={"text": "x" * 9_000}) as work:
                work.result = "y" * 11_000
        assert (tracker.waiting, tracker.dropped) == (4, 26)
        house.mend()
        await written(tracker)
    assert await house.store.count(JobFilter(tenant=None)) == 4


# --- records that others decide about -------------------------------------------------------


async def test_two_trackers_with_one_key_have_one_record(house: House) -> None:
    async with house.tracker() as first, house.tracker() as second:
        async with first.track("work", idempotency_key="order-7") as work:
            await written(first)
            async with second.track("work", idempotency_key="order-7") as again:
                await written(second)
                assert again.id == work.id
                again.progress(0.9)
                again.result = "second"
            work.result = "first"
        await written(first)
        await failing(second, ValueError("torn"), idempotency_key="order-7")
    [job] = await house.store.find(JobFilter(tenant=None), 5)
    assert (job.state, job.result, job.progress) == (JobState.COMPLETED, "first", None)


async def test_a_record_taken_for_dead_goes_on_when_its_tracker_is_back(house: House) -> None:
    async with house.tracker() as tracker:
        async with tracker.track("work") as work:
            await written(tracker)
            house.cut()
            assert await house.bury() == 1
            dead = await house.job(work.id)
            assert dead.failure is not None
            assert (dead.state, dead.failure.type) == (JobState.FAILED, "WorkerDied")
            house.mend()
            async with asyncio.timeout(120):
                while (await house.job(work.id)).state is not JobState.RUNNING:
                    await asyncio.sleep(0.01)
            assert await house.store.expired(5) == []
            work.progress(0.5)
            await written(tracker)
            work.result = 1
        await written(tracker)
    job = await house.job(work.id)
    assert (job.state, job.result, job.failure, job.rescues) == (JobState.COMPLETED, 1, None, 0)
    assert await house.history(work.id) == [Event.QUARANTINED, Event.REVIVED, Event.COMPLETED]


async def test_a_record_taken_for_dead_whose_work_ended_meanwhile_gets_its_end(house: House) -> None:
    async with house.tracker() as tracker:
        async with tracker.track("work") as work, asyncio.timeout(120):
            await written(tracker)
            house.cut()
            work.result = 1
        never_there = await failing(tracker, ValueError("torn"))
        assert await house.bury() == 1
        house.mend()
        await written(tracker)
    assert (await house.job(work.id)).result == 1
    assert (await house.job(never_there)).state is JobState.FAILED
    assert await house.history(work.id) == [Event.QUARANTINED, Event.REVIVED, Event.COMPLETED]


async def test_work_whose_process_died_is_failed_in_the_end(house: House) -> None:
    async with house.tracker(grace=0.1) as tracker:
        work = tracker.track("work")
        await work.__aenter__()
        await written(tracker)
    assert tracker.dropped == 1, "and its process never came to the end of the block"
    assert await house.bury() == 1
    job = await house.job(work.id)
    assert job.failure is not None
    assert (job.state, job.failure.type) == (JobState.FAILED, "WorkerDied")
    assert tracker.name in job.failure.message
    await work.__aexit__(None, None, None)
    assert (await house.job(work.id)).state is JobState.FAILED


async def test_many_records_taken_for_dead_go_on_bite_by_bite(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MEND_BATCH", 3)
    async with house.tracker() as tracker, AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(tracker.track("work"))
        await written(tracker)
        house.cut()
        assert await house.bury() == 20
        house.mend()
        async with asyncio.timeout(30):
            while (await house.store.stats(None)).by_state[JobState.RUNNING] < 20:
                await asyncio.sleep(0.01)
    assert (await house.store.stats(None)).by_state[JobState.COMPLETED] == 20


async def test_a_store_that_is_too_slow_for_many_at_once_gets_fewer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def slow(batch: list[object]) -> Exception | None:
        sizes.append(len(batch))
        return TimeoutError() if len(batch) > 10 else None

    house.line.refuse = slow
    async with house.tracker() as tracker:
        ids = await run(tracker, 99)
        await written(tracker)
        await right(house, ids)
    assert max(sizes) > 10


async def test_what_somebody_else_decided_stands(house: House) -> None:
    async with house.tracker() as tracker:
        async with (
            tracker.track("work") as called_off,
            tracker.track("work") as deleted,
            tracker.track("work") as sent_round,
        ):
            await written(tracker)
            await house.here.cancel(called_off.id, tenant="default")
            await house.here.delete(deleted.id, tenant="default")
            await house.bury()
            await house.here.requeue(sent_round.id, tenant="default")
            await until(lambda: called_off.cancelled)
            for work in (called_off, deleted, sent_round):
                work.progress(0.5)
                work.result = "late"
        await written(tracker)
        assert not deleted.cancelled
    assert (await house.job(called_off.id)).state is JobState.CANCELLED
    assert await house.store.get("default", deleted.id) is None
    assert (await house.job(sent_round.id)).state is JobState.PENDING
    assert tracker.dropped == 0


async def test_a_tracker_that_maintains_buries_the_dead_and_purges(house: House) -> None:
    async with house.tracker(grace=0.1) as dying:
        await dying.track("work").__aenter__()
        await written(dying)
    house.clock.advance(timedelta(hours=1))
    async with house.tracker(maintain=True) as tracker, tracker.track("work", ttl=timedelta(days=9)):
        async with asyncio.timeout(120):
            while not (await house.store.stats(None)).by_state[JobState.FAILED]:
                await asyncio.sleep(0.01)
            house.clock.advance(timedelta(hours=25))
            while (await house.store.stats(None)).by_state[JobState.FAILED]:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_each_record_is_right_in_the_end(house: House, seed: int) -> None:
    """Cuts, lost answers, burials, at any moment of many units of work at once."""
    chance = random.Random(seed)
    house.line.lose = lambda: chance.random() < 0.1
    ended: dict[str, tuple[JobState, object]] = {}

    async def work(tracker: Tracker, n: int) -> None:
        try:
            async with tracker.track("work", payload={"n": n}, ttl=None) as job:
                for step in range(chance.randint(0, 5)):
                    job.progress(step / 5)
                    await asyncio.sleep(chance.uniform(0, 0.1))
                job.result = n
                if n % 4 == 0:
                    ended[job.id] = JobState.FAILED, None
                    raise ValueError("torn")
                ended[job.id] = JobState.COMPLETED, n
        except ValueError:
            pass

    async def meddle() -> None:
        for _ in range(12):
            await asyncio.sleep(chance.uniform(0, 0.05))
            house.cut()
            if chance.random() < 0.5:
                await house.bury()
            await asyncio.sleep(chance.uniform(0, 0.05))
            house.mend()

    async with house.tracker() as tracker:
        await asyncio.gather(meddle(), *(work(tracker, n) for n in range(60)))
        house.line.lose = lambda: False
        await written(tracker)
    assert tracker.dropped == 0
    jobs = await house.store.find(JobFilter(tenant=None), 100)
    assert {job.id: (job.state, job.result) for job in jobs} == ended
    for job in jobs:
        assert (job.failure is None) == (job.state is JobState.COMPLETED), "no trace of a burial is left"
        events = await house.history(job.id)
        assert [event for event in events if event in (Event.COMPLETED, Event.FAILED)] == events[-1:]
