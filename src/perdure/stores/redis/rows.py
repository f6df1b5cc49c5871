"""Jobs and entries as the server keeps them: a head that its scripts read, the rest as JSON that they do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from perdure.domain.job import Entry, Failure, Job, Progress, Question
from perdure.domain.moments import micros, micros_of, moment
from perdure.domain.state import Event, JobState
from perdure.domain.transition import Transition

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_decode_run: Final = msgspec.json.Decoder(
    tuple[int, int, int | None, Progress | None, Any, tuple[Question, ...], Any, Failure | None]
).decode
_STATES: Final = {str(state): state for state in JobState}
_FRESH: Final = (0, 0, None, None, None, (), None, None)
"""The run of a job that never ran: attempt, rescues, completed_at, progress, checkpoint, questions, result, failure."""


def jobs_argument(jobs: Iterable[Job]) -> bytes:
    """New jobs as `add.lua` takes them: in one piece, which costs the driver and the server less than many."""
    return msgspec.msgpack.encode([_new(job) for job in jobs])


def transitions_argument(moves: Iterable[Transition]) -> bytes:
    """Transitions as `apply.lua` takes them, in one piece."""
    return msgspec.msgpack.encode([_move(move) for move in moves])


def job_of(row: Sequence[bytes]) -> Job:
    """The job that a script answered."""
    head, birth, edited, run, links, job_id = row
    state, due, epoch, version, updated, started, created, priority, tenant, kind, worker = (
        head.decode().split(" ", 10)
    )
    payload, created_by, terms = _decode(birth)
    labels, max_attempts, max_rescues, ttl = _decode(edited) if edited else terms
    attempt, rescues, completed, progress, checkpoint, questions, result, failure = (
        _decode_run(run) if run else _FRESH
    )
    linked = _decode(links) if links else {}
    return Job(
        id=job_id.decode(),
        tenant=tenant,
        kind=kind,
        state=_STATES[state],
        due_at=_time(due),
        created_at=moment(int(created)),
        updated_at=moment(int(updated)),
        priority=int(priority),
        epoch=int(epoch),
        version=int(version),
        attempt=attempt,
        max_attempts=max_attempts,
        rescues=rescues,
        max_rescues=max_rescues,
        worker=worker[1:] if worker else None,
        idempotency_key=linked.get("key"),
        user_id=linked.get("user"),
        document_id=linked.get("document"),
        created_by=created_by,
        ttl=None if ttl is None else timedelta(microseconds=ttl),
        started_at=_time(started),
        completed_at=None if completed is None else moment(completed),
        payload=payload,
        labels=labels,
        progress=progress,
        checkpoint=checkpoint,
        questions=questions,
        result=result,
        failure=failure,
        unique_for=timedelta(microseconds=linked["unique"]) if "unique" in linked else None,
    )


def entries_of(fields: Sequence[bytes]) -> list[Entry]:
    """The history that a script answered, in the order of writing: by the versions that it made."""
    rows = []
    for entry_id, value in zip(fields[::2], fields[1::2], strict=True):
        version, _, text = value.partition(b" ")
        rows.append((int(version), entry_id.decode(), _decode(text)))
    return list(_entries(sorted(rows, key=lambda row: row[0])))


def _entries(rows: Sequence[tuple[int, str, Any]]) -> Iterator[Entry]:
    for _, entry_id, (event, at, state, actor, epoch, attempt, rescues, started, detail) in rows:
        yield Entry(
            id=entry_id,
            event=Event(event),
            at=moment(at),
            state=JobState(state),
            actor=actor,
            epoch=epoch,
            attempt=attempt,
            rescues=rescues,
            started_at=None if started is None else moment(started),
            detail=detail,
        )


def _new(job: Job) -> tuple[object, ...]:
    worker = "" if job.worker is None else f"={job.worker}"
    head = (
        f"{job.state} {_text(job.due_at)} {job.epoch} {job.version} {_text(job.updated_at)} {_text(job.started_at)} "
        f"{_text(job.created_at)} {job.priority} {job.tenant} {job.kind} {worker}"
    )
    run = _run(job)
    named = (("key", job.idempotency_key), ("user", job.user_id), ("document", job.document_id))
    links: dict[str, str | int] = {name: value for name, value in named if value is not None}
    if job.unique_for is not None:
        links["unique"] = micros_of(job.unique_for)
    return (
        job.id,
        head,
        _json((job.payload, job.created_by, _terms(job))),
        "" if run == _FRESH else _json(run),
        _json(links) if links else "",
    )


def _move(move: Transition) -> tuple[object, ...]:
    after, entry, edits = move.after, move.entry, move.version is not None
    return (
        after.id,
        "" if move.epoch is None else str(move.epoch),
        "" if move.version is None else str(move.version),
        after.state,
        _text(after.due_at),
        _text(after.updated_at),
        _json(_run(after)),
        "" if entry is None else entry.id,
        "" if entry is None else _json(_entry(entry)),
        str(after.priority) if edits else "",
        _json(_terms(after)) if edits else "",
    )


def _entry(entry: Entry) -> tuple[object, ...]:
    started = None if entry.started_at is None else micros(entry.started_at)
    counts = (entry.epoch, entry.attempt, entry.rescues)
    return (entry.event, micros(entry.at), entry.state, entry.actor, *counts, started, entry.detail)


def _run(job: Job) -> tuple[object, ...]:
    completed = None if job.completed_at is None else micros(job.completed_at)
    kept = (job.progress, job.checkpoint, job.questions, job.result, job.failure)
    return (job.attempt, job.rescues, completed, *kept)


def _terms(job: Job) -> tuple[object, ...]:
    """What an edit may change beside the priority."""
    ttl = None if job.ttl is None else micros_of(job.ttl)
    return (job.labels, job.max_attempts, job.max_rescues, ttl)


def _json(value: object) -> str:
    return _encode(value).decode()


def _text(time: datetime | None) -> str:
    return "-" if time is None else str(micros(time))


def _time(text: str) -> datetime | None:
    return None if text == "-" else moment(int(text))
