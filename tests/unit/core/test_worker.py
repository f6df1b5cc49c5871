"""What a worker does with a job, as seen in the store afterwards."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from perdure.core.context import Context, ThreadContext
from perdure.core.handlers import Handlers, Partial
from perdure.core.jobs import JobService
from perdure.core.worker import Worker
from perdure.domain.errors import (
    Fatal,
    IllegalTransition,
    InvalidInput,
    LeaseLost,
    RetryAfter,
    StoreError,
    StoreUnavailable,
)
from perdure.domain.job import Job, NewJob
from perdure.domain.retry import RetryPolicy
from perdure.domain.state import Event, JobState
from perdure.domain.transition import Transition
from perdure.stores.memory import MemoryJobStore

from .conftest import POLL, StartWorker, kept

AT_ONCE = RetryPolicy(max_attempts=3, base=0.0)


async def submit(jobs: JobService, kind: str = "work", **fields: Any) -> Job:
    return await jobs.add(NewJob(kind=kind, **fields))


async def finished(jobs: JobService, job: Job) -> Job:
    return await jobs.wait(job.id, tenant=job.tenant, timeout=60)


async def reach(jobs: JobService, job: Job, state: JobState) -> Job:
    async with asyncio.timeout(60):
        async for seen in jobs.watch(job.id, tenant=job.tenant):
            if seen.state is state:
                return seen
    raise AssertionError(f"the job never was {state}")


async def events(jobs: JobService, job: Job) -> list[Event]:
    return [entry.event for entry in await jobs.history(job.id, tenant=job.tenant)]


async def test_a_returned_value_is_the_result(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def add(ctx: Context, left: int, right: int) -> dict[str, int]:
        return {"sum": left + right}

    handlers.register("add", add)
    start()
    job = await finished(jobs, await submit(jobs, "add", payload={"left": 2, "right": 3}))
    assert (job.state, job.result, job.attempt, job.epoch) == (JobState.COMPLETED, {"sum": 5}, 1, 1)
    assert await events(jobs, job) == [Event.ADDED, Event.COMPLETED]


async def test_a_plain_function_runs_in_a_thread_and_can_speak(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    def plain(ctx: ThreadContext) -> str:
        ctx.progress(0.5, "half", pages=3)
        ctx.checkpoint({"page": 3})
        return threading.current_thread().name

    handlers.register("plain", plain)
    start()
    job = await finished(jobs, await submit(jobs, "plain"))
    assert isinstance(job.result, str)
    assert job.result.startswith("perdure-handler")
    assert job.checkpoint == {"page": 3}
    assert job.progress is not None
    assert (job.progress.fraction, job.progress.counts) == (0.5, {"pages": 3})


async def test_a_failing_handler_is_tried_again_and_then_given_up(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def bad(ctx: Context) -> None:
        raise RuntimeError(f"attempt {ctx.job.attempt}")

    handlers.register("bad", bad, retry=AT_ONCE)
    start()
    job = await finished(jobs, await submit(jobs, "bad"))
    assert (job.state, job.attempt, job.rescues) == (JobState.FAILED, 3, 0)
    assert job.failure is not None
    assert (job.failure.type, job.failure.message) == ("RuntimeError", "attempt 2")
    assert "in bad" in job.failure.detail
    assert await events(jobs, job) == [Event.ADDED, Event.RETRIED, Event.RETRIED, Event.FAILED]


async def test_backoff_waits_as_the_policy_says(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def bad(ctx: Context) -> None:
        raise RuntimeError("no")

    handlers.register("bad", bad, retry=RetryPolicy(base=100, jitter=0))
    start()
    job = await submit(jobs, "bad")
    async with asyncio.timeout(60):
        while (job := await jobs.get(job.id, tenant=job.tenant)).attempt == 0:
            await asyncio.sleep(0.01)
    assert job.state is JobState.PENDING
    assert job.due_at == job.updated_at + timedelta(seconds=100)


@pytest.mark.parametrize("error", [Fatal("no use"), ValueError("x" * 100_000)], ids=["fatal", "long"])
async def test_errors_are_kept_in_bounds(
    error: Exception, jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def bad(ctx: Context) -> None:
        raise error

    handlers.register("bad", bad, max_attempts=1)
    start()
    job = await finished(jobs, await submit(jobs, "bad"))
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert len(job.failure.message) <= 4000
    assert len(job.failure.detail) <= 4000
    assert job.failure.fatal is isinstance(error, Fatal)


async def test_a_payload_that_does_not_fit_fails_at_once_with_the_signature(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def takes_url(ctx: Context, url: str) -> None: ...

    handlers.register("fetch", takes_url)
    start()
    job = await finished(jobs, await submit(jobs, "fetch", payload={"uri": "x"}))
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.failure is not None
    assert "it takes (url)" in job.failure.message


async def test_a_result_that_is_no_json_fails_with_its_path(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def odd(ctx: Context) -> dict[str, object]:
        return {"when": object()}

    handlers.register("odd", odd)
    start()
    job = await finished(jobs, await submit(jobs, "odd"))
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert "the result of 'odd'.when is a object" in job.failure.message


async def test_retry_after_costs_no_attempt(jobs: JobService, handlers: Handlers, start: StartWorker) -> None:
    async def throttled(ctx: Context) -> str:
        if ctx.epoch < 4:
            raise RetryAfter(0.01, "the provider answered 429")
        return "done"

    handlers.register("throttled", throttled, max_attempts=1)
    start()
    job = await finished(jobs, await submit(jobs, "throttled"))
    assert (job.state, job.attempt, job.epoch) == (JobState.COMPLETED, 1, 4)
    entry = (await jobs.history(job.id, tenant=job.tenant))[1]
    assert (entry.event, entry.detail) == (Event.RELEASED, {"reason": "the provider answered 429"})


async def test_a_timeout_is_a_failed_attempt(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def slow(ctx: Context) -> None:
        await asyncio.sleep(30)

    handlers.register("slow", slow, max_attempts=1, timeout=timedelta(seconds=0.05))
    start()
    job = await finished(jobs, await submit(jobs, "slow"))
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.type == "TimeoutError"


async def test_partial_success_says_what_failed(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def half(ctx: Context) -> Partial:
        return Partial(result={"done": 1}, message="page 2 is broken")

    handlers.register("half", half)
    start()
    job = await finished(jobs, await submit(jobs, "half"))
    assert (job.state, job.result) == (JobState.PARTIAL, {"done": 1})
    assert job.failure is not None
    assert job.failure.message == "page 2 is broken"


async def test_a_checkpoint_outlives_a_failed_run(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def steps(ctx: Context) -> str:
        if ctx.saved is None:
            await ctx.checkpoint("step 1 done")
            raise RuntimeError("in the middle")
        return f"went on from: {ctx.saved}"

    handlers.register("steps", steps, retry=AT_ONCE)
    start()
    job = await finished(jobs, await submit(jobs, "steps"))
    assert job.result == "went on from: step 1 done"


async def test_a_question_holds_no_slot_and_its_answer_comes_back(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def publish(ctx: Context) -> object:
        try:
            return await ctx.ask("Publish?", choices=["yes", "no"])
        except Exception as error:  # a handler that catches all must not catch the question
            raise AssertionError("swallowed") from error

    handlers.register("publish", publish)
    worker = start(concurrency=1)
    asking = await submit(jobs, "publish")
    waiting = await reach(jobs, asking, JobState.WAITING)
    assert waiting.question is not None
    assert (waiting.question.prompt, waiting.question.choices) == ("Publish?", ("yes", "no"))
    assert waiting.lease is None
    assert worker.active == 0
    await jobs.respond(asking.id, "yes", tenant=asking.tenant, actor="ada")
    job = await finished(jobs, asking)
    assert (job.state, job.result, job.attempt) == (JobState.COMPLETED, "yes", 1)
    assert await events(jobs, job) == [Event.ADDED, Event.ASKED, Event.ANSWERED, Event.COMPLETED]
    assert (await jobs.history(job.id, tenant=job.tenant))[2].actor == "ada"


async def test_a_plain_function_can_ask_too(jobs: JobService, handlers: Handlers, start: StartWorker) -> None:
    def publish(ctx: ThreadContext) -> object:
        return ctx.ask("Publish?")

    handlers.register("publish", publish)
    start()
    job = await submit(jobs, "publish")
    await reach(jobs, job, JobState.WAITING)
    await jobs.respond(job.id, {"free": "form"}, tenant=job.tenant)
    assert (await finished(jobs, job)).result == {"free": "form"}


async def test_the_default_stands_when_nobody_answers(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def publish(ctx: Context) -> object:
        return await ctx.ask("Publish?", choices=["yes", "no"], deadline="0.05s", default="no")

    handlers.register("publish", publish)
    start(lease=timedelta(seconds=3))
    job = await finished(jobs, await submit(jobs, "publish"))
    assert job.result == "no"
    assert job.questions[0].answered_by == "deadline"


FORM: dict[str, Any] = {"type": "object", "properties": {"pages": {"type": "integer"}}, "required": ["pages"]}


async def test_an_answer_must_fit_the_schema(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def publish(ctx: Context) -> object:
        return await ctx.ask("How many pages?", schema=FORM)

    handlers.register("publish", publish)
    start()
    job = await submit(jobs, "publish")
    await reach(jobs, job, JobState.WAITING)
    refused: list[tuple[Any, str]] = [
        ({"pages": "<b>"}, r"\$\.pages: '<b>' is not of type 'integer'"),
        ({}, "'pages' is a required"),
    ]
    for wrong, why in refused:
        with pytest.raises(InvalidInput, match=why):
            await jobs.respond(job.id, wrong, tenant=job.tenant)
    await jobs.respond(job.id, {"pages": 3}, tenant=job.tenant)
    assert (await finished(jobs, job)).result == {"pages": 3}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"schema": {"type": "nothing"}}, "the schema of the question is none"),
        ({"schema": FORM, "deadline": "1h"}, "the default does not fit the question's schema"),
        ({"schema": FORM, "choices": ["yes"]}, "not both"),
        ({"schema": {"$ref": "http://127.0.0.1:1/x"}, "deadline": "1h"}, "nothing is fetched from elsewhere"),
    ],
)
async def test_a_question_that_nobody_could_answer_fails_the_job(
    options: dict[str, Any], why: str, jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def publish(ctx: Context) -> object:
        return await ctx.ask("Publish?", **options)

    handlers.register("publish", publish)
    start()
    job = await finished(jobs, await submit(jobs, "publish"))
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert why in job.failure.message


async def test_an_answer_after_the_deadline_is_refused(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def publish(ctx: Context) -> object:
        return await ctx.ask("Publish?", deadline="0.05s", default="no")

    handlers.register("publish", publish)
    worker = start(lease=timedelta(hours=1))  # so that nobody lets the default stand meanwhile
    job = await submit(jobs, "publish")
    await reach(jobs, job, JobState.WAITING)
    worker.stop()
    await asyncio.sleep(0.1)
    with pytest.raises(IllegalTransition, match=r"after the deadline .* the default stands"):
        await jobs.respond(job.id, "yes", tenant=job.tenant)


async def test_of_two_answers_at_once_one_counts(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def publish(ctx: Context) -> object:
        return await ctx.ask("Publish?")

    handlers.register("publish", publish)
    start()
    job = await submit(jobs, "publish")
    await reach(jobs, job, JobState.WAITING)
    told = await asyncio.gather(
        *(jobs.respond(job.id, by, tenant=job.tenant, actor=by) for by in ("ann", "bob")),
        return_exceptions=True,
    )
    assert [isinstance(one, IllegalTransition) for one in told].count(True) == 1
    done = await finished(jobs, job)
    entries = await jobs.history(job.id, tenant=job.tenant)
    answers = [entry for entry in entries if entry.event is Event.ANSWERED]
    assert [(one.actor, one.detail["answer"]) for one in answers] == [(done.result, done.result)]


async def test_a_running_job_that_is_cancelled_stops_and_writes_nothing(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    stopped = asyncio.Event()

    async def long(ctx: Context) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return "never"

    handlers.register("long", long)
    start(lease=timedelta(seconds=3))
    job = await submit(jobs, "long")
    await reach(jobs, job, JobState.RUNNING)
    await jobs.cancel(job.id, tenant=job.tenant, reason="changed my mind")
    await asyncio.wait_for(stopped.wait(), 60)
    await asyncio.sleep(0.1)
    job = await jobs.get(job.id, tenant=job.tenant)
    assert (job.state, job.result) == (JobState.CANCELLED, None)
    assert await events(jobs, job) == [Event.ADDED, Event.CANCELLED]


async def test_the_heartbeat_keeps_a_long_job(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    async def long(ctx: Context) -> str:
        await kept(jobs, ctx)
        return "done"

    handlers.register("long", long)
    start(lease=timedelta(seconds=3))
    job = await finished(jobs, await submit(jobs, "long"))
    assert (job.state, job.epoch, job.rescues) == (JobState.COMPLETED, 1, 0)


async def test_a_job_of_a_dead_worker_is_rescued_and_its_late_words_change_nothing(
    store: MemoryJobStore, jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    job = await submit(jobs)
    (stale,) = await store.claim("dead", ["work"], 1, timedelta(seconds=0.05))

    async def work(ctx: Context) -> str:
        return f"epoch {ctx.epoch}"

    handlers.register("work", work)
    start(lease=timedelta(seconds=3))
    done = await finished(jobs, job)
    assert (done.result, done.rescues, done.attempt) == ("epoch 2", 1, 1)
    late = Context(stale, _Direct(jobs), jobs.clock.now, valid_until=time.monotonic() + 60)
    with pytest.raises(LeaseLost):
        await late.checkpoint("from the grave")
    assert await jobs.get(job.id, tenant=job.tenant) == done


class _Direct:
    """A writer without batches."""

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs

    async def write(self, move: Transition) -> None:
        if not (await self._jobs.apply([move]))[0]:
            raise LeaseLost("fenced")

    def note(self, move: Transition) -> None: ...


async def test_a_job_that_kills_its_workers_is_given_up(store: MemoryJobStore, jobs: JobService) -> None:
    job = await submit(jobs, max_rescues=2)
    for _ in range(3):
        await store.claim("victim", ["work"], 1, timedelta(seconds=0.01))
        await asyncio.sleep(0.03)
        await jobs.settle_overdue("maintenance")
    job = await jobs.get(job.id, tenant=job.tenant)
    assert (job.state, job.rescues, job.attempt) == (JobState.FAILED, 3, 0)
    assert job.failure is not None
    assert job.failure.type == "WorkerDied"
    assert await events(jobs, job) == [Event.ADDED, Event.RESCUED, Event.RESCUED, Event.QUARANTINED]


async def test_a_drain_finishes_what_runs_and_gives_back_what_waits(
    jobs: JobService, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.core.worker.AHEAD", 1000.0)  # far ahead, however slow the machine
    go = asyncio.Event()

    async def quick(ctx: Context, wait: bool = False) -> str:
        if wait:
            await go.wait()
        return "done"

    handlers.register("quick", quick)
    for _ in range(30):
        await submit(jobs, "quick")
    worker = Worker(jobs, handlers, concurrency=2, poll=POLL, grace=timedelta(seconds=60))
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(60):
        while (await jobs.stats("default")).unfinished:
            await asyncio.sleep(0.01)
    # Short jobs have made it claim ahead; now its two slots are held, and more lie in its hands.
    held = [await submit(jobs, "quick", payload={"wait": True}) for _ in range(6)]
    await reach(jobs, held[5], JobState.RUNNING)
    worker.stop()
    await asyncio.sleep(0.05)
    go.set()
    await asyncio.wait_for(running, 60)
    states = [(await jobs.get(job.id, tenant="default")).state for job in held]
    assert states == [JobState.COMPLETED] * 2 + [JobState.PENDING] * 4
    back = await jobs.get(held[5].id, tenant="default")
    assert (back.attempt, back.rescues, back.epoch) == (0, 0, 1)


async def test_a_second_stop_gives_running_jobs_back_at_once(jobs: JobService, handlers: Handlers) -> None:
    async def long(ctx: Context) -> None:
        await asyncio.sleep(30)

    handlers.register("long", long)
    job = await submit(jobs, "long")
    worker = Worker(jobs, handlers, poll=POLL)
    running = asyncio.create_task(worker.run())
    await reach(jobs, job, JobState.RUNNING)
    worker.stop()
    worker.stop()
    await asyncio.wait_for(running, 60)
    job = await jobs.get(job.id, tenant=job.tenant)
    assert (job.state, job.attempt) == (JobState.PENDING, 0)
    assert await events(jobs, job) == [Event.ADDED, Event.RELEASED]


class _Moody(MemoryJobStore):
    """Loses calls before or after they take effect, as told."""

    def __init__(self) -> None:
        super().__init__()
        self.before = 0
        self.after = 0
        self.largest = 10**9

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        if self.before:
            self.before -= 1
            raise StoreUnavailable("refused")
        if any(len(str(move.after.result)) > self.largest for move in transitions):
            raise StoreError("a record may hold at most 2 MB")
        outcomes = await super().apply(transitions)
        if self.after:
            self.after -= 1
            raise StoreUnavailable("the answer was lost")
        return outcomes


@pytest.fixture
async def moody() -> _Moody:
    return _Moody()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_result_outlasts_a_store_that_is_away(
    when: str, moody: _Moody, handlers: Handlers, start: StartWorker
) -> None:
    runs = 0

    async def work(ctx: Context) -> str:
        nonlocal runs
        runs += 1
        setattr(moody, when, 2)
        return "done"

    handlers.register("work", work)
    jobs = JobService(moody, poll=POLL)
    start(jobs)
    job = await finished(jobs, await submit(jobs))
    assert (job.state, job.attempt, runs) == (JobState.COMPLETED, 1, 1)
    assert await events(jobs, job) == [Event.ADDED, Event.COMPLETED]
    await jobs.close()


async def test_a_result_that_the_store_never_takes_fails_its_job_alone(
    moody: _Moody, handlers: Handlers, start: StartWorker
) -> None:
    async def work(ctx: Context, size: int) -> str:
        return "x" * size

    handlers.register("work", work)
    moody.largest = 1000
    jobs = JobService(moody, poll=POLL)
    start(jobs)
    large = await submit(jobs, payload={"size": 2000})
    small = await submit(jobs, payload={"size": 10})
    assert (await finished(jobs, small)).state is JobState.COMPLETED
    refused = await finished(jobs, large)
    assert (refused.state, refused.result) == (JobState.FAILED, None)
    assert refused.failure is not None
    assert "at most 2 MB" in refused.failure.message
    await jobs.close()


async def test_progress_is_seen_while_the_job_runs(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    go = asyncio.Event()

    async def work(ctx: Context) -> None:
        await ctx.progress(0.25, "a quarter", pages=1)
        await ctx.progress(0.5, "half", chunks=2)
        await go.wait()

    handlers.register("work", work)
    start()
    job = await submit(jobs)
    async with asyncio.timeout(60):
        async for seen in jobs.watch(job.id, tenant=job.tenant):
            if seen.progress and seen.progress.fraction == 0.5:
                break
    assert seen.progress is not None
    assert (seen.progress.message, seen.progress.counts) == ("half", {"pages": 1, "chunks": 2})
    go.set()
    assert (await finished(jobs, job)).state is JobState.COMPLETED


async def test_a_thousand_small_jobs_each_run_once(
    jobs: JobService, handlers: Handlers, start: StartWorker
) -> None:
    ran: list[int] = []

    async def small(ctx: Context, number: int) -> None:
        ran.append(number)

    handlers.register("small", small)
    await jobs.add_many([NewJob(kind="small", payload={"number": number}) for number in range(1000)])
    start(concurrency=8)
    start(concurrency=8)
    async with asyncio.timeout(60):
        while (await jobs.stats("default")).unfinished:
            await asyncio.sleep(0.01)
    assert sorted(ran) == list(range(1000))


async def test_a_store_that_claims_slowly_is_asked_for_less(
    jobs: JobService,
    store: MemoryJobStore,
    handlers: Handlers,
    start: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[int] = []
    claim = store.claim

    async def noted(worker: str, kinds: Sequence[str], limit: int, *rest: Any) -> list[Job]:
        limits.append(limit)
        return await claim(worker, kinds, limit, *rest)

    async def work(ctx: Context) -> None: ...

    monkeypatch.setattr(store, "claim", noted)
    monkeypatch.setattr("perdure.core.worker.SLOW", -1.0)
    handlers.register("work", work)
    added = await jobs.add_many([NewJob(kind="work") for _ in range(500)])
    start(concurrency=10)
    for job in added:
        await finished(jobs, job)
    assert max(limits) == 10


async def test_results_that_the_store_takes_slowly_do_not_pile_up(
    jobs: JobService,
    store: MemoryJobStore,
    handlers: Handlers,
    start: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran, gate, apply = 0, asyncio.Event(), store.apply

    async def work(ctx: Context) -> None:
        nonlocal ran
        ran += 1

    async def slow(moves: Sequence[Transition]) -> list[bool]:
        await gate.wait()
        return await apply(moves)

    monkeypatch.setattr(store, "apply", slow)
    handlers.register("work", work)
    await jobs.add_many([NewJob(kind="work") for _ in range(10_000)])
    start(concurrency=10)
    before = -1
    while ran == 0 or before < ran:
        before = ran
        await asyncio.sleep(0.2)
    assert ran < 5_000
    gate.set()
    async with asyncio.timeout(60):
        while (await jobs.stats("default")).unfinished:
            await asyncio.sleep(0.01)
    assert ran == 10_000
