"""What must hold of every transition, whatever the job: each law takes the transition module, so that mutants of it
can be tried too, and a job in any state.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Final, TypeAlias

import pytest
from msgspec.structs import asdict, replace

from perdure.domain.errors import IllegalTransition, InvalidInput
from perdure.domain.job import Job, Progress
from perdure.domain.state import MOVES, TERMINAL, Event, JobState
from perdure.domain.transition import EDIT_FIELDS, RUN_FIELDS, Transition
from tests.unit.domain.samples import DELAY, DIED, ERROR, FATAL, GIVEN, NOW, OPEN, STAMP, act

Law: TypeAlias = Callable[[ModuleType, Job], None]

WORKERS_EVENTS: Final = frozenset(
    {
        Event.COMPLETED,
        Event.PARTLY_COMPLETED,
        Event.RETRIED,
        Event.FAILED,
        Event.RELEASED,
        Event.ASKED,
    }
)
ATTEMPTS: Final = frozenset({Event.COMPLETED, Event.PARTLY_COMPLETED, Event.RETRIED, Event.FAILED})
RESCUES: Final = frozenset({Event.RESCUED, Event.QUARANTINED})


def legal(domain: ModuleType, job: Job) -> list[tuple[Event, Transition]]:
    """All that can happen to the job but a claim."""
    return [
        (event, act(domain, event, job))
        for event, moves in MOVES.items()
        if job.state in moves and event is not Event.CLAIMED
    ]


def only_what_the_table_names_is_legal(domain: ModuleType, job: Job) -> None:
    """…and it leads where the table says."""
    for event, moves in MOVES.items():
        if event is Event.CLAIMED:
            continue
        if job.state in moves:
            assert act(domain, event, job).after.state is moves[job.state], event
        else:
            with pytest.raises(IllegalTransition, match=job.state):
                act(domain, event, job)


def a_claim_is_a_new_epoch(domain: ModuleType, job: Job) -> None:
    """Only pending jobs are claimed; worker, lease, epoch and version are the claim's own."""
    if job.state is not JobState.PENDING:
        with pytest.raises(IllegalTransition):
            domain.claim(job, "worker-2", DELAY, NOW)
        return
    assert domain.claim(job, "worker-2", DELAY, NOW) == replace(
        job,
        state=JobState.RUNNING,
        worker="worker-2",
        epoch=job.epoch + 1,
        version=job.version + 1,
        due_at=NOW + DELAY,
        started_at=NOW,
        updated_at=NOW,
    )


def the_epoch_is_never_set_back(domain: ModuleType, job: Job) -> None:
    """Only a claim touches it, else an old worker could pass the fence again."""
    for event, transition in legal(domain, job):
        assert transition.after.epoch == job.epoch, event


def every_write_is_guarded(domain: ModuleType, job: Job) -> None:
    """A worker's by the lease, everybody else's by the version that was read: by exactly one of them."""
    for event, transition in legal(domain, job):
        if event in WORKERS_EVENTS:
            assert (transition.epoch, transition.version) == (job.epoch, None), event
        else:
            assert (transition.epoch, transition.version) == (None, job.version), event
            assert transition.after.version == job.version + 1, event
        assert transition.before is job.state, event


def attempts_and_rescues_are_counted_apart(domain: ModuleType, job: Job) -> None:
    """A run that the handler ended is an attempt, one that died under it a rescue; a requeue begins anew."""
    for event, transition in legal(domain, job):
        counts = (transition.after.attempt, transition.after.rescues)
        if event is Event.REQUEUED:
            assert counts == (0, 0)
        else:
            died = job.rescues + (event in RESCUES) - (event is Event.REVIVED and job.rescues > 0)
            assert counts == (job.attempt + (event in ATTEMPTS), died), event


def attempts_and_rescues_come_to_an_end(domain: ModuleType, job: Job) -> None:
    """The last attempt allowed, a fatal failure, and one death too many are the end."""
    if job.state is not JobState.RUNNING:
        return
    spent = job.attempt + 1 >= job.max_attempts
    after = domain.fail(job, ERROR, DELAY, STAMP).after
    assert after.state is (JobState.FAILED if spent else JobState.PENDING)
    assert after.failure == ERROR
    assert domain.fail(job, FATAL, DELAY, STAMP).after.state is JobState.FAILED
    after = domain.rescue(job, STAMP).after
    lost = job.rescues >= job.max_rescues
    assert after.state is (JobState.FAILED if lost else JobState.PENDING)
    assert (after.failure is not None and after.failure.fatal) == lost


def an_end_has_its_time(domain: ModuleType, job: Job) -> None:
    """A finished job tells when it ended and when its record goes."""
    for event, transition in legal(domain, job):
        after = transition.after
        assert after.updated_at == NOW, event
        if after.state in TERMINAL:
            assert after.completed_at == NOW, event
            assert after.due_at == (None if job.ttl is None else NOW + job.ttl), event
        else:
            assert after.completed_at is None, event


def what_goes_back_is_due(domain: ModuleType, job: Job) -> None:
    """At once, or after the delay that was asked for; a question at its deadline; an edit changes nothing."""
    for event, transition in legal(domain, job):
        if transition.after.state in TERMINAL:
            continue
        expected = {
            Event.RETRIED: NOW + DELAY,
            Event.RELEASED: NOW + DELAY,
            Event.ASKED: OPEN.deadline,
            Event.EDITED: job.due_at,
            Event.REVIVED: NOW + DELAY,
        }
        assert transition.after.due_at == expected.get(event, NOW), event


def every_transition_leaves_its_entry(domain: ModuleType, job: Job) -> None:
    """The entry says who, when and what, with the counts after; the end of a run says when that began."""
    for event, transition in legal(domain, job):
        entry, after = transition.entry, transition.after
        assert entry is not None, event
        assert (entry.id, entry.at, entry.actor) == (STAMP.entry_id, STAMP.at, STAMP.actor), event
        assert (entry.event, entry.state) == (event, after.state)
        assert (entry.epoch, entry.attempt, entry.rescues) == (job.epoch, after.attempt, after.rescues), event
        assert entry.started_at == (job.started_at if job.state is JobState.RUNNING else None), event


def nothing_else_changes(domain: ModuleType, job: Job) -> None:
    """A worker's transition stays off what may be edited while it runs."""
    for event, transition in legal(domain, job):
        allowed = {*RUN_FIELDS, "version"} | set(() if event in WORKERS_EVENTS else EDIT_FIELDS)
        # `act` sets these two so that the event is the one that happens.
        before, after = (asdict(replace(it, max_attempts=0, max_rescues=0)) for it in (job, transition.after))
        assert {name for name in before if before[name] != after[name]} <= allowed, event


def a_report_is_no_transition(domain: ModuleType, job: Job) -> None:
    """Progress and checkpoint are fenced, keep what is not said, and leave no entry."""
    progress = Progress(fraction=0.75)
    if job.state is not JobState.RUNNING:
        with pytest.raises(IllegalTransition):
            domain.save(job, NOW, progress=progress)
        return
    for said in ({}, {"progress": progress}, {"checkpoint": [1]}, {"progress": progress, "checkpoint": 0}):
        assert domain.save(job, NOW, **said) == domain.Transition(
            before=JobState.RUNNING,
            after=replace(job, updated_at=NOW, **said),
            epoch=job.epoch,
            version=None,
            entry=None,
        )


def a_result_is_kept(domain: ModuleType, job: Job) -> None:
    """With what failed for good, where something did; an earlier run's failure is forgotten."""
    if job.state is JobState.RUNNING:
        job = replace(job, failure=ERROR)
        good = domain.complete(job, {"n": 1}, STAMP).after
        part = domain.complete(job, {"n": 1}, STAMP, failure=FATAL).after
        assert (good.result, good.failure) == ({"n": 1}, None)
        assert (part.result, part.failure) == ({"n": 1}, FATAL)


def a_refused_result_ends_the_run(domain: ModuleType, job: Job) -> None:
    """Under the same fence, failed, without what could not be written."""
    if job.state is JobState.RUNNING:
        move = domain.complete(job, {"n": 1}, replace(STAMP, entry_id="another"))
        refused = domain.refuse(move, FATAL, STAMP)
        after = refused.after
        assert (refused.before, refused.epoch, refused.version) == (job.state, job.epoch, None)
        assert (after.state, after.failure, after.attempt) == (JobState.FAILED, FATAL, job.attempt + 1)
        assert (after.result, after.checkpoint, after.progress) == (None, None, None)
        assert (after.completed_at, after.due_at) == (NOW, None if job.ttl is None else NOW + job.ttl)
        assert (refused.entry.id, refused.entry.event) == (STAMP.entry_id, Event.FAILED)


def a_question_is_asked_and_closed(domain: ModuleType, job: Job) -> None:
    """By an answer that it allows, or by its default; earlier answers stay."""
    if job.state is JobState.RUNNING:
        assert domain.ask(job, OPEN, STAMP).after.questions == (*job.questions, OPEN)
    if job.state is not JobState.WAITING:
        return
    answered = domain.answer(job, "yes", STAMP).after.questions
    assert answered == (GIVEN, replace(OPEN, answer="yes", answered_by="ann", answered_at=NOW))
    assert domain.answer(job, "yes", STAMP, "go").after.questions == answered
    defaulted = domain.default(job, STAMP).after.questions
    assert defaulted == (GIVEN, replace(OPEN, answer="no", answered_by="deadline", answered_at=NOW))
    with pytest.raises(InvalidInput, match="expected one of yes, no"):
        domain.answer(job, "perhaps", STAMP)
    with pytest.raises(IllegalTransition, match="waits for an answer to 'go'"):
        domain.answer(job, "yes", STAMP, "first")
    free = replace(job, questions=(replace(OPEN, choices=()),))
    assert domain.answer(free, {"any": 1}, STAMP).after.questions[0].answer == {"any": 1}


def a_requeued_job_begins_anew(domain: ModuleType, job: Job) -> None:
    """But for its checkpoint and the answers that were given."""
    if job.state in MOVES[Event.REQUEUED]:
        job = replace(job, failure=ERROR, result={"n": 1})
        after = domain.requeue(job, STAMP).after
        assert (after.completed_at, after.failure, after.result) == (None, None, None)
        assert (after.checkpoint, after.questions) == (job.checkpoint, (GIVEN,))


def an_edit_changes_what_it_names(domain: ModuleType, job: Job) -> None:
    """And leaves the rest."""
    if job.state in MOVES[Event.EDITED]:
        both = domain.edit(job, STAMP, priority=7, labels={}).after
        assert (both.priority, both.labels, both.state) == (7, {}, job.state)
        one = domain.edit(job, STAMP, priority=7)
        assert (one.after.priority, one.after.labels) == (7, job.labels)
        assert one.entry.detail == {"was": {"priority": job.priority}}
        kept = domain.edit(job, STAMP, ttl=None, max_attempts=9, max_rescues=0).after
        assert (kept.ttl, kept.max_attempts, kept.max_rescues) == (None, 9, 0)
        if job.state is JobState.PENDING:
            assert domain.edit(job, STAMP, run_at=NOW + DELAY).after.due_at == NOW + DELAY
        else:
            with pytest.raises(IllegalTransition):
                domain.edit(job, STAMP, run_at=NOW + DELAY)


def only_its_own_worker_revives_a_job(domain: ModuleType, job: Job) -> None:
    """And only one that was given up for its death: as it was, under a new lease."""
    if job.state in MOVES[Event.REVIVED]:
        given_up = replace(job, failure=DIED)
        after = domain.revive(given_up, "worker-1", DELAY, STAMP).after
        assert (after.completed_at, after.failure, after.worker) == (None, None, "worker-1")
        for other, worker in (
            (given_up, "worker-2"),
            (job, "worker-1"),
            (replace(job, failure=FATAL), "worker-1"),
        ):
            with pytest.raises(IllegalTransition, match="was taken for dead"):
                domain.revive(other, worker, DELAY, STAMP)


def an_abandoned_run_is_called_off_by_its_worker(domain: ModuleType, job: Job) -> None:
    """As by anybody else, but under the worker's own fence."""
    if job.state is JobState.RUNNING:
        called_off = domain.cancel(job, STAMP, reason="stopped")
        assert domain.abandon(job, STAMP, reason="stopped") == replace(
            called_off, after=replace(called_off.after, version=job.version), epoch=job.epoch, version=None
        )


def a_moved_job_goes_on_as_it_was(domain: ModuleType, job: Job) -> None:
    """Elsewhere; here it can't be sent round again, since it would run twice."""
    if job.state in MOVES[Event.MOVED]:
        job = replace(job, failure=ERROR)
        move = domain.move_away(job, STAMP, "elsewhere")
        assert domain.moved(move.after)
        assert not domain.moved(job)
        with pytest.raises(IllegalTransition, match="it goes on in elsewhere"):
            domain.requeue(move.after, STAMP)
        gone_on = domain.moved_in(move.after, move.entry)
        assert gone_on == replace(job, version=job.version + 1, updated_at=NOW)


LAWS: Final[tuple[Law, ...]] = (
    only_what_the_table_names_is_legal,
    a_claim_is_a_new_epoch,
    the_epoch_is_never_set_back,
    every_write_is_guarded,
    attempts_and_rescues_are_counted_apart,
    attempts_and_rescues_come_to_an_end,
    an_end_has_its_time,
    what_goes_back_is_due,
    every_transition_leaves_its_entry,
    nothing_else_changes,
    a_report_is_no_transition,
    a_result_is_kept,
    a_refused_result_ends_the_run,
    a_question_is_asked_and_closed,
    a_requeued_job_begins_anew,
    an_edit_changes_what_it_names,
    only_its_own_worker_revives_a_job,
    an_abandoned_run_is_called_off_by_its_worker,
    a_moved_job_goes_on_as_it_was,
)
