"""Jobs and history entries as rows, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from perdure.domain.job import Entry, Failure, Job, Progress, Question
from perdure.domain.moments import micros, micros_of, moment
from perdure.domain.state import TERMINAL, Event, JobState
from perdure.stores.sqlite.queries import Row

_STATES: Final = {state.value: state for state in JobState}
_to_json: Final = msgspec.json.Encoder().encode
_from_json: Final[Callable[[str], Any]] = msgspec.json.Decoder().decode
_to_progress: Final = msgspec.json.Decoder(Progress).decode
_to_failure: Final = msgspec.json.Decoder(Failure).decode
_to_questions: Final = msgspec.json.Decoder(tuple[Question, ...]).decode


READY, SCHEDULED, HELD, ENDED = range(4)
"""Where a job stands in line: see schema.sql."""

_STAGES: Final = {state: ENDED if state in TERMINAL else HELD for state in JobState}


def _stage(state: JobState, due_at: int | None, now: int) -> int:
    if state is JobState.PENDING:
        return READY if due_at is not None and due_at <= now else SCHEDULED
    return _STAGES[state]


def _maybe_micros(moment: datetime | None) -> int | None:
    return None if moment is None else micros(moment)


def _micros_again(moment: datetime | None, known: datetime, microseconds: int) -> int | None:
    """Of a time that is mostly the very object whose microseconds are known: the hot path converts it once."""
    return microseconds if moment is known else _maybe_micros(moment)


def _maybe_moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else moment(microseconds)


def json_text(value: Any) -> str:
    """A value as JSON."""
    return _to_json(value).decode()


def job_row(job: Job, now: int) -> Row:
    """The parameters of the statement `insert` after the job's number."""
    created_at = micros(job.created_at)
    due_at = _micros_again(job.due_at, job.created_at, created_at)
    return (
        job.id,
        job.tenant,
        job.kind,
        job.state,
        _stage(job.state, due_at, now),
        due_at,
        created_at,
        _micros_again(job.updated_at, job.created_at, created_at),
        job.priority,
        job.epoch,
        job.version,
        job.attempt,
        job.max_attempts,
        job.rescues,
        job.max_rescues,
        job.worker,
        job.idempotency_key,
        job.user_id,
        job.document_id,
        job.created_by,
        None if job.ttl is None else micros_of(job.ttl),
        _maybe_micros(job.started_at),
        _maybe_micros(job.completed_at),
        json_text(job.labels) if job.labels else None,
        *_outcome(job),
        None if job.unique_for is None else micros_of(job.unique_for),
    )


def _outcome(job: Job) -> Row:
    """What runs leave behind."""
    return (
        None if job.progress is None else json_text(job.progress),
        None if job.checkpoint is None else json_text(job.checkpoint),
        json_text(job.questions) if job.questions else None,
        None if job.result is None else json_text(job.result),
        None if job.failure is None else json_text(job.failure),
    )


def run_row(after: Job, now: int) -> Row:
    """The first twelve parameters of `apply_fenced` and `apply_guarded`: `RUN_FIELDS`."""
    due_at = _maybe_micros(after.due_at)
    updated_at = micros(after.updated_at)
    return (
        _stage(after.state, due_at, now),
        after.state,
        due_at,
        updated_at,
        _micros_again(after.completed_at, after.updated_at, updated_at),
        after.attempt,
        after.rescues,
        *_outcome(after),
    )


def edit_row(after: Job) -> Row:
    """The last parameters of `apply_guarded`: `EDIT_FIELDS`."""
    return (
        after.priority,
        json_text(after.labels) if after.labels else None,
        after.max_attempts,
        after.max_rescues,
        None if after.ttl is None else micros_of(after.ttl),
    )


def entry_row(job_id: str, entry: Entry) -> Row:
    """The parameters of `write_entry`."""
    return (
        entry.id,
        job_id,
        entry.event,
        micros(entry.at),
        entry.state,
        entry.actor,
        entry.epoch,
        entry.attempt,
        entry.rescues,
        _maybe_micros(entry.started_at),
        json_text(entry.detail) if entry.detail else None,
    )


def to_job(row: Sequence[Any]) -> Job:
    """A row of the view `job_rows`."""
    (
        _seq,
        job_id,
        tenant,
        kind,
        state,
        due_at,
        created_at,
        updated_at,
        priority,
        epoch,
        version,
        attempt,
        max_attempts,
        rescues,
        max_rescues,
        worker,
        idempotency_key,
        user_id,
        document_id,
        created_by,
        ttl,
        started_at,
        completed_at,
        payload,
        labels,
        progress,
        checkpoint,
        questions,
        result,
        failure,
        unique_for,
    ) = row
    return Job(
        id=job_id,
        tenant=tenant,
        kind=kind,
        state=_STATES[state],
        due_at=_maybe_moment(due_at),
        created_at=moment(created_at),
        updated_at=moment(updated_at),
        priority=priority,
        epoch=epoch,
        version=version,
        attempt=attempt,
        max_attempts=max_attempts,
        rescues=rescues,
        max_rescues=max_rescues,
        worker=worker,
        idempotency_key=idempotency_key,
        user_id=user_id,
        document_id=document_id,
        created_by=created_by,
        ttl=None if ttl is None else timedelta(0, 0, ttl),
        started_at=_maybe_moment(started_at),
        completed_at=_maybe_moment(completed_at),
        payload={} if payload is None else _from_json(payload),
        labels={} if labels is None else _from_json(labels),
        progress=None if progress is None else _to_progress(progress),
        checkpoint=None if checkpoint is None else _from_json(checkpoint),
        questions=() if questions is None else _to_questions(questions),
        result=None if result is None else _from_json(result),
        failure=None if failure is None else _to_failure(failure),
        unique_for=None if unique_for is None else timedelta(0, 0, unique_for),
    )


def to_entry(row: Sequence[Any]) -> Entry:
    """A row of the statement `history`."""
    entry_id, event, at, state, actor, epoch, attempt, rescues, started_at, detail = row
    return Entry(
        id=entry_id,
        event=Event(event),
        at=moment(at),
        state=_STATES[state],
        actor=actor,
        epoch=epoch,
        attempt=attempt,
        rescues=rescues,
        started_at=_maybe_moment(started_at),
        detail={} if detail is None else _from_json(detail),
    )
