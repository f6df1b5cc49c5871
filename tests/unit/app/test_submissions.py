"""Files that are submitted again: what did not change is done when the submission returns, and in order with all else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import perdure
from perdure.app import App, FileItem
from perdure.domain.document import Draft, StoredDocument
from perdure.domain.errors import DocumentUnreadable, StoreUnavailable
from perdure.domain.job import Job
from perdure.domain.state import Event, JobState
from perdure.domain.transition import Transition
from perdure.submissions import BATCH

QUICK: dict[str, Any] = {"embedder": "hashing", "poll_seconds": 0.02, "lease_seconds": 6.0}


@pytest.fixture(params=["memory:", "sqlite:///{}/perdure.db"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[App]:
    async with perdure.open(request.param.format(tmp_path), **QUICK) as opened:
        yield opened


def write(folder: Path, **texts: str) -> list[FileItem]:
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [FileItem(path=folder / name, document_id=name) for name in texts]


async def ended(app: App, jobs: Sequence[Job]) -> list[Job]:
    return [await app.wait(job.id, timeout=60) for job in jobs]


def unchanged(job: Job) -> bool:
    assert isinstance(job.result, dict), job
    return bool(job.result["unchanged"])


async def test_what_did_not_change_is_done_on_return(app: App, tmp_path: Path) -> None:
    items = write(tmp_path, a="Thirty days of leave.", b="Forty days.", c="Ten days.")
    first = await ended(app, await app.ingest_many(items))
    write(tmp_path, b="Fifty days.")
    jobs = await app.ingest_many([*items, *write(tmp_path, d="New here.")])
    assert [job.state for job in (jobs[0], jobs[2])] == [JobState.COMPLETED] * 2
    whole = await ended(app, jobs)
    assert [unchanged(job) for job in whole] == [True, False, True, False]
    shown = await app.documents.document("default", "default", "a")
    assert shown is not None
    assert shown.document.ingestion_id == first[0].id
    assert (await app.jobs.stats("default")).by_state[JobState.COMPLETED] == 7


async def test_such_a_job_looks_like_any_that_found_nothing_to_do(app: App, tmp_path: Path) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    text = await ended(app, [await app.ingest(item.path, document_id="a", media_type="text/plain")])
    seen = [(await app.jobs.store.entries(None, 10)).next]
    quick = await app.ingest(item.path, document_id="a", media_type="text/plain")
    slow = await app.ingest_text("Thirty days of leave.", document_id="a")
    [slow] = await ended(app, [slow])
    assert (quick.state, quick.result) == (JobState.COMPLETED, slow.result)
    assert quick == await app.jobs.get(quick.id, tenant="default")
    assert (quick.attempt, quick.epoch, quick.progress and quick.progress.counts) == (
        *(slow.attempt, slow.epoch),
        slow.progress and slow.progress.counts,
    )
    history = [entry.event for entry in await app.jobs.history(quick.id, tenant="default")]
    assert history == [Event.ADDED, Event.COMPLETED]
    told = [line.job_id for line in (await app.jobs.store.entries(seen[0], 10)).lines]
    assert told == [quick.id, slow.id], text


async def test_metadata_that_changed_is_a_change(app: App, tmp_path: Path) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    await ended(app, [await app.ingest(item.path, document_id="a", metadata={"lang": "en"})])
    for metadata, same in (({"lang": "en"}, True), ({"lang": "de"}, False), ({"lang": "de"}, True)):
        [job] = await ended(app, [await app.ingest(item.path, document_id="a", metadata=metadata)])
        assert unchanged(job) == same


async def test_nothing_older_is_published_after_it(app: App, tmp_path: Path) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    await ended(app, [await app.ingest(item.path, document_id="a")])
    later = app.jobs.clock.now() + timedelta(seconds=1)
    older = await app.ingest_text("Never again.", document_id="a", run_at=later)
    again = await app.ingest(item.path, document_id="a")
    assert again.state is JobState.COMPLETED
    [older] = await ended(app, [older])
    assert isinstance(older.result, dict)
    assert older.result["superseded"]
    assert [hit.chunk_text for hit in await app.search("leave")] == ["Thirty days of leave."]


async def test_one_that_failed_or_was_deleted_is_read_again(app: App, tmp_path: Path) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    await ended(app, [await app.ingest(item.path, document_id="a")])
    await app.delete_document("a")
    [job] = await ended(app, [await app.ingest(item.path, document_id="a")])
    assert not unchanged(job)
    assert len(await app.search("leave")) == 1


async def test_a_key_said_again_gives_the_first_job(app: App, tmp_path: Path) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    for version in ({}, {"version": 7}):
        options: dict[str, Any] = {"document_id": "a", "idempotency_key": f"k{version}", **version}
        first = await app.ingest(item.path, **options)
        await ended(app, [first])
        assert (await app.ingest(item.path, **options)).id == first.id


async def test_a_death_before_the_answer_leaves_it_to_a_worker(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    await ended(app, [await app.ingest(item.path, document_id="a")])
    apply = app.jobs.apply
    monkeypatch.setattr("perdure.core.jobs.LEASE", timedelta(seconds=0.1))

    async def away(moves: Sequence[Transition]) -> list[bool]:
        monkeypatch.setattr(app.jobs, "apply", apply)
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(app.jobs, "apply", away)
    job = await app.ingest(item.path, document_id="a")
    assert job.state is JobState.RUNNING
    [job] = await ended(app, [job])
    assert (unchanged(job), job.rescues, job.attempt) == (True, 1, 1)


async def test_trouble_with_the_vectors_is_left_to_a_worker(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    await ended(app, [await app.ingest(item.path, document_id="a")])

    async def broken(drafts: object) -> None:
        raise StoreUnavailable("the vectors are away")

    monkeypatch.setattr(app.vectors, "affirm", broken)
    job = await app.ingest(item.path, document_id="a")
    assert job.state is not JobState.COMPLETED
    assert unchanged((await ended(app, [job]))[0])


async def test_many_files_into_an_empty_namespace_are_read_by_workers_alone(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.submissions.BATCH", 3)
    items = write(tmp_path, **{f"n{number}": f"Leave of {number} days." for number in range(7)})
    looked = list[int]()
    affirm = app.vectors.affirm

    async def seen(drafts: Sequence[Draft]) -> list[StoredDocument | None]:
        looked.append(len(drafts))
        return await affirm(drafts)

    monkeypatch.setattr(app.vectors, "affirm", seen)
    jobs = await ended(app, await app.ingest_many(items))
    assert (looked, [unchanged(job) for job in jobs]) == ([], [False] * 7)
    again = await app.ingest_many(items)
    assert (looked, {job.state for job in again}) == ([3, 3, 1], {JobState.COMPLETED})
    elsewhere = await ended(app, await app.ingest_many(items, namespace="other"))
    assert [unchanged(job) for job in elsewhere] == [False] * 7
    assert looked == [3, 3, 1]


async def test_an_app_without_a_worker_leaves_it_to_one(tmp_path: Path) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    store = f"sqlite:///{tmp_path}/perdure.db"
    async with perdure.open(store, **QUICK) as app:
        await ended(app, [await app.ingest(item.path, document_id="a")])
    async with perdure.open(store, worker=False, **QUICK) as client:
        assert (await client.ingest(item.path, document_id="a")).state is JobState.PENDING


async def test_batches_that_came_before_a_bad_one_stand(app: App, tmp_path: Path) -> None:
    [item] = write(tmp_path, a="Thirty days of leave.")
    items = [FileItem(path=item.path, document_id=str(number)) for number in range(BATCH)]
    with pytest.raises(DocumentUnreadable):
        await app.ingest_many([*items, FileItem(path=tmp_path / "absent")])
    assert sum((await app.jobs.stats("default")).by_state.values()) == BATCH


@pytest.mark.parametrize(
    ("late", "behind", "ours"),
    [(0.9, 1.5, True), (0.9, 0.0, False), (3600.0, 1.5, False), (-3600.0, 1.5, False)],
    ids=["in whole seconds", "exact", "an hour slow", "an hour fast"],
)
async def test_who_submits_later_brings_the_newer_version(
    app: App, monkeypatch: pytest.MonkeyPatch, late: float, behind: float, *, ours: bool
) -> None:
    store = app.jobs.store
    monkeypatch.setattr(type(store), "capabilities", replace(store.capabilities, behind=behind))
    told = app.jobs.clock.now
    monkeypatch.setattr(app.jobs.clock, "now", lambda: told() - timedelta(seconds=late))
    before = time.time()
    job = await app.ingest_text("Thirty days of leave.", document_id="a")
    version = int(str(job.payload["version"])) / 1_000_000
    assert version == pytest.approx(before if ours else before - late, abs=0.4)
