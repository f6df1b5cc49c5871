"""The service's own promises: decisions that lose a race are taken again, and what is said twice counts once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from perdure.core.clock import StoreClock
from perdure.core.jobs import JobService
from perdure.core.maintenance import Maintenance
from perdure.domain import transition
from perdure.domain.errors import (
    IdempotencyConflict,
    IllegalTransition,
    InvalidInput,
    NotFound,
    WaitTimeout,
)
from perdure.domain.job import MAX_PAYLOAD, Failure, Job, NewJob, Progress, Question
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from perdure.domain.transition import Transition
from perdure.ports.job_store import Change
from perdure.stores.memory import MemoryJobStore
from perdure.testing.clock import MovableClock

LEASE = timedelta(seconds=30)
HOUR = timedelta(hours=1)


def _new(**fields: object) -> NewJob:
    return NewJob(**{"kind": "work", **fields})  # type: ignore[arg-type]  # fields of NewJob


async def claimed(jobs: JobService, **fields: object) -> Job:
    await jobs.add(NewJob(kind="work", **fields))  # type: ignore[arg-type]  # fields of NewJob
    return (await jobs.store.claim("w", ["work"], 1, LEASE))[0]


async def failed(jobs: JobService) -> Job:
    job = await claimed(jobs)
    failure = Failure(type="E", message="no", fatal=True)
    assert await jobs.apply([transition.fail(job, failure, timedelta(0), jobs.stamp("w"))]) == [True]
    return await jobs.get(job.id, tenant="default")


async def asking(jobs: JobService) -> Job:
    job = await claimed(jobs)
    question = Question(key="q", prompt="Sure?", asked_at=jobs.clock.now(), choices=("yes", "no"))
    assert await jobs.apply([transition.ask(job, question, jobs.stamp("w"))]) == [True]
    return await jobs.get(job.id, tenant="default")


async def test_the_same_key_gives_the_same_job_and_refuses_another_payload(jobs: JobService) -> None:
    first = await jobs.add(NewJob(kind="work", payload={"n": 1}, idempotency_key="k"))
    assert await jobs.add(NewJob(kind="work", payload={"n": 1}, idempotency_key="k")) == first
    with pytest.raises(IdempotencyConflict, match=first.id):
        await jobs.add(NewJob(kind="work", payload={"n": 2}, idempotency_key="k"))


async def test_a_store_that_joins_no_transaction_says_so(jobs: JobService) -> None:
    with pytest.raises(InvalidInput, match=r"cannot join a transaction.*leave `connection` out"):
        await jobs.add(NewJob(kind="work"), connection=object())
    assert (await jobs.stats(None)).total == 0


async def test_an_id_of_the_callers_own_may_be_said_twice_but_not_by_another_tenant(jobs: JobService) -> None:
    mine = NewJob(kind="work", id="0198c0de-7a3e-7abc-8def-0123456789ab")
    first = await jobs.add(mine)
    assert first.id == mine.id
    assert await jobs.add(mine) == first
    with pytest.raises(InvalidInput, match="taken"):
        await jobs.add(replace(mine, tenant="another"))
    with pytest.raises(InvalidInput, match="canonical"):
        NewJob(kind="work", id="0198C0DE-7a3e-7abc-8def-0123456789ab")


async def test_a_payload_over_the_limit_is_refused_with_the_remedy(jobs: JobService) -> None:
    with pytest.raises(InvalidInput, match="blob"):
        await jobs.add(NewJob(kind="work", payload={"text": "x" * MAX_PAYLOAD}))
    assert (await jobs.stats(None)).total == 0


async def test_pages_follow_one_another_to_the_end(jobs: JobService) -> None:
    added = await jobs.add_many([NewJob(kind="work") for _ in range(25)])
    seen: list[Job] = []
    after = None
    while True:
        page = await jobs.page(JobFilter(tenant="default"), limit=10, after=after)
        seen += page.jobs
        if (after := page.next) is None:
            break
    assert [job.id for job in seen] == sorted((job.id for job in added), reverse=True)


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_page_has_bounds(limit: int, jobs: JobService) -> None:
    with pytest.raises(InvalidInput, match="1 to 1000"):
        await jobs.page(JobFilter(tenant="default"), limit=limit)


async def test_unknown_ids_and_broken_ids_differ(jobs: JobService) -> None:
    with pytest.raises(InvalidInput, match="not a UUID"):
        await jobs.get("42", tenant="default")
    with pytest.raises(NotFound):
        await jobs.get("0198c0de-7a3e-7abc-8def-0123456789ab", tenant="default")
    job = await jobs.add(NewJob(kind="work"))
    with pytest.raises(NotFound):
        await jobs.get(job.id, tenant="another")


async def test_the_timeline_tells_of_the_run_under_way(jobs: JobService) -> None:
    job = await claimed(jobs, created_by="ada")
    story = await jobs.history(job.id, tenant="default")
    assert [(entry.event, entry.actor) for entry in story] == [(Event.ADDED, "ada"), (Event.CLAIMED, "w")]


async def test_cancel_may_be_said_twice(jobs: JobService) -> None:
    job = await claimed(jobs)
    first = await jobs.cancel(job.id, tenant="default", actor="ada", reason="wrong file")
    assert await jobs.cancel(job.id, tenant="default", actor="bob") == first
    last = (await jobs.history(job.id, tenant="default"))[-1]
    assert (last.event, last.actor, last.detail) == (Event.CANCELLED, "ada", {"reason": "wrong file"})


async def test_a_completed_job_can_be_neither_cancelled_nor_requeued(jobs: JobService) -> None:
    job = await claimed(jobs)
    await jobs.apply([transition.complete(job, None, jobs.stamp("w"))])
    with pytest.raises(IllegalTransition, match="completed"):
        await jobs.cancel(job.id, tenant="default")
    with pytest.raises(IllegalTransition, match="failed, partial"):
        await jobs.requeue(job.id, tenant="default")


async def test_requeue_gives_fresh_attempts_and_may_be_said_twice(jobs: JobService) -> None:
    job = await failed(jobs)
    again = await jobs.requeue(job.id, tenant="default")
    assert (again.state, again.attempt, again.epoch, again.failure) == (JobState.PENDING, 0, 1, None)
    assert await jobs.requeue(job.id, tenant="default") == again


async def test_requeue_all_takes_what_matches(jobs: JobService) -> None:
    lost = [await failed(jobs) for _ in range(3)]
    other = await jobs.add(NewJob(kind="work"))
    assert await jobs.requeue_all(JobFilter(tenant="default", kinds=("work",))) == 3
    states = {(await jobs.get(job.id, tenant="default")).state for job in [*lost, other]}
    assert states == {JobState.PENDING}
    assert await jobs.requeue_all(JobFilter(tenant="default", states=(JobState.COMPLETED,))) == 0


async def test_one_answer_is_accepted_whoever_races(jobs: JobService) -> None:
    job = await asking(jobs)
    answers = await asyncio.gather(
        *(jobs.respond(job.id, "yes", tenant="default", actor=f"user {n}") for n in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert sum(isinstance(answer, IllegalTransition) for answer in answers) == 4


async def test_the_same_answer_by_the_same_person_counts_once(jobs: JobService) -> None:
    job = await asking(jobs)
    first = await jobs.respond(job.id, "yes", tenant="default", actor="ada", key="q")
    assert await jobs.respond(job.id, "yes", tenant="default", actor="ada", key="q") == first
    with pytest.raises(IllegalTransition):
        await jobs.respond(job.id, "no", tenant="default", actor="ada")


async def test_an_answer_must_be_a_choice_to_the_open_question(jobs: JobService) -> None:
    job = await asking(jobs)
    with pytest.raises(InvalidInput, match="yes, no"):
        await jobs.respond(job.id, "perhaps", tenant="default")
    with pytest.raises(IllegalTransition, match="'q'"):
        await jobs.respond(job.id, "yes", tenant="default", key="another")


async def test_an_edit_changes_what_it_names_and_the_history_keeps_what_was(jobs: JobService) -> None:
    job = await jobs.add(_new(run_at=jobs.clock.now() + 24 * HOUR, ttl=HOUR, max_attempts=2))
    east = timezone(timedelta(hours=5, minutes=30))
    sooner = (jobs.clock.now() + HOUR).astimezone(east)
    change = {"run_at": sooner, "ttl": None, "max_attempts": 9, "max_rescues": 0, "labels": {"a": "b"}}
    edited = await jobs.edit(job.id, tenant="default", actor="ann", **change)  # type: ignore[arg-type]
    assert edited.due_at == sooner
    assert edited.due_at.utcoffset() == timedelta(0)
    assert (edited.ttl, edited.max_attempts, edited.max_rescues, edited.labels) == (None, 9, 0, {"a": "b"})
    assert (edited.priority, edited.state) == (job.priority, JobState.PENDING)
    entry = (await jobs.history(job.id, tenant="default"))[-1]
    was: dict[str, Any] = {
        "run_at": job.due_at,
        "ttl": HOUR,
        "max_attempts": 2,
        "max_rescues": 3,
        "labels": {},
    }
    assert (entry.event, entry.actor, entry.detail) == (
        Event.EDITED,
        "ann",
        {"was": msgspec.to_builtins(was)},
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"run_at": datetime(2031, 5, 4)}, "no time zone"),  # noqa: DTZ001
        ({"ttl": timedelta(0)}, "more than zero"),
        ({"max_attempts": 0}, "1 to 1,000,000"),
        ({"max_rescues": -1}, "0 to 1,000,000"),
        ({"priority": 1001}, "-1000 to 1000"),
    ],
)
async def test_an_edit_that_does_not_fit_is_refused(
    jobs: JobService, change: dict[str, Any], told: str
) -> None:
    job = await jobs.add(_new())
    with pytest.raises(InvalidInput, match=told):
        await jobs.edit(job.id, tenant="default", **change)
    assert await jobs.get(job.id, tenant="default") == job


async def test_what_runs_cannot_be_put_off(jobs: JobService) -> None:
    job = await claimed(jobs)
    with pytest.raises(IllegalTransition, match="only a pending job"):
        await jobs.edit(job.id, tenant="default", run_at=jobs.clock.now() + HOUR)


async def test_a_report_from_outside_is_about_the_run_that_it_names(jobs: JobService) -> None:
    job = await claimed(jobs)
    saved = transition.save(job, jobs.clock.now(), checkpoint={"page": 3}, progress=Progress(counts={"a": 1}))
    assert await jobs.apply([saved]) == [True]
    told = await jobs.report(job.id, 0.5, "half", tenant="default", counts={"b": 2}, epoch=job.epoch)
    assert told.progress == Progress(fraction=0.5, message="half", counts={"a": 1, "b": 2})
    assert told.checkpoint == {"page": 3}, "what the run saved stays"
    assert await jobs.get(job.id, tenant="default") == told
    assert [entry.event for entry in await jobs.history(job.id, tenant="default")] == ["added", "claimed"]
    with pytest.raises(IllegalTransition, match="run 2"):
        await jobs.report(job.id, 0.6, tenant="default", epoch=job.epoch + 1)
    with pytest.raises(InvalidInput, match=r"1\.1"):
        await jobs.report(job.id, 1.1, tenant="default")
    assert await jobs.apply([transition.complete(job, 1, jobs.stamp("w"))]) == [True]
    with pytest.raises(IllegalTransition, match="only a running job"):
        await jobs.report(job.id, 1.0, tenant="default")


async def test_a_users_jobs_are_counted_by_kind_and_state(jobs: JobService) -> None:
    users = [("ann", "a"), ("ann", "b"), ("ann", "b"), ("ben", "b"), (None, "a")]
    made = [await jobs.add(_new(user_id=user, kind=kind, document_id="d")) for user, kind in users]
    await jobs.add(_new(user_id="ann", kind="a", tenant="acme"))
    await jobs.cancel(made[1].id, tenant="default")
    one = {"a": {JobState.PENDING: 1}, "b": {JobState.PENDING: 1, JobState.CANCELLED: 1}}
    assert (await jobs.stats("default", user_id="ann")).counts == one
    assert (await jobs.stats(None, user_id="ann")).total == 4
    assert (await jobs.stats("default", user_id="eve")).counts == {}
    assert (await jobs.stats("default", user_id="ben", document_id="d")).total == 1


async def test_an_edit_does_not_disturb_the_run(jobs: JobService) -> None:
    job = await claimed(jobs)
    edited = await jobs.edit(job.id, tenant="default", priority=7, labels={"team": "search"})
    assert (edited.priority, edited.labels, edited.state) == (7, {"team": "search"}, JobState.RUNNING)
    assert await jobs.apply([transition.complete(job, "done", jobs.stamp("w"))]) == [True]
    done = await jobs.get(job.id, tenant="default")
    assert (done.state, done.priority, done.labels) == (JobState.COMPLETED, 7, {"team": "search"})


class _Contended(MemoryJobStore):
    """Somebody else is quicker, a few times."""

    races = 0

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        if self.races:
            self.races -= 1
            job_id = transitions[0].after.id
            await self.extend("w", {job_id: 1}, LEASE)
        return await super().apply(transitions)


async def test_a_decision_that_loses_a_race_is_taken_again() -> None:
    store = _Contended()
    jobs = JobService(store)
    job = await claimed(jobs)
    store.races = 3
    assert (await jobs.cancel(job.id, tenant="default")).state is JobState.CANCELLED
    await jobs.close()


async def test_delete_leaves_nothing(jobs: JobService) -> None:
    job = await claimed(jobs)
    await jobs.delete(job.id, tenant="default")
    with pytest.raises(NotFound):
        await jobs.get(job.id, tenant="default")
    assert await jobs.apply([transition.complete(job, None, jobs.stamp("w"))]) == [False]
    assert (await jobs.stats("default")).total == 0


async def test_wait_gives_up_in_time_and_the_job_goes_on(jobs: JobService) -> None:
    job = await jobs.add(NewJob(kind="work"))
    with pytest.raises(WaitTimeout, match="still pending"):
        await jobs.wait(job.id, tenant="default", timeout=0.05)
    assert (await jobs.get(job.id, tenant="default")).state is JobState.PENDING


async def test_watch_tells_each_change_up_to_the_end(jobs: JobService) -> None:
    job = await jobs.add(NewJob(kind="work"))
    states: list[JobState] = []

    async def look() -> None:
        async for seen in jobs.watch(job.id, tenant="default"):
            states.append(seen.state)  # noqa: PERF401  # each at once

    async def until_seen(number: int) -> None:
        while len(states) < number:
            await asyncio.sleep(0.001)

    async with asyncio.timeout(60):
        looking = asyncio.create_task(look())
        await until_seen(1)
        (running,) = await jobs.store.claim("w", ["work"], 1, LEASE)
        await until_seen(2)
        await jobs.apply([transition.complete(running, None, jobs.stamp("w"))])
        await looking
    assert states == [JobState.PENDING, JobState.RUNNING, JobState.COMPLETED]


async def test_a_process_whose_clock_is_off_stamps_the_stores_time() -> None:
    clock = MovableClock(datetime(2031, 5, 1, tzinfo=UTC))
    jobs = JobService(MemoryJobStore(clock))
    await jobs.start()
    job = await jobs.add(NewJob(kind="work"))
    assert abs(job.created_at - clock()) < timedelta(seconds=5)
    clock.advance(timedelta(seconds=5))
    assert len(await jobs.store.claim("w", ["work"], 1, LEASE)) == 1
    await jobs.close()


async def test_the_clock_runs_on_between_two_readings_and_is_never_early() -> None:
    monotonic = 10.0

    async def read() -> datetime:
        nonlocal monotonic
        monotonic += 3  # the store was asked at 10 and answered at 13; who knows when it looked
        return datetime(2030, 1, 1, tzinfo=UTC)

    clock = StoreClock(read, lambda: monotonic)
    await clock.sync()
    monotonic = 20.0
    assert clock.now() == datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=7)
    await clock.refresh()
    assert monotonic == 20.0
    monotonic = 100.0
    await clock.refresh()
    assert clock.now() == datetime(2030, 1, 1, tzinfo=UTC)


async def test_maintenance_purges_in_bites_what_expired_and_nothing_else() -> None:
    clock = MovableClock()
    store = MemoryJobStore(clock)
    jobs = JobService(store)
    await jobs.start()
    ttl = timedelta(hours=1)
    for _ in range(1200):
        await jobs.add(NewJob(kind="work", ttl=ttl))
    kept = await jobs.add(NewJob(kind="other"))
    clock.advance(timedelta(minutes=1))
    while running := await store.claim("w", ["work"], 500, LEASE):
        await jobs.apply([transition.complete(job, None, jobs.stamp("w")) for job in running])
    maintenance = Maintenance(jobs, "m", every=timedelta(seconds=1))
    assert await maintenance.purge() == 0
    clock.advance(timedelta(hours=2))
    assert await maintenance.purge() == 1200
    assert (await jobs.stats(None)).counts == {"other": {JobState.PENDING: 1}}
    assert (await jobs.get(kept.id, tenant="default")).state is JobState.PENDING
    await jobs.close()


async def test_a_driver_that_loses_a_cancellation_does_not_hold_up_the_end() -> None:
    listening = asyncio.Event()

    class Deaf(MemoryJobStore):
        async def changes(self) -> AsyncIterator[Change]:
            with suppress(asyncio.CancelledError):
                listening.set()
                await asyncio.Event().wait()
            async for change in super().changes():
                yield change

    service = JobService(Deaf())
    await service.start()
    with service.hints.listen():
        await listening.wait()
    async with asyncio.timeout(30):
        await service.close()
