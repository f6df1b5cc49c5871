"""Every legal change of a job, as pure functions of (job, what happened, stamp).

Each gives a `Transition`: the job after, the history entry, and the guard under which a store may
write it. A store compares and sets; it never decides. Who holds the lease is guarded by
``(running, epoch)``; everybody else by ``version``, so that a decision taken on an old reading of
the job is refused and taken again on a new one.

Raises everywhere: `IllegalTransition` where `perdure.domain.state.MOVES` has no such move.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from perdure.domain.errors import IllegalTransition, InvalidInput
from perdure.domain.job import Departure, Entry, Failure, Job, Progress, Question
from perdure.domain.record import Json, Record
from perdure.domain.state import MOVES, Event, JobState

RUN_FIELDS: Final = (
    "state",
    "due_at",
    "updated_at",
    "completed_at",
    "attempt",
    "rescues",
    "progress",
    "checkpoint",
    "questions",
    "result",
    "failure",
)
"""What a worker's transition may change; a store writes these (and ``version + 1``)."""

EDIT_FIELDS: Final = ("priority", "labels", "max_attempts", "max_rescues", "ttl")
"""What else a transition guarded by ``version`` may change: never written by a worker, so that a
worker's write cannot undo an edit that came while it ran."""


class Stamp(Record):
    """Who does something, when (the store's clock), under which history entry id (UUIDv7)."""

    at: datetime
    actor: str
    entry_id: str


class Transition(Record):
    """A change of one job, ready for `JobStore.apply`.

    Attributes:
        before: the state before, for the counters.
        after: the job after; `after.version` is exact only where `version` guards.
        epoch: write only if the job is running under this epoch; None: `version` guards.
        version: write only if the job is at this version; None: `epoch` guards.
        entry: the history entry, written in the same step; None for a mere progress report.
    """

    before: JobState
    after: Job
    epoch: int | None
    version: int | None
    entry: Entry | None


# --- what a worker says ---------------------------------------------------------------------


def claim(job: Job, worker: str, lease: timedelta, now: datetime) -> Job:
    """Hand the job to `worker` until ``now + lease``. Stores that claim in their own language must agree."""
    _target(job, Event.CLAIMED)
    return replace(
        job,
        state=JobState.RUNNING,
        worker=worker,
        epoch=job.epoch + 1,
        version=job.version + 1,
        due_at=now + lease,
        started_at=now,
        updated_at=now,
    )


def save(
    job: Job,
    now: datetime,
    *,
    progress: Progress | None = None,
    checkpoint: Json = None,
) -> Transition:
    """Note how far a run has come. None leaves what is there. Leaves no history entry."""
    if job.state is not JobState.RUNNING:
        raise IllegalTransition(f"job {job.id} is {job.state}; only a running job reports progress")
    after = replace(
        job,
        progress=job.progress if progress is None else progress,
        checkpoint=job.checkpoint if checkpoint is None else checkpoint,
        updated_at=now,
    )
    return Transition(before=job.state, after=after, epoch=job.epoch, version=None, entry=None)


def complete(job: Job, result: Json, stamp: Stamp, *, failure: Failure | None = None) -> Transition:
    """End a run well; with `failure` (what failed for good) the job is `partial`."""
    event = Event.COMPLETED if failure is None else Event.PARTLY_COMPLETED
    after = _end(job, event, stamp, attempt=job.attempt + 1, result=result, failure=failure)
    return _fenced(job, after, event, stamp, {} if failure is None else {"message": failure.message})


def fail(job: Job, failure: Failure, delay: timedelta, stamp: Stamp) -> Transition:
    """End a run badly: run again after `delay`, or, with attempts spent or `failure.fatal`, not again."""
    attempt = job.attempt + 1
    detail: dict[str, Json] = {"error": failure.type, "message": failure.message}
    if failure.fatal or attempt >= job.max_attempts:
        after = _end(job, Event.FAILED, stamp, attempt=attempt, failure=failure)
        return _fenced(job, after, Event.FAILED, stamp, detail)
    after = _again(job, Event.RETRIED, stamp, delay, attempt=attempt, failure=failure)
    return _fenced(job, after, Event.RETRIED, stamp, detail | {"delay": delay.total_seconds()})


STOPPED: Final = "worker stopped"
"""The reason of a release by a worker that stops; any other is that of whoever asked the job to wait."""


def release(job: Job, stamp: Stamp, *, delay: timedelta = timedelta(0), reason: str = STOPPED) -> Transition:
    """Give the job back unfinished, without fault: counts neither as an attempt nor as a rescue."""
    after = _again(job, Event.RELEASED, stamp, delay)
    return _fenced(job, after, Event.RELEASED, stamp, {"reason": reason})


def ask(job: Job, question: Question, stamp: Stamp) -> Transition:
    """Put a question to a human: the job sleeps in the store until an answer or its deadline."""
    after = replace(
        job,
        state=_target(job, Event.ASKED),
        due_at=question.deadline,
        updated_at=stamp.at,
        questions=(*job.questions, question),
    )
    return _fenced(job, after, Event.ASKED, stamp, {"key": question.key, "prompt": question.prompt})


def refuse(move: Transition, failure: Failure, stamp: Stamp) -> Transition:
    """End the run of `move` as failed, since the store will never take what it says (a result too large, say)."""
    after = replace(
        move.after,
        state=JobState.FAILED,
        due_at=None if move.after.ttl is None else stamp.at + move.after.ttl,
        completed_at=stamp.at,
        updated_at=stamp.at,
        progress=None,
        checkpoint=None,
        result=None,
        failure=failure,
    )
    entry = _entry(move.after, after, Event.FAILED, stamp, {"message": failure.message})
    return replace(move, after=after, entry=entry)


# --- what everybody else says ---------------------------------------------------------------


def answer(job: Job, answer: Json, stamp: Stamp, key: str | None = None) -> Transition:
    """Answer the open question (the one named `key`, where given); the job runs on.

    Raises:
        InvalidInput: the answer is none of the choices.
        IllegalTransition: also after the deadline, when the default stands.
    """
    _target(job, Event.ANSWERED)
    question = job.questions[-1]
    if question.deadline is not None and stamp.at >= question.deadline:
        raise IllegalTransition(
            f"job {job.id}: the answer came after the deadline ({question.deadline:%Y-%m-%d %H:%M:%S} UTC); the default stands"
        )
    if key is not None and question.key != key:
        raise IllegalTransition(f"job {job.id} waits for an answer to {question.key!r}, not to {key!r}")
    if question.choices and answer not in question.choices:
        choices = ", ".join(question.choices)
        raise InvalidInput(f"{answer!r} is no answer to job {job.id}; expected one of {choices}")
    return _close(job, Event.ANSWERED, answer, stamp.actor, stamp)


def default(job: Job, stamp: Stamp) -> Transition:
    """Let the default stand for an answer that did not come in time."""
    _target(job, Event.DEFAULTED)
    return _close(job, Event.DEFAULTED, job.questions[-1].default, "deadline", stamp)


WORKER_DIED: Final = "WorkerDied"
"""The type of the failure of a job that was given up because its workers died."""


def rescue(job: Job, stamp: Stamp) -> Transition:
    """Take the job from a worker that died; after `max_rescues` such deaths it is failed."""
    rescues = job.rescues + 1
    detail: dict[str, Json] = {"worker": job.worker, "epoch": job.epoch}
    if rescues > job.max_rescues:
        failure = Failure(
            type=WORKER_DIED,
            message=f"{rescues} workers died while running this job; mend its input or handler, then requeue it"
            if job.max_rescues
            else f"worker {job.worker} gave no sign of life any more while running this job",
            fatal=True,
        )
        after = _end(job, Event.QUARANTINED, stamp, rescues=rescues, failure=failure)
        return _guarded(job, after, Event.QUARANTINED, stamp, detail)
    after = _again(job, Event.RESCUED, stamp, rescues=rescues)
    return _guarded(job, after, Event.RESCUED, stamp, detail)


def revive(job: Job, worker: str, lease: timedelta, stamp: Stamp) -> Transition:
    """Go on with a job that was given up although its worker lived: only its heartbeats did not get through.

    Raises:
        IllegalTransition: it failed otherwise, or another worker had it last.
    """
    state = _target(job, Event.REVIVED)
    if job.worker != worker or job.failure is None or job.failure.type != WORKER_DIED:
        raise IllegalTransition(f"job {job.id} is {job.state}, but not because {worker} was taken for dead")
    after = replace(
        job,
        state=state,
        due_at=stamp.at + lease,
        completed_at=None,
        updated_at=stamp.at,
        rescues=max(0, job.rescues - 1),
        failure=None,
    )
    return _guarded(job, after, Event.REVIVED, stamp, {})


def cancel(job: Job, stamp: Stamp, *, reason: str = "") -> Transition:
    """Call the job off. A worker that runs it learns so at its next write or heartbeat."""
    after = _end(job, Event.CANCELLED, stamp)
    return _guarded(job, after, Event.CANCELLED, stamp, {"reason": reason} if reason else {})


def abandon(job: Job, stamp: Stamp, *, reason: str) -> Transition:
    """Call off the run under way, said by the worker that has it."""
    after = _end(job, Event.CANCELLED, stamp)
    return _fenced(job, after, Event.CANCELLED, stamp, {"reason": reason})


def requeue(job: Job, stamp: Stamp) -> Transition:
    """Send a finished job round again with fresh attempts; its checkpoint and given answers stay."""
    if moved(job) and job.failure is not None:
        raise IllegalTransition(f"job {job.id} cannot be requeued here: {job.failure.message}")
    after = _again(
        job,
        Event.REQUEUED,
        stamp,
        attempt=0,
        rescues=0,
        completed_at=None,
        result=None,
        failure=None,
        questions=tuple(question for question in job.questions if question.answered_at is not None),
    )
    return _guarded(job, after, Event.REQUEUED, stamp, {"was": job.state.value})


MOVED: Final = "Moved"
"""The type of the failure that a job bears which went on in another store."""


def move_away(job: Job, stamp: Stamp, to: str) -> Transition:
    """Let the job go on in the store `to`: here it is cancelled, and `moved_in` makes of that what goes on there."""
    before = Departure(to=to, state=job.state, due_at=job.due_at, failure=job.failure)
    failure = Failure(type=MOVED, message=f"it goes on in {to}; look there", fatal=True)
    after = _end(job, Event.MOVED, stamp, failure=failure)
    return _guarded(job, after, Event.MOVED, stamp, msgspec.to_builtins(before))


def moved(job: Job) -> bool:
    """Whether the job went on in another store, so that this one's is a mere record of it."""
    return job.failure is not None and job.failure.type == MOVED


def moved_in(job: Job, entry: Entry) -> Job:
    """The job as it goes on in the other store.

    Args:
        job: as `move_away` left it. entry: of that move.
    """
    before = msgspec.convert(entry.detail, Departure)
    return replace(job, state=before.state, due_at=before.due_at, completed_at=None, failure=before.failure)


def edit(
    job: Job,
    stamp: Stamp,
    *,
    run_at: datetime | None = None,
    ttl: timedelta | None | UnsetType = UNSET,
    **changes: Any,
) -> Transition:
    """Change by hand what may be changed by hand; the entry keeps what was. What is None (of `ttl`: UNSET) stays.

    Args:
        run_at: of a pending job.
        changes: `priority`, `labels`, `max_attempts`, `max_rescues`.
    """
    state = _target(job, Event.EDITED)
    if run_at is not None and state is not JobState.PENDING:
        raise IllegalTransition(
            f"job {job.id} is {state}; only a pending job can be put off or brought forward"
        )
    new = {name: value for name, value in (changes | {"due_at": run_at}).items() if value is not None}
    if ttl is not UNSET:
        new["ttl"] = ttl
    was = {"run_at" if name == "due_at" else name: getattr(job, name) for name in new}
    after = replace(job, state=state, updated_at=stamp.at, **new)
    return _guarded(job, after, Event.EDITED, stamp, {"was": msgspec.to_builtins(was)} if was else {})


def report(job: Job, progress: Progress, now: datetime) -> Transition:
    """Note from outside how far the run under way has come; its worker's own next word takes the place of it."""
    after = replace(save(job, now, progress=progress).after, version=job.version + 1)
    return Transition(before=job.state, after=after, epoch=None, version=job.version, entry=None)


# --- the few shapes behind them -------------------------------------------------------------


def _target(job: Job, event: Event) -> JobState:
    """Look up where `event` leads from the job's state."""
    moves = MOVES[event]
    try:
        return moves[job.state]
    except KeyError:
        allowed = ", ".join(sorted(moves))
        raise IllegalTransition(
            f"job {job.id} is {job.state} and cannot be {event.replace('_', ' ')}; "
            f"that needs a job that is {allowed}"
        ) from None


def _end(job: Job, event: Event, stamp: Stamp, **more: Any) -> Job:
    """Reach a terminal state; the record then lives for its `ttl`."""
    return replace(
        job,
        state=_target(job, event),
        due_at=None if job.ttl is None else stamp.at + job.ttl,
        completed_at=stamp.at,
        updated_at=stamp.at,
        **more,
    )


def _again(job: Job, event: Event, stamp: Stamp, delay: timedelta = timedelta(0), **more: Any) -> Job:
    """Go back into the queue, due after `delay`."""
    state = _target(job, event)
    return replace(job, state=state, due_at=stamp.at + delay, updated_at=stamp.at, **more)


def _close(job: Job, event: Event, answer: Json, by: str, stamp: Stamp) -> Transition:
    """Write the answer into the open question and go back into the queue."""
    question = replace(job.questions[-1], answer=answer, answered_by=by, answered_at=stamp.at)
    after = _again(job, event, stamp, questions=(*job.questions[:-1], question))
    return _guarded(job, after, event, stamp, {"key": question.key, "answer": answer})


def _fenced(job: Job, after: Job, event: Event, stamp: Stamp, detail: dict[str, Json]) -> Transition:
    """Guard by the lease: only the run that is under way may write."""
    entry = _entry(job, after, event, stamp, detail)
    return Transition(before=job.state, after=after, epoch=job.epoch, version=None, entry=entry)


def _guarded(job: Job, after: Job, event: Event, stamp: Stamp, detail: dict[str, Json]) -> Transition:
    """Guard by the version: only if nothing changed since the job was read."""
    entry = _entry(job, after, event, stamp, detail)
    after = replace(after, version=job.version + 1)
    return Transition(before=job.state, after=after, epoch=None, version=job.version, entry=entry)


def _entry(job: Job, after: Job, event: Event, stamp: Stamp, detail: dict[str, Json]) -> Entry:
    return Entry(
        id=stamp.entry_id,
        event=event,
        at=stamp.at,
        state=after.state,
        actor=stamp.actor,
        epoch=after.epoch,
        attempt=after.attempt,
        rescues=after.rescues,
        started_at=job.started_at if job.state is JobState.RUNNING else None,
        detail=detail,
    )
