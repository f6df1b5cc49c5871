"""What goes out as JSON: the names stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from perdure import wire
from perdure.domain.job import Failure, Job, Progress
from perdure.domain.query import Stats
from perdure.domain.search import Hit
from perdure.domain.state import JobState
from perdure.testing.builders import make_job

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
BOOM = Failure(type="Boom", message="it broke; mend it", detail="Traceback …")


def vectorize(**over: object) -> Job:
    payload = {"document_id": "a.md", "version": 7}
    return make_job(NOW, kind="vectorize", document_id="a.md", **{"payload": payload, **over})


def told(answer: msgspec.Struct) -> Any:
    return msgspec.json.decode(msgspec.json.encode(answer))


def test_a_job() -> None:
    job = vectorize(state=JobState.FAILED, failure=BOOM)
    line = told(wire.JobLine.of(job))
    assert line.keys() == {
        *("id", "status", "tenant", "kind", "priority", "attempt", "max_attempts", "rescues", "max_rescues"),
        *("user_id", "document_id", "created_by", "idempotency_key", "labels", "worker", "progress"),
        *("created_at", "updated_at", "started_at", "completed_at", "expires_at", "run_at", "error"),
    }
    assert (line["status"], line["created_at"]) == ("failed", "2026-05-01T12:00:00Z")
    assert line["error"] == {"type": "Boom", "message": "it broke; mend it", "fatal": False}
    whole = told(wire.JobWhole.of(job))
    assert whole.keys() - line.keys() == {"payload", "result", "questions"}


def test_only_a_pending_job_is_said_to_run_later() -> None:
    assert told(wire.JobLine.of(vectorize(due_at=NOW)))["run_at"] == "2026-05-01T12:00:00Z"
    assert told(wire.JobLine.of(vectorize(due_at=NOW, state=JobState.RUNNING)))["run_at"] is None


def test_a_status_overlays_progress_by_the_result() -> None:
    counts = {"chunks_total": 3, "chunks_stored": 1}
    job = vectorize(progress=Progress(fraction=0.5, counts=counts), result={"chunks_stored": 3})
    status = told(wire.Status.of(job))
    assert (status["chunks_total"], status["chunks_stored"], status["chunks_reused"]) == (3, 3, None)
    assert (status["job_id"], status["namespace"], status["version"]) == (job.id, "default", 7)
    assert status["failed_chunks"] == []
    other = told(wire.Status.of(make_job(NOW, kind="mail", result="a text")))
    assert (other["namespace"], other["version"], other["chunks_total"]) == (None, None, None)


def test_counts_leave_out_zeros_only_by_kind() -> None:
    counts = told(wire.Counts.of(Stats(counts={"mail": {JobState.PENDING: 2}})))
    assert (counts["total"], counts["unfinished"], counts["by_kind"]) == (2, 2, {"mail": {"pending": 2}})
    assert counts["by_status"]["failed"] == 0


def test_a_hit_names_its_text_and_span() -> None:
    same: Any = {
        "score": 0.5,
        "document_id": "d",
        "version": 1,
        "ingestion_id": "i",
        "chunk_id": "c",
        "chunk_index": 0,
    }
    hit = Hit(**same, chunk_text="text", start=3, end=7, metadata={}, chunk_metadata={})
    span = {"start": 3, "end": 7}
    assert told(wire.HitLine.of(hit)) == {
        **same,
        "text": "text",
        "span": span,
        "metadata": {},
        "chunk_metadata": {},
    }


def test_times_are_in_utc() -> None:
    assert told(wire.JobLine.of(vectorize(started_at=NOW + timedelta(seconds=1))))["started_at"].endswith("Z")
