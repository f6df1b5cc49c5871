"""Jobs as rows, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec
from msgspec.structs import asdict, replace

from perdure.domain.errors import InvalidInput
from perdure.domain.job import Entry, Failure, Job, Progress, Question
from perdure.domain.record import Json, Record
from perdure.domain.state import JobState
from perdure.domain.transition import Transition

Row: TypeAlias = tuple[Any, ...]

STATES: Final[Mapping[str, JobState]] = {state.value: state for state in JobState}

COLUMNS: Final = (
    *("id", "tenant", "kind", "state", "due_at", "created_at", "updated_at", "priority", "epoch", "version"),
    *(
        "attempt",
        "max_attempts",
        "rescues",
        "max_rescues",
        "worker",
        "idempotency_key",
        "user_id",
        "document_id",
    ),
    *("created_by", "ttl", "started_at", "completed_at", "payload", "labels", "run"),
)
"""In the order of `columns` in queries.sql."""


class Run(Record, omit_defaults=True):
    """What runs leave behind: always written together, and for most jobs nothing of it; and what few jobs have at all."""

    progress: Progress | None = None
    checkpoint: Json = None
    questions: tuple[Question, ...] = ()
    result: Json = None
    failure: Failure | None = None
    unique_for: timedelta | None = None


_NO_RUN: Final = (None, None, (), None, None, None)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_run = msgspec.json.Decoder(Run).decode
decode_entry = msgspec.json.Decoder(Entry).decode


def row_of(job: Job) -> Row:
    """The job in the order of `COLUMNS`."""
    # One flat tuple: put together from parts it takes a quarter longer, and bulk adds feel it.
    # fmt: off
    return (
        job.id, job.tenant, job.kind, job.state, job.due_at, job.created_at, job.updated_at,
        job.priority, job.epoch, job.version, job.attempt, job.max_attempts, job.rescues, job.max_rescues,
        job.worker, job.idempotency_key, job.user_id, job.document_id, job.created_by, job.ttl,
        job.started_at, job.completed_at, _text(job.payload), _text(job.labels or None), _run_of(job),
    )
    # fmt: on


def job_of(row: asyncpg.Record) -> Job:
    """The job of a row with `COLUMNS`."""
    fields: dict[str, Any] = dict(zip(COLUMNS, row, strict=False))
    fields["id"] = str(fields["id"])
    fields["state"] = STATES[fields["state"]]
    fields["payload"] = _decode(fields["payload"])
    fields["labels"] = {} if fields["labels"] is None else _decode(fields["labels"])
    run = fields.pop("run")
    return Job(**fields, **({} if run is None else asdict(_decode_run(run))))


def claimed_job_of(row: asyncpg.Record, worker: str, now: datetime, lease: timedelta) -> Job:
    """The job of a row as it was before this claim; see `perdure.domain.transition.claim`.

    Of `columns` without what the claim sets, in their order: looked up by name it would take a third longer.
    """
    job_id, tenant, kind, created_at, priority, epoch, version, attempt, max_attempts, *others = row
    rescues, max_rescues, key, user_id, document_id, created_by, ttl, completed_at, *texts = others
    job = Job(
        id=str(job_id),
        tenant=tenant,
        kind=kind,
        state=JobState.RUNNING,
        due_at=now + lease,
        created_at=created_at,
        updated_at=now,
        priority=priority,
        epoch=epoch + 1,
        version=version + 1,
        attempt=attempt,
        max_attempts=max_attempts,
        rescues=rescues,
        max_rescues=max_rescues,
        worker=worker,
        idempotency_key=key,
        user_id=user_id,
        document_id=document_id,
        created_by=created_by,
        ttl=ttl,
        started_at=now,
        completed_at=completed_at,
        payload=_decode(texts[0]),
        labels={} if texts[1] is None else _decode(texts[1]),
    )
    return job if texts[2] is None else replace(job, **asdict(_decode_run(texts[2])))


def moves_as_columns(moves: Sequence[Transition]) -> list[list[Any]]:
    """The parameters of the statement `apply`: a list for each column, empty where it would hold nothing."""
    jobs = [move.after for move in moves]
    entries = [move.entry for move in moves]
    columns: list[list[Any]] = [
        [job.id for job in jobs],
        [move.epoch for move in moves],
        [move.version for move in moves],
        [None if move.version is None else move.before for move in moves],
        [job.state for job in jobs],
        [job.due_at for job in jobs],
        [job.updated_at for job in jobs],
        [job.completed_at for job in jobs],
        [job.attempt for job in jobs],
        [job.rescues for job in jobs],
        [_run_of(job) for job in jobs],
        [None if entry is None else entry.id for entry in entries],
        [_text(entry) for entry in entries],
    ]
    if any(move.version is not None for move in moves):
        columns += [
            [job.priority for job in jobs],
            [_text(job.labels or None) for job in jobs],
            [job.max_attempts for job in jobs],
            [job.max_rescues for job in jobs],
            [job.ttl for job in jobs],
        ]
    else:  # a worker's, which must not write what may be edited meanwhile
        columns += [[]] * 5
    return [[] if column.count(None) == len(column) else column for column in columns]


def _run_of(job: Job) -> str | None:
    if (job.progress, job.checkpoint, job.questions, job.result, job.failure, job.unique_for) == _NO_RUN:
        return None
    run = Run(
        progress=job.progress,
        checkpoint=job.checkpoint,
        questions=job.questions,
        result=job.result,
        failure=job.failure,
        unique_for=job.unique_for,
    )
    return _text(run)


def _text(value: object) -> str | None:
    try:
        return None if value is None else _encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"a value cannot be written as JSON: {error}") from error
