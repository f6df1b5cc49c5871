"""How much a tenant may have."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import AsyncMock

import pytest

import perdure
from perdure.domain.errors import QuotaExceeded


async def test_files_are_refused_while_too_many_jobs_wait(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    async with perdure.open("memory:", embedder="hashing", worker=False, max_pending_jobs=1) as app:
        await app.ingest(tmp_path / "a.txt")
        with pytest.raises(QuotaExceeded, match="1 pending jobs and may have 1; add 1 more"):
            await app.ingest(tmp_path / "a.txt")


async def test_documents_are_refused_until_some_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.quotas.FRESH_SECONDS", 0)
    (tmp_path / "a.txt").write_text("words")
    async with perdure.open("memory:", embedder="hashing", max_chunks=2) as app:
        for place in ("a", "b"):  # of all namespaces together
            job = await app.ingest_text("words", document_id="one", namespace=place)
            await app.wait(job.id, timeout=30)
        with pytest.raises(
            QuotaExceeded, match="2 chunks stored and may have 2; delete documents"
        ) as refused:
            await app.ingest(tmp_path / "a.txt")
        assert refused.value.seconds == 60
        await app.ingest_text("words", tenant="another")
        await app.submit("other-work")
        await app.delete_document("one", namespace="a")
        await app.ingest(tmp_path / "a.txt")


async def test_chunks_are_not_counted_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with perdure.open("memory:", embedder="hashing", worker=False, max_chunks=1) as app:
        namespaces = AsyncMock(return_value=[])
        monkeypatch.setattr(app.vectors, "namespaces", namespaces)
        for _ in range(3):
            await app.ingest_text("words")
    assert namespaces.await_count == 1
