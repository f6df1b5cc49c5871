"""The pipeline as one object: made, asked and waited for by other services' code."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from perdure import VectorizationPipeline
from perdure.domain.errors import DocumentEmpty, InvalidInput, NotFound, WaitTimeout
from perdure.vectorization import VectorizationJobStatus

COMPLETED, FAILED = VectorizationJobStatus.COMPLETED, VectorizationJobStatus.FAILED
QUICK: dict[str, Any] = {"embedder": "hashing", "poll_seconds": 0.01}


async def test_document_becomes_vectors_and_its_job_tells_which() -> None:
    async with VectorizationPipeline(**QUICK) as pipeline:
        result = await pipeline.vectorize_document(
            "leave", "Thirty days of leave.", version=7, namespace="hr"
        )
        assert (result.status, result.document_id, result.document_version) == (COMPLETED, "leave", 7)
        assert (result.chunks_total, result.chunks_embedded, result.chunks_stored, result.failed_count) == (
            1,
            1,
            1,
            0,
        )
        assert result.completed_at is not None
        [hit] = await pipeline.app.search("leave", namespace="hr")
        assert result.vector_ids == [hit.chunk_id]
        assert await pipeline.get_job_status(result.job_id) == result


async def test_without_a_store_it_warns_that_nothing_survives(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with VectorizationPipeline(**QUICK):
            pass
    assert "the jobs are in memory only: nothing survives this process" in caplog.text


async def test_status_is_told_after_a_restart_and_what_waited_is_run(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with VectorizationPipeline(store, **QUICK) as pipeline:
        first = await pipeline.vectorize_document("leave", "Thirty days of leave.")
    async with VectorizationPipeline(store, worker=False, **QUICK) as pipeline:
        waiting = await pipeline.create_job("salary", b"Paid on the 25th.", media_type="text/plain")
        status = await pipeline.get_job_status(waiting)
        assert status is not None
        assert status.status is VectorizationJobStatus.PENDING
    async with VectorizationPipeline(store, **QUICK) as pipeline:
        assert await pipeline.get_job_status(first.job_id) == first
        result = await pipeline.vectorize_document("salary", job_id=waiting, timeout=60)
        assert result.status is COMPLETED


async def test_newer_version_takes_the_vectors_of_the_older_job(tmp_path: Path) -> None:
    path = tmp_path / "leave.md"
    path.write_text("# Leave\n\nThirty days.")
    async with VectorizationPipeline(**QUICK) as pipeline:
        first = await pipeline.vectorize_document("leave", path)
        path.write_text("# Leave\n\nForty days.")
        second = await pipeline.vectorize_document("leave", path)
        again = await pipeline.get_job_status(first.job_id)
        assert again is not None
        assert (again.status, again.vector_ids) == (COMPLETED, None)
        assert second.vector_ids is not None
        assert second.vector_ids != first.vector_ids


async def test_what_does_not_fit_is_refused_or_told() -> None:
    async with VectorizationPipeline(**QUICK) as pipeline:
        result = await pipeline.vectorize_document("picture", b"\x89PNG\x00\x01")
        assert result.status is FAILED
        assert result.vector_ids is None
        assert await pipeline.get_job_status(str(uuid4())) is None
        with pytest.raises(InvalidInput, match="is not a UUID"):
            await pipeline.get_job_status("42")
        with pytest.raises(DocumentEmpty):
            await pipeline.vectorize_document("nothing")
        with pytest.raises(NotFound):
            await pipeline.vectorize_document("leave", job_id=str(uuid4()))
        with pytest.raises(NotFound, match="does not vectorize document 'other'"):
            await pipeline.vectorize_document("other", job_id=result.job_id)
    async with VectorizationPipeline(worker=False, **QUICK) as pipeline:
        with pytest.raises(WaitTimeout):
            await pipeline.vectorize_document("leave", "Thirty days.", timeout=0.01)


async def test_tenants_do_not_see_one_another(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with (
        VectorizationPipeline(store, tenant="a", **QUICK) as a,
        VectorizationPipeline(store, tenant="b", **QUICK) as b,
    ):
        result = await a.vectorize_document("leave", "Thirty days of leave.")
        assert await b.get_job_status(result.job_id) is None
