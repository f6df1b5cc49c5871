"""A feed's events become jobs: once each, as they last were, by one reader at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

import perdure
from perdure import ingestion
from perdure.app import App
from perdure.core.feeds import FeedRunner
from perdure.domain.change import Action, Batch, Change, Poison, last_of_each
from perdure.domain.errors import InvalidInput, NotFound, StoreError
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.feeding import Documents, declared, feeds_of, make_feed, make_runner, take
from perdure.feeds.folder import FolderFeed
from perdure.ports.change_feed import Recall

QUICK = timedelta(milliseconds=10)


class Listed:
    """A feed of given batches."""

    def __init__(self, *batches: Batch) -> None:
        self.batches = list(batches)

    async def read(self, recall: Recall, limit: int) -> Batch:
        at = int(str((await recall(["at"])).get("at", 0)))
        if at >= len(self.batches):
            return Batch()
        batch = self.batches[at]
        return Batch(changes=batch.changes, poison=batch.poison, note=batch.note, marks={"at": at + 1})

    async def settle(self, batch: Batch) -> None:
        pass

    async def close(self) -> None:
        pass


def upsert(document_id: str, version: int | None, text: str | None = "some text") -> Change:
    return Change(action=Action.UPSERT, document_id=document_id, version=version, text=text)


def delete(document_id: str, version: int | None) -> Change:
    return Change(action=Action.DELETE, document_id=document_id, version=version)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with perdure.open("memory:", worker=False, embedder="hashing", poll_seconds=0.02) as opened:
        yield opened


async def jobs_of(app: App, *states: JobState) -> list[tuple[str | None, object]]:
    found = (await app.jobs.page(JobFilter(tenant="default", states=states), limit=500)).jobs
    return sorted((job.document_id, job.payload["version"]) for job in found)


async def until(done: object) -> None:
    async with asyncio.timeout(10):
        while not await done():  # type: ignore[operator]
            await asyncio.sleep(0.01)


def test_of_each_document_the_last_state_counts_and_an_older_version_never() -> None:
    changes = (
        upsert("a", 1),
        upsert("b", 5),
        upsert("a", 3),
        upsert("a", 2),
        delete("b", 6),
        upsert("c", None),
    )
    assert [(c.document_id, c.version, str(c.action)) for c in last_of_each(changes)] == [
        ("a", 3, "upsert"),
        ("b", 6, "delete"),
        ("c", None, "upsert"),
    ]


async def test_an_event_that_comes_twice_is_one_job_and_an_older_waiting_one_is_not_needed(app: App) -> None:
    assert await take(app, [upsert("a", 1)]) == []
    assert await take(app, [upsert("a", 1)]) == []
    assert await jobs_of(app) == [("a", 1)]
    assert await take(app, [upsert("a", 2)]) == []
    assert await jobs_of(app, JobState.PENDING) == [("a", 2)]
    assert await jobs_of(app, JobState.CANCELLED) == [("a", 1)]


async def test_a_delete_cancels_and_its_repeat_leaves_what_came_later(app: App) -> None:
    await take(app, [upsert("a", 1)])
    await take(app, [delete("a", 2)])
    assert await jobs_of(app, JobState.PENDING) == []
    await take(app, [upsert("a", 3)])
    await take(app, [delete("a", 2)])
    assert await jobs_of(app, JobState.PENDING) == [("a", 3)]
    assert await take(app, [delete("never there", 1)]) == []


async def test_what_is_no_file_any_more_is_not_parked(app: App, tmp_path: Path) -> None:
    """It went meanwhile; what is in its place now, the next look tells."""
    for path in (tmp_path, tmp_path / "gone"):
        assert await take(app, [Change(action=Action.UPSERT, document_id="a", path=str(path))]) == []


@pytest.mark.parametrize("back", [False, True])
async def test_a_job_whose_file_went_before_it_was_read_ends_as_the_feed_tells(
    app: App, tmp_path: Path, back: bool
) -> None:
    file = tmp_path / "leave.md"
    file.write_text("Thirty days of leave.")
    feed = FolderFeed(tmp_path, settled=0.0, watch=False)
    runner = make_runner(app, "f", feed)
    assert await runner._lead()
    while not await jobs_of(app):
        await runner.carry(await feed.read(runner._recall, 100))
    by_hand = await app.ingest(file, document_id="by hand")
    file.unlink()
    worker = app.make_worker()
    running = asyncio.create_task(worker.run())
    failed = await app.wait(by_hand.id, timeout=10)
    assert failed.failure is not None
    assert (failed.state, failed.failure.type) == (JobState.FAILED, "DocumentUnreadable")
    (job,) = (await app.jobs.page(JobFilter(tenant="default", document_id="leave.md"))).jobs

    async def looked() -> bool:
        return (await app.jobs.get(job.id, tenant="default")).attempt == 1

    await until(looked)
    if back:
        file.write_text("Twenty-eight days of leave.")
    await runner.carry(await feed.read(runner._recall, 100))
    assert (await app.wait(job.id, timeout=10)).state is JobState.CANCELLED
    history = await app.jobs.history(job.id, tenant="default")
    assert "there is no such file any more" in str(history)
    assert ("superseded by" if back else "its document was deleted") in str(history[-1])

    async def as_the_folder() -> bool:
        texts = [hit.chunk_text for hit in await app.search("days of leave")]
        return texts == ["Twenty-eight days of leave."] * back

    await until(as_the_folder)
    worker.stop()
    await running


async def test_a_file_that_only_the_feed_sees_fails_its_job(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "PATIENCE", 0.0)
    file = tmp_path / "leave.md"
    file.write_text("Thirty days of leave.")
    await take(app, [Change(action=Action.UPSERT, document_id="leave.md", path=str(file))])
    (job,) = (await app.jobs.page(JobFilter(tenant="default"))).jobs
    file.unlink()
    worker = app.make_worker()
    running = asyncio.create_task(worker.run())
    ended = await app.wait(job.id, timeout=10)
    assert ended.failure is not None
    assert (ended.state, ended.attempt) == (JobState.FAILED, ended.max_attempts)
    assert "leave.md: there is no such file any more; put it back" in ended.failure.message
    worker.stop()
    await running


async def test_poison_is_parked_with_its_reason_and_can_be_replayed(app: App) -> None:
    unreadable = Poison(id="x", reason="no JSON", event="{")
    feed = Listed(Batch(changes=(upsert("a", 1), upsert("b", 1, None)), poison=(unreadable,), note="scanned"))
    runner = make_runner(app, "f", feed, poll=QUICK)
    task = asyncio.create_task(runner.run())
    feeds = feeds_of(app)

    async def both() -> bool:
        return len(await feeds.parked("f", 10)) == 2

    await until(both)
    runner.stop()
    await task
    assert await jobs_of(app) == [("a", 1)]
    by_id = {poison.id: poison for poison in await feeds.parked("f", 10)}
    assert by_id.pop("x").reason == "no JSON"
    (parked,) = by_id.values()
    assert "neither" in parked.reason
    status = (await feeds.all())[0]
    assert (status.upserts, status.parked, status.note, status.leader) == (2, 2, "scanned", "")
    with pytest.raises(NotFound, match="not readable"):
        await feeds.replay("f", "x", lambda changes: take(app, changes))
    with pytest.raises(InvalidInput, match=r"still can't be carried out.*neither"):
        await feeds.replay("f", parked.id, lambda changes: take(app, changes))

    async def repaired(_: object) -> list[Poison]:
        return []

    await feeds.replay("f", parked.id, repaired)
    assert [poison.id for poison in await feeds.parked("f", 10)] == ["x"]


async def nothing() -> None:
    pass


async def test_one_of_two_reads_and_the_other_goes_on_when_it_is_gone(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Listed(*(Batch(changes=(upsert(f"d{n}", 1),)) for n in range(3)))
    lease = timedelta(milliseconds=300)
    runners = [make_runner(app, "f", feed, reader=name, poll=QUICK, lease=lease) for name in ("one", "two")]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]

    async def all_read() -> bool:
        return len(await jobs_of(app)) == 3

    await until(all_read)

    told = (await feeds_of(app).all())[0]
    assert told.leader in {"one", "two"}
    leader = ("one", "two").index(told.leader)
    monkeypatch.setattr(runners[leader], "_resign", nothing)
    tasks[leader].cancel()  # it dies, and says nothing
    feed.batches.append(Batch(changes=(upsert("late", 1),)))

    async def late() -> bool:
        return ("late", 1) in await jobs_of(app)

    await until(late)
    assert (await feeds_of(app).all())[0].leader == ("one", "two")[1 - leader]
    runners[1 - leader].stop()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(await jobs_of(app)) == 4


class Gate(Documents):
    """Stands still before it carries anything out, while it is closed."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self.open, self.reached = asyncio.Event(), asyncio.Event()

    async def take(self, changes: Sequence[Change]) -> list[Poison]:
        self.reached.set()
        await self.open.wait()
        return await super().take(changes)


async def test_a_reader_that_stood_still_and_wakes_takes_nothing_away_that_another_brought(
    tmp_path: Path,
) -> None:
    """Else the document would stay away until the next change of readers, for who reads has seen its file."""
    async with perdure.open("memory:", embedder="hashing", poll_seconds=0.02) as app:
        file = tmp_path / "leave.md"
        file.write_text("Thirty days of leave.")
        feed, gate = FolderFeed(tmp_path, settled=0.0, watch=False), Gate(app)
        asleep = make_runner(app, "f", feed, gate, reader="asleep", lease=timedelta(milliseconds=100))
        gate.open.set()
        assert await asleep._lead()

        async def found(text: str) -> bool:
            if asleep.status.upserts == 0:
                await asleep.carry(await feed.read(asleep._recall, 100))
            return [hit.chunk_text for hit in await app.search("days of leave")] == [text]

        await until(lambda: found("Thirty days of leave."))
        gate.open.clear()
        gate.reached.clear()
        file.unlink()
        gone = await feed.read(asleep._recall, 100)
        late = asyncio.create_task(asleep.carry(gone))
        await gate.reached.wait()
        file.write_text("Twenty-eight days of leave.")
        awake = make_runner(app, "f", FolderFeed(tmp_path, settled=0.0, watch=False), poll=QUICK)
        reading = asyncio.create_task(awake.run())
        await until(lambda: found("Twenty-eight days of leave."))
        gate.open.set()
        with pytest.raises(StoreError, match="another reader"):
            await late
        assert await found("Twenty-eight days of leave.")
        gate.reached.clear()
        with pytest.raises(StoreError, match="another reader"):
            await asleep.carry(gone)
        assert not gate.reached.is_set()  # it knows before it does anything
        awake.stop()
        await reading


async def test_what_was_read_is_counted_when_the_reader_dies(app: App) -> None:
    feed = Listed(Batch(changes=(upsert("a", 1), delete("b", 1))), Batch(changes=(upsert("c", 1, None),)))
    runner = make_runner(app, "f", feed, reader="dies")
    assert await runner._lead()
    for told in ((1, 1, 0), (2, 1, 1)):
        await runner.carry(await feed.read(runner._recall, 100))
        status = (await feeds_of(app).all())[0]
        assert (status.upserts, status.deletes, status.parked) == told


async def test_nothing_is_read_while_too_much_waits(app: App) -> None:
    feed = Listed(*(Batch(changes=(upsert(f"d{n}", 1),)) for n in range(5)))
    runner = make_runner(app, "f", feed, poll=QUICK, most_pending=2)
    task = asyncio.create_task(runner.run())
    await asyncio.sleep(0.3)
    assert len(await jobs_of(app)) == 2
    runner.stop()
    await task


async def test_workers_follow_the_feeds_of_settings_and_code(tmp_path: Path) -> None:
    (tmp_path / "leave.md").write_text("Thirty days of leave.")
    url = f"folder:{tmp_path}?settled=0"
    opened = perdure.open(
        "memory:", embedder="hashing", poll_seconds=0.02, feeds=f"inbox@acme/hr={url}; second@beta={url}"
    )
    opened.follow("broken", Broken(), tenant="acme")
    async with opened as app:

        async def found() -> bool:
            acme = await app.search("leave", tenant="acme", namespace="hr")
            return bool(acme and await app.search("leave", tenant="beta"))

        await until(found)
        by_name = {status.name: status for status in await feeds_of(app).all()}
        assert {name: status.tenant for name, status in by_name.items()} == {
            "broken": "acme",
            "inbox": "acme",
            "second": "beta",
        }
        assert by_name["inbox"].leader


class Broken(Listed):
    """A feed with a bug: its worker goes on."""

    async def read(self, recall: Recall, limit: int) -> Batch:
        raise RuntimeError("a bug")


@pytest.mark.parametrize(
    "text",
    ["inbox", "inbox=", "inbox=ftp:x", "a=folder:x; a=folder:y", "a@b c=folder:x", "folder:x?settled=2"],
)
def test_feeds_of_settings_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        declared(text)


async def test_a_folder_becomes_searchable_and_stays_so(tmp_path: Path) -> None:
    async with perdure.open("memory:", embedder="hashing", poll_seconds=0.02) as app:
        (tmp_path / "leave.md").write_text("Thirty days of leave.")
        (tmp_path / "gone.md").write_text("Nobody needs this.")
        runner: FeedRunner = make_runner(app, "f", FolderFeed(tmp_path, settled=0.0), poll=QUICK)
        task = asyncio.create_task(runner.run())

        async def found(*want: str) -> bool:
            return {hit.chunk_text for hit in await app.search("days leave nobody")} == set(want)

        await until(lambda: found("Thirty days of leave.", "Nobody needs this."))
        (tmp_path / "leave.md").write_text("Twenty-eight days of leave.")
        (tmp_path / "gone.md").unlink()
        await until(lambda: found("Twenty-eight days of leave."))
        runner.stop()
        await task


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp:x", "expected folder:PATH"),
        ("folder:", "expected folder:PATH"),
        ("mongodb://h/only?text=x", "names no collection"),
        ("folder:x?settled=soon", "expected seconds"),
        ("folder:x?colour=red", "known are include, settled"),
    ],
)
def test_a_url_that_names_no_feed_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make_feed(url, tenant="default", namespace="default")
