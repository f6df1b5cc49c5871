"""`apply`: what the domain decided is stored with one history entry each, unless somebody else was quicker; and once,
however often it is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from msgspec.structs import replace

from perdure.domain import transition as move
from perdure.domain.job import Entry, Failure, Job, Progress, Question
from perdure.domain.query import JobFilter, Stats
from perdure.domain.state import JobState
from perdure.domain.transition import EDIT_FIELDS, RUN_FIELDS, Stamp, Transition
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND, make_job, make_stamp
from perdure.testing.jobs.base import (
    LEASE,
    Decide,
    JobStoreSuite,
    added,
    added_many,
    claimed,
    history,
    ids,
    read,
    running,
    stamp,
    written,
)

SOON, HOUR = timedelta(0), timedelta(hours=1)
FAILURE = Failure(type="ValueError", message="page 7 is torn", detail="Traceback …")
FATAL = replace(FAILURE, fatal=True)


def _ask(job: Job, at: Stamp) -> Transition:
    question = Question(
        key="publish",
        prompt="Publish “Größe”?",
        asked_at=at.at,
        choices=("yes", "no"),
        deadline=at.at + HOUR,
        default="no",
    )
    return move.ask(job, question, at)


def _save(job: Job, at: Stamp) -> Transition:
    progress = Progress(fraction=0.25, message="reading", counts={"pages": 7})
    return move.save(job, at.at, progress=progress, checkpoint={"page": 7})


WORKER_WRITES: dict[str, Decide] = {
    "save": _save,
    "complete": lambda job, at: move.complete(job, {"pages": [1, 2]}, at),
    "complete-in-part": lambda job, at: move.complete(job, {"pages": 1}, at, failure=FAILURE),
    "retry": lambda job, at: move.fail(job, FAILURE, HOUR, at),
    "fail-for-good": lambda job, at: move.fail(job, FATAL, HOUR, at),
    "release": lambda job, at: move.release(job, at, delay=HOUR),
    "ask": _ask,
}
OUTSIDE_WRITES: dict[str, Decide] = {
    "rescue": move.rescue,
    "cancel": lambda job, at: move.cancel(job, at, reason="changed my mind"),
    "edit": lambda job, at: move.edit(job, at, priority=7, labels={"team": "b"}),
}
FROM_RUNNING = WORKER_WRITES | OUTSIDE_WRITES
STEPS = (
    {how: (decide,) for how, decide in FROM_RUNNING.items()}
    | {
        f"{end}-requeue": (FROM_RUNNING[end], move.requeue)
        for end in ("fail-for-good", "complete-in-part", "cancel")
    }
    | {f"release-{how}": (move.release, OUTSIDE_WRITES[how]) for how in ("cancel", "edit")}
    | {f"ask-{how}": (_ask, OUTSIDE_WRITES[how]) for how in ("cancel", "edit")}
    | {"ask-answer": (_ask, lambda job, at: move.answer(job, "yes", at)), "ask-default": (_ask, move.default)}
)
"""What happens to a running job, one after the other."""


async def _all(store: JobStore, job: Job) -> tuple[Job, list[Entry], Stats]:
    """What a write would change."""
    return await read(store, job), await history(store, job), await store.stats(None)


async def _refused(store: JobStore, transition: Transition) -> None:
    """It must be a conflict that leaves job, history and counts as they are."""
    before = await _all(store, transition.after)
    assert not await written(store, transition)
    assert await _all(store, transition.after) == before


class ApplySuite(JobStoreSuite):
    """Writing transitions. Each case has jobs of a kind of its own, which names it where something differs."""

    async def _check(self, store: JobStore, job: Job, transition: Transition) -> Job:
        """Apply it and compare field by field: the stored job, the history, the counts."""
        before = await history(store, job)
        assert await written(store, transition)
        stored = await read(store, job)
        for field in (*RUN_FIELDS, *EDIT_FIELDS):
            assert getattr(stored, field) == getattr(transition.after, field), (job.kind, field)
        assert stored == replace(transition.after, version=job.version + 1)
        entries = [] if transition.entry is None else [transition.entry]
        assert await history(store, job) == [*before, *entries]
        assert (await store.stats(job.tenant)).counts[job.kind] == {stored.state: 1}
        return stored

    async def test_a_job_changes_as_the_domain_says(self, store: JobStore) -> None:
        for how, steps in STEPS.items():
            job = await running(store, kind=how, payload={"n": 1}, labels={"team": "a"}, ttl=HOUR)
            for decide in steps:
                job = await self._check(store, job, decide(job, await stamp(store)))
            if how.endswith("-requeue"):
                again = await claimed(store, "worker-2", kind=how)
                assert (again.id, again.epoch) == (job.id, job.epoch + 1)

    async def test_a_report_from_outside_leaves_no_entry_and_undoes_nothing(self, store: JobStore) -> None:
        job = await running(store)
        assert await written(store, move.save(job, await store.now(), checkpoint={"page": 1}))
        told = Progress(fraction=0.5, message="half", counts={"pages": 3})
        await _refused(store, move.report(job, told, await store.now()))
        saved = await read(store, job)
        report = move.report(saved, told, await store.now())
        stored = await self._check(store, saved, report)
        assert (stored.checkpoint, stored.due_at) == ({"page": 1}, job.due_at)
        await _refused(store, report)

    async def test_workers_that_die_too_often_leave_a_failed_job(self, store: JobStore) -> None:
        job = await running(store, max_rescues=1)
        rescued = await self._check(store, job, move.rescue(job, await stamp(store)))
        assert (rescued.state, rescued.rescues) == (JobState.PENDING, 1)
        again = await claimed(store, "worker-2")
        lost = await self._check(store, again, move.rescue(again, await stamp(store)))
        assert (lost.state, lost.rescues) == (JobState.FAILED, 2)

    async def test_a_question_that_never_ends_has_no_due_time(self, store: JobStore) -> None:
        job = await running(store)
        at = await stamp(store)
        question = Question(key="k", prompt="What now?", asked_at=at.at)
        stored = await self._check(store, job, move.ask(job, question, at))
        assert stored.due_at is None
        answer = move.answer(stored, {"any": ["thing", None]}, await stamp(store))
        assert (await self._check(store, stored, answer)).due_at is not None

    async def test_what_is_written_now_is_claimable_or_not_at_once(self, store: JobStore) -> None:
        for delay, claimable in ((HOUR, False), (SOON, True)):
            job = await running(store)
            assert await written(store, move.fail(job, FAILURE, delay, await stamp(store)))
            assert ids(await store.claim("w", [KIND], 2, HOUR)) == [job.id] * claimable

    async def test_many_jobs_in_one_call_or_none(self, store: JobStore) -> None:
        assert await store.apply([]) == []
        jobs = await added_many(store, 20)
        at = [await stamp(store) for _ in jobs]
        assert await store.apply([move.cancel(job, at[n]) for n, job in enumerate(jobs)]) == [True] * 20
        assert (await store.stats(None)).counts == {KIND: {JobState.CANCELLED: 20}}
        assert [len(await history(store, job)) for job in jobs] == [1] * 20
        assert ids(await store.find(JobFilter(tenant=None), 20)) == ids(jobs[::-1]), "each keeps its place"

    async def test_two_transitions_of_one_job_are_taken_in_order(self, store: JobStore) -> None:
        job = await running(store)
        at, done = await stamp(store), move.complete(job, {"n": 1}, await stamp(store))
        assert await store.apply([_save(job, at), _ask(job, at), done]) == [True, True, False]
        asked = await read(store, job)
        assert (asked.state, asked.version) == (JobState.WAITING, job.version + 2)
        assert [entry.id for entry in await history(store, job)] == [at.entry_id]
        first = move.cancel(asked, await stamp(store))
        second = move.requeue(first.after, await stamp(store))
        assert await store.apply([first, second]) == [True, True], "a decision upon a decision"
        assert await read(store, job) == second.after
        assert (await store.stats(None)).counts == {KIND: {JobState.PENDING: 1}}

    async def test_history_is_in_the_order_of_writing(self, store: JobStore) -> None:
        job = await running(store, max_attempts=10)
        expected = []
        for _ in range(4):
            at = await stamp(store)
            assert await written(store, move.fail(job, FAILURE, SOON, at))
            expected.append(at.entry_id)
            job = await claimed(store)
        at = await stamp(store, "ann")
        assert await written(store, move.cancel(await read(store, job), at))
        entries = await history(store, job)
        assert [entry.id for entry in entries] == [*expected, at.entry_id]
        assert [entry.epoch for entry in entries] == [1, 2, 3, 4, 5]
        assert entries[-1].actor == "ann"


class GuardSuite(JobStoreSuite):
    """One owner at a time; a decision on an old reading is refused; a repeat changes nothing."""

    async def test_a_worker_that_lost_its_job_writes_nothing(self, store: JobStore) -> None:
        """Nor when it got the job again, under a new epoch, and nor when that run has ended."""
        for how, decide in WORKER_WRITES.items():
            for number, loss in enumerate((move.rescue, move.cancel, FROM_RUNNING["complete"])):
                lost = await running(store, kind=f"{how}-{number}")
                assert await written(store, loss(lost, await stamp(store)))
                await _refused(store, decide(lost, await stamp(store)))
                assert await store.extend("worker-1", {lost.id: lost.epoch}, LEASE) == {lost.id}
                for again in await store.claim("worker-1", [lost.kind], 1, LEASE):
                    await _refused(store, decide(lost, await stamp(store)))
                    assert await written(store, move.complete(again, "good", await stamp(store)))
                    await _refused(store, decide(lost, await stamp(store)))

    async def test_a_decision_on_an_old_reading_is_refused(self, store: JobStore) -> None:
        async def report(job: Job) -> None:
            assert await written(store, move.save(job, await store.now(), progress=Progress(message="on")))

        async def beat(job: Job) -> None:
            await store.extend("worker-1", {job.id: job.epoch}, LEASE)

        meanwhile: list[Callable[[Job], Awaitable[None]]] = [report, beat]
        for how, decide in OUTSIDE_WRITES.items():
            for number, changed in enumerate(meanwhile):
                old = await running(store, kind=f"{how}-{number}")
                await changed(old)
                await _refused(store, decide(old, await stamp(store)))
                assert await written(store, decide(await read(store, old), await stamp(store)))
        old = await added(store)
        taken = await claimed(store)
        await _refused(store, move.cancel(old, await stamp(store)))
        assert await written(store, move.cancel(taken, await stamp(store)))

    async def test_a_worker_does_not_undo_an_edit(self, store: JobStore) -> None:
        job = await running(store, labels={"team": "a"}, max_attempts=3)
        edit = move.edit(job, await stamp(store), priority=8, labels={"team": "b"})
        assert await written(store, edit)
        assert await written(store, move.save(job, await store.now(), checkpoint={"page": 2}))
        stored = await read(store, job)
        assert (stored.priority, stored.labels, stored.checkpoint) == (8, {"team": "b"}, {"page": 2})
        assert await written(store, move.fail(job, FAILURE, SOON, await stamp(store)))
        stored = await read(store, job)
        assert (stored.priority, stored.labels) == (8, {"team": "b"})
        assert stored.version == job.version + 3

    async def test_an_unknown_job_is_a_conflict(self, store: JobStore) -> None:
        ghost = make_job(await store.now())
        deleted = await running(store)
        assert await store.delete(deleted.tenant, deleted.id)
        late = [move.cancel(ghost, await stamp(store)), move.complete(deleted, 1, await stamp(store))]
        assert await store.apply(late) == [False, False]
        assert await store.get(ghost.tenant, ghost.id) is None
        assert await store.get(deleted.tenant, deleted.id) is None
        assert (await store.stats(None)).total == 0

    async def test_neither_conflict_nor_repeat_keeps_another_of_the_call_back(self, store: JobStore) -> None:
        first, second, third = await added_many(store, 3)
        cancelled = move.cancel(first, await stamp(store))
        assert await written(store, cancelled)
        late = move.cancel(replace(second, version=7), await stamp(store))
        fresh = move.cancel(third, await stamp(store))
        assert await store.apply([cancelled, late, fresh, fresh]) == [True, False, True, True]
        assert (await store.stats(None)).counts == {KIND: {JobState.PENDING: 1, JobState.CANCELLED: 2}}
        assert [len(await history(store, job)) for job in (first, second, third)] == [1, 0, 1]

    async def test_a_repeat_stands_and_changes_nothing(self, store: JobStore) -> None:
        """Nor after the job went on. A mere report leaves no entry: to say it again is to report again."""
        for how, decide in FROM_RUNNING.items():
            job = await running(store, kind=how)
            transition = decide(job, await stamp(store))
            assert await written(store, transition)
            if transition.entry is not None:
                after = await _all(store, job)
                assert after[1] == [transition.entry]
                assert await store.apply([transition, transition]) == [True, True]
                assert await _all(store, job) == after
            for again in await store.claim("worker-2", [how], 1, LEASE):
                assert await written(store, transition)
                assert await read(store, job) == again
                assert await written(store, move.complete(again, 1, await stamp(store)))
                after = await _all(store, job)
                assert await written(store, transition)
                assert await _all(store, job) == after

    async def test_of_two_decisions_at_once_one_stands(self, store: JobStore, other: JobStore) -> None:
        job = await running(store)
        now = await store.now()
        decisions = [
            move.complete(job, 1, make_stamp(now)),
            move.cancel(job, make_stamp(now)),
            move.rescue(job, make_stamp(now)),
            move.fail(job, FAILURE, timedelta(0), make_stamp(now)),
        ] * 2
        answers = await asyncio.gather(
            *(written((store, other)[(n + n // 4) % 2], decision) for n, decision in enumerate(decisions))
        )
        [entry] = await history(store, job)
        assert answers == [d.entry is not None and d.entry.id == entry.id for d in decisions]
        assert (await read(store, job)).state is entry.state
        assert (await store.stats(None)).counts == {KIND: {entry.state: 1}}

    async def test_a_repeat_at_once_counts_once(self, store: JobStore, other: JobStore) -> None:
        jobs = await added_many(store, 10)
        moves = [move.cancel(job, await stamp(store)) for job in jobs]
        for answer in await asyncio.gather(store.apply(moves), other.apply(moves), store.apply(moves)):
            assert answer == [True] * 10
        assert (await store.stats(None)).counts == {KIND: {JobState.CANCELLED: 10}}
        assert [len(await history(store, job)) for job in jobs] == [1] * 10
