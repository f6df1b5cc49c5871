"""What became of each chunk of a document, by every face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

import perdure
from perdure.app import App
from perdure.domain.document import text_hash
from perdure.domain.errors import NotFound, TextRejected
from perdure.domain.job import Job
from perdure.embedders.hashing import HashingEmbedder
from perdure.ledger import ChunkState
from perdure.ports.embedder import Purpose
from perdure.rest import create_app

HERE = "python:tests.unit.app.test_ledger:Picky"
SETTINGS: dict[str, Any] = {"embedder": HERE, "poll_seconds": 0.02}
PARTS = ["paid", "poison", "sick", "toxic poison", "parental"]
TEXTS = [f"# Part {number}\n\n{word} leave" for number, word in enumerate(PARTS)]


class Picky(HashingEmbedder):
    """Refuses a word."""

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Any:
        if any("poison" in text for text in texts):
            raise TextRejected("not this one")
        return await super().embed(texts, purpose)


async def partial(app: App) -> Job:
    job = await app.ingest_text("\n\n".join(TEXTS), document_id="d", media_type="text/markdown")
    return await app.wait(job.id, timeout=60)


async def test_each_chunk_has_a_state_and_the_failed_ones_say_why() -> None:
    async with perdure.open("memory:", **SETTINGS) as app:
        job = await partial(app)
        page = await app.ledger.chunks_of(job.id)
        assert [(one.index, str(one.state)) for one in page.items] == [
            (0, "stored"), (1, "failed"), (2, "stored"), (3, "failed"), (4, "stored")
        ]  # fmt: skip
        assert [one.hash for one in page.items] == [*map(text_hash, TEXTS)]
        assert page.next_cursor is None
        for one in page.items:
            failed = one.state is ChunkState.FAILED
            assert (one.error, one.reason) == (("TextRejected", "not this one") if failed else (None, None))
            # Five texts together, then the two or three among which it is, and so on until it stood alone.
            assert one.attempts in ((3, 4) if failed else (None,))


async def test_pages_hold_each_chunk_once_and_a_newer_version_leaves_the_failed_ones() -> None:
    async with perdure.open("memory:", **SETTINGS) as app:
        job = await partial(app)
        seen, after = list[int](), -1
        while True:
            page = await app.ledger.chunks_of(job.id, limit=2, after=after)
            seen += [one.index for one in page.items]
            if page.next_cursor is None:
                break
            after = page.next_cursor
        assert seen == [0, 1, 2, 3, 4]
        assert len((await app.ledger.chunks_of(job.id, state=ChunkState.STORED)).items) == 3
        newer = await app.ingest_text("only leave", document_id="d")
        await app.wait(newer.id, timeout=60)
        assert [one.index for one in (await app.ledger.chunks_of(job.id)).items] == [1, 3]
        other = await app.submit("report")
        with pytest.raises(NotFound, match="no ingestion"):
            await app.ledger.chunks_of(other.id)


async def test_the_faces_name_the_failed_chunks() -> None:
    async with perdure.open("memory:", **SETTINGS) as app:
        job = await partial(app)
        transport = httpx.ASGITransport(app=create_app(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.get(f"/v1/ingest/{job.id}/chunks", params={"state": "failed", "limit": 1})
            told = answer.json()
            assert (told["next_cursor"], [one["index"] for one in told["items"]]) == (1, [1])
            page = (await client.get(f"/jobs/{job.id}")).text
            assert page.count("not this one") >= 2
            assert (await client.get(f"/v1/ingest/{job.id}/chunks?state=lost")).status_code == 400
