"""Odd input on its whole way, through a job: what each part does with it is tested beside that part."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import perdure
from perdure.app import App
from perdure.domain.job import Job
from perdure.domain.state import JobState
from perdure.embedders.hashing import HashingEmbedder

if TYPE_CHECKING:
    import numpy.typing as npt

    from perdure.ports.embedder import Purpose

STORES = ("memory:", "sqlite:///")


class Broken(HashingEmbedder):
    """Gives vectors of NaN for what holds a word, and one number too few for another."""

    paid = False

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        vectors = np.array(await super().embed(texts, purpose))
        for place, text in enumerate(texts):
            if "nan" in text:
                vectors[place, :] = np.nan
        return vectors[:, :-1] if any("short" in text for text in texts) else vectors


@pytest.fixture(params=STORES)
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[App]:
    store = request.param if request.param == "memory:" else f"sqlite:///{tmp_path / 'perdure.db'}"
    async with perdure.open(store, embedder=f"python:{__name__}:Broken", poll_seconds=0.02) as opened:
        yield opened


async def ended(app: App, job: Job) -> Job:
    return await app.wait(job.id, timeout=60)


async def test_metadata_under_the_names_of_perdures_own_fields_overwrites_none_of_them(app: App) -> None:
    names = "tenant namespace document_id version chunk_id chunk_index chunk_text content_hash score embedding rowid id"
    own: dict[str, Any] = dict.fromkeys(names.split(), "mine")
    job = await ended(app, await app.ingest_text("thirty days", document_id="d", metadata=own))
    assert job.state is JobState.COMPLETED
    [hit] = await app.search("days", where={"tenant": "mine", "chunk_id": "mine"})
    assert (hit.document_id, hit.chunk_text, hit.metadata) == ("d", "thirty days", own)
    assert await app.search("days", tenant="mine") == []
    assert (await app.search("days", document_ids=["mine"])) == []


async def test_a_filter_on_a_key_that_no_document_has_finds_nothing_and_its_opposite_all(app: App) -> None:
    await ended(app, await app.ingest_text("thirty days", metadata={"lang": "en"}))
    for where in ({"absent": 1}, {"absent": {"gt": 0}}, {"absent": {"in": ["a", None]}}):
        assert await app.search("days", where=where) == []
    assert len(await app.search("days", where={"not": {"absent": 1}})) == 1


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("Größe: dreißig Tage".encode("utf-16"), None),
        ("Größe: dreißig Tage".encode("utf-16-be"), "utf-16-be"),
        (b"\xef\xbb\xbf" + "Größe: dreißig Tage".encode(), None),
    ],
)
async def test_a_text_in_another_encoding_is_read_as_what_it_says(
    content: bytes, encoding: str | None, app: App, tmp_path: Path
) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(content)
    assert (await ended(app, await app.ingest(path, encoding=encoding))).state is JobState.COMPLETED
    assert [hit.chunk_text for hit in await app.search("dreißig")] == ["Größe: dreißig Tage"]


async def test_two_encodings_in_one_file_are_refused_with_the_place(app: App, tmp_path: Path) -> None:
    path = tmp_path / "mixed.txt"
    path.write_bytes("dreißig ".encode() * 10 + "dreißig".encode("latin-1"))
    job = await ended(app, await app.ingest(path))
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert "mixed.txt" in job.failure.message
    assert "byte 94" in job.failure.message


async def test_a_log_on_one_line_is_searchable_to_its_end(app: App, tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("GET /index.html 200 " * 20_000 + "the needle")
    job = await ended(app, await app.ingest(path))
    assert job.state is JobState.COMPLETED
    [hit] = await app.search("needle", mode="text")
    assert hit.chunk_text.endswith("the needle")


async def test_a_vector_of_nan_fails_its_document_for_good_and_no_other(app: App) -> None:
    bad, good = await app.ingest_text("nan"), await app.ingest_text("thirty days")
    job = await ended(app, bad)
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.failure is not None
    assert "nan" in job.failure.message
    assert (await ended(app, good)).state is JobState.COMPLETED
    assert [hit.chunk_text for hit in await app.search("days")] == ["thirty days"]


async def test_vectors_that_are_too_short_are_never_stored(app: App) -> None:
    job = await app.ingest_text("short", max_attempts=1)
    job = await ended(app, job)
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert "expected (1, " in job.failure.message
    assert await app.vectors.namespaces("default") == []
