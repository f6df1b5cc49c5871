"""How a document is cut: said with it, or by the settings."""

from __future__ import annotations

from typing import Any

import pytest

import perdure
from perdure.domain.errors import InvalidInput

TEXT = "One is here. Two is here. Three is here."


def opened(**settings: Any) -> perdure.App:
    return perdure.open("memory:", embedder="hashing", poll_seconds=0.01, **settings)


async def cut(app: perdure.App, **options: Any) -> list[str]:
    job = await app.ingest_text(TEXT, document_id="d", **options)
    job = await app.wait(job.id, timeout=60)
    assert isinstance(job.result, dict), job.failure
    chunks = await app.vectors.chunks("default", "default", "d", 100)
    assert {chunk.chunk_strategy for chunk in chunks} == {job.result["strategy"]}
    return [chunk.chunk_text for chunk in chunks]


async def test_document_says_how_it_is_cut_else_the_settings_do() -> None:
    async with opened(chunking="sentence:13") as app:
        assert await cut(app) == ["One is here.", "Two is here.", "Three is here", "."]
        assert await cut(app, chunking="fixed:20,overlap=5") == [TEXT[:20], TEXT[15:35], TEXT[30:]]
        # Cut otherwise it is another edition of the document, though its content is the same.
        assert await cut(app, chunking="sentence:15") == ["One is here.", "Two is here.", "Three is here."]


async def test_name_that_cannot_be_read_is_refused_before_there_is_a_job() -> None:
    async with opened() as app:
        with pytest.raises(InvalidInput, match="chunking is 'magic'"):
            await app.ingest_text(TEXT, chunking="magic")
        assert (await app.jobs.stats("default")).total == 0
    with pytest.raises(InvalidInput, match="chunking is 'magic'"):
        async with opened(chunking="magic"):
            pass
