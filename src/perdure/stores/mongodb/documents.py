"""Jobs and history entries as documents that people can read, and back.

BSON dates have milliseconds; Perdure's times have microseconds. So each time stands there twice: as a date, for people,
other tools and the TTL index (`due_at`), and exactly, in microseconds since 1970 (`due_us`), which is what counts here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import msgspec

from perdure.domain.job import Entry, Failure, Job, Progress, Question
from perdure.domain.moments import micros, micros_of, moment
from perdure.domain.state import JobState

Document: TypeAlias = dict[str, Any]

NOW_US: Final = {"$multiply": [{"$toLong": "$$NOW"}, 1000]}
"""The server's time in microseconds, as an expression."""

WHOLE: Final = {"history": 0}
"""The projection that gives all of a job."""

OF_DOCUMENTS: Final = frozenset({"vectorize", "vectorization"})
"""The kinds that also carry what was counted, at the top, where a query or an index can reach it."""


# --- into a document ------------------------------------------------------------------------


def document(job: Job) -> Document:
    """A new job. Its id is the document's, too, so that the feed names it."""
    return {
        "_id": job.id,
        "job_id": job.id,
        "tenant": job.tenant,
        "kind": job.kind,
        "document_id": job.document_id,
        "user_id": job.user_id,
        "idempotency_key": job.idempotency_key,
        "unique_until_us": None if job.unique_for is None else micros(job.created_at + job.unique_for),
        "created_by": job.created_by,
        "payload": to_bson(job.payload),
        "epoch": job.epoch,
        "version": job.version,
        "worker": job.worker,
        **_times("created", job.created_at),
        **_times("started", job.started_at),
        **_due(job),
        **run_fields(job),
        **edit_fields(job),
        "history": [],
    }


def run_fields(after: Job, before: JobState = JobState.RUNNING) -> Document:
    """`perdure.domain.transition.RUN_FIELDS`; without `due_at` of a job that stays running: `extend` alone moves a lease."""
    return {
        "status": after.state.value,
        **({} if after.state is before is JobState.RUNNING else _due(after)),
        **_times("updated", after.updated_at),
        **_times("completed", after.completed_at),
        "attempt": after.attempt,
        "rescues": after.rescues,
        "progress": to_bson(msgspec.to_builtins(after.progress)),
        "checkpoint": to_bson(after.checkpoint),
        "questions": to_bson(msgspec.to_builtins(after.questions)),
        "result": to_bson(after.result),
        "failure": to_bson(msgspec.to_builtins(after.failure)),
        **_counted(after),
    }


def edit_fields(after: Job) -> Document:
    """`perdure.domain.transition.EDIT_FIELDS`."""
    return {
        "priority": after.priority,
        "labels": to_bson(after.labels),
        "max_attempts": after.max_attempts,
        "max_rescues": after.max_rescues,
        "ttl_us": None if after.ttl is None else micros_of(after.ttl),
    }


def entry_document(entry: Entry) -> Document:
    """A line of the history; its times are ISO 8601 texts, exact to the microsecond."""
    fields: Document = to_bson(msgspec.to_builtins(entry))
    return fields


def _times(name: str, at: datetime | None) -> Document:
    return {f"{name}_at": at, f"{name}_us": None if at is None else micros(at)}


def _due(job: Job) -> Document:
    """When the job next needs somebody; `expires_at` is there for the TTL index only where the job has ended."""
    gone = None if job.expires_at is None else micros(job.expires_at)
    # The date is the first whole millisecond after the exact time, so that nothing goes too early.
    date = None if gone is None else moment(-(-gone // 1000) * 1000)
    return {**_times("due", job.due_at), "expires_at": date, "expires_us": gone}


def _counted(job: Job) -> Document:
    """What a document's job tells of its document."""
    if job.kind not in OF_DOCUMENTS:
        return {}
    counts = job.progress.counts if job.progress else {}
    result = job.result if isinstance(job.result, dict) else {}
    return {
        "namespace": job.payload.get("namespace"),
        "document_version": job.payload.get("version"),
        "content_hash": result.get("content_hash"),
        "chunks_total": result.get("chunks_total", counts.get("chunks_total", 0)),
        "chunks_embedded": counts.get("chunks_embedded", 0),
        "chunks_stored": result.get("chunks_stored", counts.get("chunks_stored", 0)),
        "failed_count": result.get("chunks_failed", counts.get("failed_count", 0)),
        "failed_chunks": to_bson(result.get("failed_chunks")),
    }


def to_bson(value: Any) -> Any:
    """JSON as BSON. MongoDB reads `$` and `.` in a key as its own, so they are written as in a URL: ``%24``, ``%2E``."""
    match value:
        case Mapping():
            return {_escaped(key): to_bson(item) for key, item in value.items()}
        case list() | tuple():
            return [to_bson(item) for item in value]
        case _:
            return value


def _escaped(key: str) -> str:
    return key.replace("%", "%25").replace("$", "%24").replace(".", "%2E")


# --- and back -------------------------------------------------------------------------------


def from_bson(value: Any) -> Any:
    """The reverse of `to_bson`; whole numbers of 64 bits become plain ones."""
    match value:
        case dict():
            return {_unescaped(key): from_bson(item) for key, item in value.items()}
        case list():
            return [from_bson(item) for item in value]
        case bool():
            return value
        case int():
            return int(value)
        case _:
            return value


def _unescaped(key: str) -> str:
    return key.replace("%2E", ".").replace("%24", "$").replace("%25", "%")


def to_job(found: Document) -> Job:
    """A document as a job."""
    return Job(
        id=found["_id"],
        tenant=found["tenant"],
        kind=found["kind"],
        state=JobState(found["status"]),
        due_at=_moment(found, "due"),
        created_at=moment(found["created_us"]),
        updated_at=moment(found["updated_us"]),
        priority=found["priority"],
        epoch=found["epoch"],
        version=found["version"],
        attempt=found["attempt"],
        max_attempts=found["max_attempts"],
        rescues=found["rescues"],
        max_rescues=found["max_rescues"],
        worker=found["worker"],
        idempotency_key=found["idempotency_key"],
        user_id=found["user_id"],
        document_id=found["document_id"],
        created_by=found["created_by"],
        ttl=None if found["ttl_us"] is None else timedelta(0, 0, found["ttl_us"]),
        started_at=_moment(found, "started"),
        completed_at=_moment(found, "completed"),
        payload=from_bson(found["payload"]),
        labels=from_bson(found["labels"]),
        progress=msgspec.convert(from_bson(found["progress"]), Progress | None),
        checkpoint=from_bson(found["checkpoint"]),
        questions=msgspec.convert(from_bson(found["questions"]), tuple[Question, ...]),
        result=from_bson(found["result"]),
        failure=msgspec.convert(from_bson(found["failure"]), Failure | None),
        unique_for=None
        if found.get("unique_until_us") is None
        else timedelta(0, 0, found["unique_until_us"] - found["created_us"]),
    )


def to_entry(found: Document) -> Entry:
    """A line of the history."""
    return msgspec.convert(from_bson(found), Entry)


def _moment(found: Document, name: str) -> datetime | None:
    microseconds = found[f"{name}_us"]
    return None if microseconds is None else moment(microseconds)
