"""Jobs as items that people can read, and back.

Cosmos DB holds numbers as doubles, so what must come back exactly stands in `job` and `history` as JSON text. Beside it
stands what queries look at, in the camelCase shape of an embedding service's records. Times are texts of one width in UTC,
which sort as times do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from perdure.domain.errors import InvalidInput
from perdure.domain.job import Entry, Job
from perdure.domain.record import Json
from perdure.domain.state import JobState

Document: TypeAlias = dict[str, Any]

HISTORY_KEPT: Final = 100
"""Entries of one job; the oldest go first, since every write pays for the whole item."""

MAX_ITEM: Final = 2 * 1024 * 1024
"""Bytes of an item as JSON: the service's limit."""

_OUR_OWN: Final = 10_000
"""Bytes kept free for what the service adds to an item."""

MAX_TTL: Final = 2**31 - 1


def text_of(moment: datetime) -> str:
    """A time as it stands in an item."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def document(job: Job, history: Sequence[str] = (), *, adding: str = "", claim: str = "") -> Document:
    """The item of a job.

    Args:
        history: its entries, as `entry_text` writes them.
        adding: the token of the add that is under way (see `adding.py`).
        claim: which claim took it last.

    Raises:
        InvalidInput: it is over the service's limit.
    """
    made: Document = {
        "id": job.id,
        "type": "job",
        "tenantId": job.tenant,
        "kind": job.kind,
        "status": job.state.value,
        "shardId": job.document_id,
        "shardTypeId": _text(job.payload.get("shardTypeId")),
        "userId": job.user_id,
        "retryCount": max(0, job.attempt + job.rescues - job.finished),
        "error": None if job.failure is None else job.failure.message,
        "createdAt": text_of(job.created_at),
        "updatedAt": text_of(job.updated_at),
        "completedAt": _maybe(job.completed_at),
        "dueAt": _maybe(job.due_at),
        "expiresAt": _maybe(job.expires_at),
        "metadata": _metadata(job),
        # unique inside the tenant, by the container's unique key policy
        "once": job.id if job.idempotency_key is None else once(job.idempotency_key),
        "lane": f"{job.kind}!{job.state.value}",
        "line": line(job),
        "worker": job.worker,
        "epoch": job.epoch,
        "version": job.version,
        "adding": adding,
        "claim": claim,
        "job": msgspec.json.encode(job).decode(),
        "history": list(history[-HISTORY_KEPT:]),
        "ttl": _ttl(job),
    }
    if size(made) > MAX_ITEM - _OUR_OWN:
        raise too_large()
    return made


def once(key: str) -> str:
    """An idempotency key, of bounded length, and never equal to an id."""
    return "key-" + sha256(key.encode()).hexdigest()


def line(job: Job) -> str | None:
    """The place in the queue: priority, tenant, time, id; None where the job is not in it. ``!`` is in no tenant's name, and
    sorts before all that is.
    """
    if job.state is not JobState.PENDING or job.due_at is None:
        return None
    return f"{level(job.priority)}!{job.tenant}!{text_of(job.due_at)}!{job.id}"


def level(priority: int) -> str:
    """A priority as a text that sorts the highest first."""
    return f"{1000 - priority:04d}"


def size(made: Document) -> int:
    """Bytes of an item on the wire."""
    return len(msgspec.json.encode(made))


def entry_text(entry: Entry) -> str:
    """A line of the history."""
    return msgspec.json.encode(entry).decode()


def to_entry(text: str) -> Entry:
    """The reverse of `entry_text`."""
    return msgspec.json.decode(text, type=Entry)


def to_job(found: Document) -> Job:
    """An item as a job. Heartbeats write `dueAt` and `version` beside the text, so these count."""
    job = msgspec.json.decode(found["job"], type=Job)
    due = found["dueAt"]
    return replace(job, version=found["version"], due_at=None if due is None else datetime.fromisoformat(due))


def too_large() -> InvalidInput:
    """A job does not fit into one item."""
    return InvalidInput(
        "the job does not fit into Cosmos DB: with its history a job is one item, of at most 2 MB as JSON; keep large "
        "payloads, results and checkpoints elsewhere and store where they are"
    )


def _maybe(moment: datetime | None) -> str | None:
    return None if moment is None else text_of(moment)


def _ttl(job: Job) -> int:
    """Seconds after the write until the service removes the item; -1: never. Rounded up, so that nothing goes too early."""
    if job.expires_at is None:
        return -1
    left = (job.expires_at - job.updated_at).total_seconds()
    return min(max(1, int(left) + 2), MAX_TTL)


def _metadata(job: Job) -> Document:
    """What an embedding service's record tells of the work. Copies for people: Perdure never reads them."""
    counts = job.progress.counts if job.progress else {}
    result = job.result if isinstance(job.result, dict) else {}
    ran = job.completed_at - job.started_at if job.completed_at and job.started_at else None
    return {
        "embeddingModel": _text(result.get("embedding_model")),
        "vectorCount": counts.get("chunks_stored"),
        "processingTimeMs": None if ran is None else round(ran.total_seconds() * 1000),
    }


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None
