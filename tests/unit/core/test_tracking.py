"""What is told of work while its store is there; what does not fit; how a tracker ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from perdure.core.handlers import Handlers, Partial
from perdure.core.jobs import JobService
from perdure.core.tracking import Tracker
from perdure.domain.errors import InvalidInput, StoreError
from perdure.domain.job import Progress
from perdure.domain.state import Event, JobState
from perdure.rest.embedding import EmbeddingJob
from tests.unit.core.conftest import StartWorker
from tests.unit.core.tracked import LEASE, House, failing, right, run, warnings, written

# --- the store is there ---------------------------------------------------------------------


async def test_a_record_comes_in_running_tells_its_progress_and_its_end(house: House) -> None:
    async with house.tracker() as tracker:
        async with tracker.track(
            "transcribe", payload={"url": "v"}, document_id="d", labels={"a": "b"}
        ) as work:
            await written(tracker)
            job = await house.job(work.id)
            assert (job.state, job.worker, job.epoch) == (JobState.RUNNING, tracker.name, 1)
            assert (job.kind, job.payload, job.document_id, job.labels) == (
                "transcribe",
                {"url": "v"},
                "d",
                {"a": "b"},
            )
            for n in range(100):
                work.progress(n / 100, "on", pages=n)
            work.progress(0.99, "nearly", words=7)
            await written(tracker)
            told = Progress(fraction=0.99, message="nearly", counts={"pages": 99, "words": 7})
            assert (await house.job(work.id)).progress == told
            work.result = {"words": 7}
        await written(tracker)
        job = await house.job(work.id)
        assert (job.state, job.result, job.progress, job.attempt) == (
            JobState.COMPLETED,
            {"words": 7},
            told,
            1,
        )
        assert await house.history(work.id) == [Event.COMPLETED]
        assert house.line.calls.count("apply") < 20, "of many reports only some are written"


async def test_no_worker_claims_what_is_tracked(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    ran: list[str] = []
    handlers.register("transcribe", lambda ctx: ran.append(ctx.job.id))
    start()
    tracker = Tracker(jobs, lease=timedelta(seconds=30))
    async with tracker.track("transcribe") as work:
        await written(tracker)
        await asyncio.sleep(0.1)
    await tracker.aclose()
    assert (await jobs.get(work.id, tenant="default")).state is JobState.COMPLETED
    assert ran == []


async def test_the_heartbeat_keeps_a_record_alive(house: House) -> None:
    async with house.tracker() as tracker, tracker.track("work") as work:
        await written(tracker)
        for _ in range(3):
            before = (await house.job(work.id)).version
            house.clock.advance(LEASE * 0.9)
            async with asyncio.timeout(120):
                while (await house.job(work.id)).version == before:
                    await asyncio.sleep(0.01)
            assert await house.store.expired(5) == []


async def test_an_exception_goes_on_as_it_is_and_is_the_records_end(house: House) -> None:
    error = ValueError("page 7 is torn")
    async with house.tracker() as tracker:
        job_id = await failing(tracker, error)
    job = await house.job(job_id)
    assert job.failure is not None
    assert (job.state, job.failure.type, job.failure.message) == (JobState.FAILED, "ValueError", str(error))
    assert "tracked.py" in job.failure.detail
    assert job.result is None


async def test_a_record_tells_which_try_it_is(house: House) -> None:
    async with house.tracker() as tracker:
        with suppress(ValueError):
            async with tracker.track("vectorize", document_id="shard-7", attempt=3) as third:
                raise ValueError("no such model")
        async with tracker.track("vectorize", document_id="shard-7", attempt=4) as fourth:
            fourth.result = {"chunks_stored": 42, "model": "own"}
        async with tracker.track("vectorize", attempt=0) as none:
            pass
    assert none.id == "", "there is no such try"
    failed, done = [EmbeddingJob.of(await house.job(work.id)) for work in (third, fourth)]
    assert (failed.status, failed.retry_count, failed.error) == ("failed", 2, "no such model")
    assert (done.status, done.retry_count, done.metadata.vector_count) == ("completed", 3, 42)
    assert done.metadata.embedding_model == "own"
    assert done.metadata.processing_time_ms is not None


async def test_a_cancelled_block_is_a_cancelled_record(house: House) -> None:
    async with house.tracker() as tracker:
        begun, ids = asyncio.Event(), []

        async def work() -> None:
            async with tracker.track("work") as job:
                ids.append(job.id)
                begun.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ids += [await failing(tracker, stop) for stop in (KeyboardInterrupt(), SystemExit())]
    for job_id, name in zip(ids, ("CancelledError", "KeyboardInterrupt", "SystemExit"), strict=True):
        [entry] = await house.store.history("default", job_id)
        assert (entry.event, entry.detail) == (Event.CANCELLED, {"reason": name})
        assert (await house.job(job_id)).state is JobState.CANCELLED


async def test_a_partial_result_is_a_partial_record(house: House) -> None:
    async with house.tracker() as tracker, tracker.track("work") as work:
        work.result = Partial(result={"pages": 6}, message="page 7 is torn")
    job = await house.job(work.id)
    assert job.failure is not None
    assert (job.state, job.result, job.failure.message) == (JobState.PARTIAL, {"pages": 6}, "page 7 is torn")


async def test_progress_may_be_told_by_a_thread(house: House) -> None:
    async with house.tracker() as tracker, tracker.track("work") as work:
        await asyncio.to_thread(work.progress, 0.5, "from a thread")
        await written(tracker)
        progress = (await house.job(work.id)).progress
        assert progress is not None
        assert progress.message == "from a thread"


async def test_what_is_done_to_payload_and_result_later_is_not_written(house: House) -> None:
    house.cut()
    payload, result = {"pages": [1]}, {"words": [1]}
    async with house.tracker() as tracker:
        async with tracker.track("work", payload=payload) as work:
            payload["pages"].append(2)
            work.result = result
        result["words"].append(2)
        house.mend()
    job = await house.job(work.id)
    assert (job.payload, job.result) == ({"pages": [1]}, {"words": [1]})


# --- what does not fit ----------------------------------------------------------------------


async def test_what_does_not_fit_costs_the_record_and_not_the_work(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async with house.tracker() as tracker:
        odd: list[dict[str, Any]] = [
            {"kind": "no kind at all!"},
            {"kind": "work", "payload": {"n": object()}},
            {"kind": "work", "payload": {"n": "x" * 2_000_000}},
            {"kind": "work", "user_id": "nul \x00"},
        ]
        for options in odd:
            async with tracker.track(**options) as work:
                work.progress(0.5)
                work.result = 1
            assert work.id == ""
        assert len(warnings(caplog)) == len(odd)
        async with tracker.track("work") as work:
            work.progress(0.5)
            work.progress(7)
            work.result = {1, 2}
        await written(tracker)
        job = await house.job(work.id)
        assert (job.state, job.result, job.progress) == (JobState.COMPLETED, None, Progress(fraction=0.5))
        assert len(warnings(caplog)) == len(odd) + 2
        with pytest.raises(TypeError):
            tracker.track("work", colour="blue")


async def test_an_error_that_cannot_be_printed_goes_on_as_it_is(house: House) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async with house.tracker() as tracker:
        await failing(tracker, Odd())
    assert tracker.dropped == 1


async def test_what_the_store_refuses_for_good_does_not_hold_up_the_others(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(batch: list[Any]) -> Exception | None:
        results = [getattr(getattr(one, "after", one), "result", None) for one in batch]
        payloads = [getattr(getattr(one, "after", one), "payload", None) for one in batch]
        if "large" in results or {"too": "large"} in payloads:
            return InvalidInput("it does not fit")
        return StoreError("statement refused") if "odd" in results else None

    house.line.refuse = refuse
    async with house.tracker() as tracker:
        ids = []
        for payload, result in (({}, 0), ({}, "large"), ({"too": "large"}, 2), ({}, "odd"), ({}, 4)):
            async with tracker.track("work", payload=payload) as work:
                ids.append(work.id)
                work.result = result
        await written(tracker)
        jobs = [await house.store.get("default", job_id) for job_id in ids]
        assert [job and (job.state, job.result) for job in jobs] == [
            (JobState.COMPLETED, 0),
            (JobState.COMPLETED, None),
            None,
            (JobState.COMPLETED, None),
            (JobState.COMPLETED, 4),
        ]
        assert tracker.dropped == 1
        assert len([text for text in warnings(caplog) if "not written, or not whole" in text]) == 3


# --- its own end ----------------------------------------------------------------------------


async def test_a_closed_tracker_has_written_what_waited_and_takes_no_more(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.cut()
    async with house.tracker() as tracker:
        ids = await run(tracker, 30)
        asyncio.get_running_loop().call_later(0.1, house.mend)
    await right(house, ids)
    async with tracker.track("work") as late:
        late.result = 1
    assert late.id == ""
    assert "closed" in warnings(caplog)[-1]
