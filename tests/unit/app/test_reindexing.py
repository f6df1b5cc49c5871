"""A namespace moves to another model, while it is searched, filled and emptied."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import perdure
from perdure.app import App
from perdure.domain.errors import InvalidInput, TextRejected
from perdure.domain.job import Job
from perdure.domain.search import Hit
from perdure.domain.state import JobState
from perdure.embedders.hashing import HashingEmbedder
from perdure.ports.embedder import Purpose

HERE = "python:tests.unit.app.test_reindexing"
OLD, NEW = f"{HERE}:Old", f"{HERE}:New"
SETTINGS: dict[str, Any] = {"embedder": OLD, "embedders": NEW, "poll_seconds": 0.02}


class Old(HashingEmbedder):
    """A small model; notes what it embeds.

    Attributes:
        read: all texts of documents.
        gate: while it is closed, documents wait.
        poison: texts that hold this word are refused.
    """

    read: list[str] = []  # noqa: RUF012 - each class has its own
    gate = asyncio.Event()
    poison: str | None = None
    paid = True

    def __init__(self) -> None:
        super().__init__(dimension=64)
        self.model = "Old"

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        if purpose == "document":
            await self.gate.wait()
            if self.poison and any(self.poison in text for text in texts):
                raise TextRejected("poison")
            self.read.extend(texts)
        return await super().embed(texts, purpose)


class New(Old):
    """Another model, of another dimension."""

    read: list[str] = []  # noqa: RUF012
    gate = asyncio.Event()

    def __init__(self) -> None:
        HashingEmbedder.__init__(self, dimension=96)
        self.model = "New"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    for model in (Old, New):
        model.read.clear()
        model.gate = asyncio.Event()
        model.gate.set()
        model.poison = None


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with perdure.open("memory:", **SETTINGS) as opened:
        yield opened


async def ended(app: App, job: Job, state: JobState = JobState.COMPLETED) -> dict[str, Any]:
    job = await app.wait(job.id, timeout=30)
    assert job.state is state, job.failure
    assert isinstance(job.result, dict) or state is not JobState.COMPLETED
    return job.result if isinstance(job.result, dict) else {}


async def fill(app: App, *names: str, text: str = "thirty days of leave, says {}") -> None:
    jobs = [await app.ingest_text(text.format(name), document_id=name) for name in names]
    for job in jobs:
        await ended(app, job)


async def found(app: App, query: str = "leave") -> list[str]:
    hits: list[Hit] = await app.search(query, mode="vector", limit=100)
    return sorted(hit.document_id for hit in hits)


async def model(app: App) -> str:
    [namespace] = await app.documents.namespaces("default")
    assert namespace.name == "default"
    return namespace.model


async def begun(app: App, job: Job) -> None:
    """Wait until the job fills the new generation."""
    async with asyncio.timeout(10):
        while not (lineage := await app._generations.read("default", "default")).coming:
            await asyncio.sleep(0.01)
        assert lineage.job == job.id


async def test_all_documents_move_and_nothing_else_changes(app: App) -> None:
    await fill(app, "a", "b", "c")
    before = await app.search("leave", mode="vector")
    told = await ended(app, await app.reindex(embedder=NEW))
    assert (told["documents_copied"], told["chunks_embedded"], told["chunks_missing"]) == (3, 3, 0)
    after = await app.search("leave", mode="vector")
    assert {(hit.document_id, hit.version, hit.chunk_text) for hit in after} == {
        (hit.document_id, hit.version, hit.chunk_text) for hit in before
    }
    assert await model(app) == "New"
    shown = await app.documents.document("default", "default", "a")
    assert shown is not None
    assert (shown.document.namespace, shown.model) == ("default", "New")
    assert [one.document.id for one in await app.documents.documents("default", "default", 9)] == [
        "a",
        "b",
        "c",
    ]
    assert len(await app.documents.chunks("default", "default", "a", 9)) == 1


async def test_what_comes_in_later_is_of_the_new_model_alone(app: App) -> None:
    await fill(app, "a")
    await ended(app, await app.reindex(embedder=NEW))
    Old.read.clear()
    await fill(app, "b")
    assert (await found(app), Old.read) == (["a", "b"], [])
    unchanged = await ended(app, await app.ingest_text("thirty days of leave, says a", document_id="a"))
    assert (unchanged["unchanged"], unchanged["namespace"]) == (True, "default")


async def test_searches_and_ingestions_go_on_with_the_old_model_meanwhile(app: App) -> None:
    await fill(app, "a", "b")
    New.gate.clear()
    job = await app.reindex(embedder=NEW)
    await begun(app, job)
    await fill(app, "c")
    await fill(app, "a", text="sixty days of leave, says {}")
    assert (await found(app), await model(app)) == (["a", "b", "c"], "Old")
    New.gate.set()
    await ended(app, job)
    assert (await found(app), await model(app)) == (["a", "b", "c"], "New")
    hits = await app.search("sixty", mode="vector", limit=1)
    assert hits[0].chunk_text == "sixty days of leave, says a"


async def test_a_document_deleted_while_it_is_copied_does_not_come_back(app: App) -> None:
    await fill(app, "a", "b")
    New.gate.clear()
    job = await app.reindex(embedder=NEW)
    await begun(app, job)
    await asyncio.sleep(0.1)  # both are at the model
    assert await app.delete_document("a") == 1
    New.gate.set()
    await ended(app, job)
    assert (await found(app), await model(app)) == (["b"], "New")


async def test_a_namespace_emptied_while_it_is_reindexed_stays_empty(app: App) -> None:
    await fill(app, "a", "b")
    New.gate.clear()
    job = await app.reindex(embedder=NEW)
    await begun(app, job)
    await asyncio.sleep(0.1)
    for name in ("a", "b"):
        await app.delete_document(name)
    New.gate.set()
    await ended(app, job)
    assert (await found(app), await app.documents.namespaces("default")) == ([], [])


async def test_rolling_back_brings_along_what_came_and_went_meanwhile(app: App) -> None:
    await fill(app, "a", "b", "c")
    await ended(app, await app.reindex(embedder=NEW))
    await fill(app, "d")
    await fill(app, "b", text="sixty days of leave, says {}")
    await app.delete_document("c")
    Old.read.clear()
    told = await ended(app, await app.reindex(rollback=True))
    assert (told["embedder"], told["documents_copied"]) == (OLD, 2)
    assert sorted(Old.read) == ["sixty days of leave, says b", "thirty days of leave, says d"]
    assert (await found(app), await model(app)) == (["a", "b", "d"], "Old")
    New.read.clear()
    await ended(app, await app.reindex(rollback=True))
    assert (New.read, await model(app)) == ([], "New")


async def test_what_is_dropped_is_gone(app: App) -> None:
    await fill(app, "a", "b")
    await ended(app, await app.reindex(embedder=NEW))
    assert {one.name for one in await app.vectors.namespaces("default")} == {"default", "default~2"}
    await ended(app, await app.reindex(drop_old=True))
    assert {one.name for one in await app.vectors.namespaces("default")} == {"default~2"}
    assert await found(app) == ["a", "b"]
    job = await app.wait((await app.reindex(rollback=True)).id, timeout=10)
    assert job.failure is not None
    assert "no generation before this one is kept" in job.failure.message


async def test_chunks_that_the_new_model_refuses_are_told_of(app: App) -> None:
    await fill(app, "a", "b")
    New.poison = "says b"
    told = await ended(app, await app.reindex(embedder=NEW), JobState.PARTIAL)
    assert (told["chunks_missing"], told["documents_incomplete"]) == (1, ["b"])
    assert await found(app) == ["a"]
    New.poison = None
    await fill(app, "b")  # ingested again, it is whole
    assert await found(app) == ["a", "b"]


async def test_the_example_of_the_page_runs(app: App) -> None:
    page = Path(__file__).parents[3] / "docs" / "how-to" / "change-the-model.md"
    [example] = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    body = example.replace('"minilm"', "NEW").replace("\n", "\n    ")
    await ended(app, await app.ingest_text("thirty days of leave", document_id="a", namespace="hr"))
    scope: dict[str, Any] = {"NEW": NEW}
    exec(f"async def run(app):\n    {body}\n    return job", scope)
    assert (await ended(app, await scope["run"](app)))["embedder"] == NEW


async def test_two_at_once_are_refused_and_a_cancelled_one_is_taken_up_where_it_was(app: App) -> None:
    await fill(app, "a", "b")
    New.gate.clear()
    first = await app.reindex(embedder=NEW)
    await begun(app, first)
    second = await app.wait((await app.reindex(embedder=NEW)).id, timeout=10)
    assert second.failure is not None
    assert f"job {first.id} is reindexing" in second.failure.message
    await app.jobs.cancel(first.id, tenant="default")
    New.gate.set()
    told = await ended(app, await app.reindex(embedder=NEW))
    assert (told["generation"], await model(app)) == (2, "New")
    assert sorted(set(New.read)) == ["thirty days of leave, says a", "thirty days of leave, says b"]


async def test_what_cannot_be_meant_is_refused(app: App) -> None:
    await fill(app, "a")
    for wrong in (
        {},
        {"embedder": NEW, "rollback": True},
        {"embedder": "python:nobody:knows"},
        {"namespace": "a b"},
    ):
        with pytest.raises(InvalidInput):
            await app.reindex(**wrong)
    same = await app.wait((await app.reindex(embedder=OLD)).id, timeout=10)
    assert same.failure is not None
    assert "already" in same.failure.message


async def test_a_searcher_that_was_not_told_of_the_model_says_what_to_do(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'p.db'}"
    async with perdure.open(url, **SETTINGS) as app:
        await fill(app, "a")
        await ended(app, await app.reindex(embedder=NEW))
    async with perdure.open(url, embedder=OLD, worker=False) as app:
        with pytest.raises(InvalidInput, match="PERDURE_EMBEDDERS"):
            await app.search("leave")
    async with perdure.open(url, embedder=NEW, worker=False) as app:
        assert await found(app) == ["a"]
