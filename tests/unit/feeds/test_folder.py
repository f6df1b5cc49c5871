"""The feed of a folder: the contract, and what files do."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure.domain.change import Action, Change
from perdure.domain.errors import StoreUnavailable
from perdure.domain.record import Json
from perdure.feeds.folder import MUCH, PIECE, FolderFeed
from perdure.testing.change_feed import ChangeFeedContract, Reader


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.feeds: list[FolderFeed] = []

    async def put(self, document_id: str, text: str) -> None:
        (self.path / document_id).write_text(text)

    async def remove(self, document_id: str) -> None:
        (self.path / document_id).unlink()

    async def rot(self) -> None:
        Path(os.fsdecode(os.fsencode(self.path) + b"/\xff.txt")).write_text("not UTF-8")

    async def text(self, change: Change) -> str:
        return Path(change.path or "").read_text()

    def feed(self, **options: Any) -> FolderFeed:
        self.feeds.append(FolderFeed(self.path, **({"settled": 0.0, "watch": False} | options)))
        return self.feeds[-1]


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Folder]:
    source = Folder(tmp_path)
    yield source
    for feed in source.feeds:
        await feed.close()


class TestFolderFeed(ChangeFeedContract):
    pass


def told(changes: tuple[Change, ...]) -> list[tuple[str, str]]:
    return sorted((change.document_id, str(change.action)) for change in changes)


async def test_a_renamed_file_goes_and_comes(source: Folder) -> None:
    (source.path / "sub").mkdir()
    await source.put("sub/a", "text")
    reader = Reader(source.feed(), {})
    assert told((await reader.drain()).changes) == [("sub/a", "upsert")]
    (source.path / "sub").rename(source.path / "other")
    assert told((await reader.drain()).changes) == [("other/a", "upsert"), ("sub/a", "delete")]


async def test_a_file_that_is_being_written_waits_and_its_old_content_stays(source: Folder) -> None:
    long_ago = time.time() - 3600
    feed = source.feed(settled=2.0)
    reader = Reader(feed, {})
    await source.put("a", "half")
    assert (await reader.drain()).changes == ()
    feed._settled = 0.0  # two seconds pass
    assert told((await reader.drain()).changes) == [("a", "upsert")]
    feed._settled = 1000.0
    await source.put("a", "half again")
    os.utime(source.path / "a", (long_ago, long_ago))  # as `cp -p` does: its inode has changed just now
    assert (await reader.drain()).changes == ()


async def test_a_file_of_a_clock_that_is_ahead_settles_all_the_same(source: Folder) -> None:
    feed = source.feed(settled=1000.0)
    reader = Reader(feed, {})
    await source.put("a", "text")
    os.utime(source.path / "a", (time.time() + 9e6, time.time() + 9e6))
    assert (await reader.drain()).changes == ()
    feed._settled = 0.0  # the time has passed
    assert told((await reader.drain()).changes) == [("a", "upsert")]


async def test_links_hidden_and_unfinished_files_are_passed_over(source: Folder) -> None:
    (source.path / "loop").symlink_to(source.path)
    (source.path / "link").symlink_to("/etc/hostname")
    os.mkfifo(source.path / "pipe")
    for name in (".hidden", "a.part", "b.tmp", "c~"):
        await source.put(name, "text")
    await source.put("real.md", "text")
    await source.put("real.txt", "text")
    assert told((await Reader(source.feed(), {}).drain()).changes) == [
        ("real.md", "upsert"),
        ("real.txt", "upsert"),
    ]
    only = source.feed(include=("*.md",))
    assert told((await Reader(only, {}).drain()).changes) == [("real.md", "upsert")]


async def test_a_file_that_comes_back_with_its_old_time_is_another_state(source: Folder) -> None:
    kept: dict[str, Json] = {}
    reader = Reader(source.feed(), kept)
    await source.put("a", "text")
    os.utime(source.path / "a", (1e9, 1e9))
    first = (await reader.drain()).changes[0]
    await source.remove("a")
    assert told((await reader.drain()).changes) == [("a", "delete")]
    await source.put("a", "text")
    os.utime(source.path / "a", (1e9, 1e9))
    second = (await reader.drain()).changes[0]
    assert (first.action, second.action) == (Action.UPSERT, Action.UPSERT)
    assert first.etag != second.etag


async def test_a_folder_that_is_not_mounted_deletes_nothing(source: Folder, tmp_path: Path) -> None:
    await source.put("a", "text")
    reader = Reader(source.feed(), {})
    await reader.drain()
    tmp_path.rename(tmp_path.with_name("unmounted"))
    with pytest.raises(StoreUnavailable, match="mount"):
        await reader.read()


async def test_an_empty_mount_point_deletes_nothing(source: Folder, tmp_path: Path) -> None:
    """Another, empty folder at the place, or one that lost a hundred files at once, is a disk that is not there."""
    for n in range(3):
        await source.put(f"{n}", "text")
    kept: dict[str, Json] = {}
    await Reader(source.feed(), kept).drain()
    mounted = tmp_path.with_name(f"{tmp_path.name}-mounted")
    tmp_path.rename(mounted)
    tmp_path.mkdir()
    reader = Reader(source.feed(), kept)
    with pytest.raises(StoreUnavailable, match=r"3 files were there.*\.keep"):
        await reader.read()
    tmp_path.rmdir()
    mounted.rename(tmp_path)
    assert (await reader.drain()).changes == ()
    for n in range(3):
        await source.remove(f"{n}")
    assert len((await reader.drain()).changes) == 3
    for n in range(MUCH + 1):
        await source.put(f"{n}", "text")
    await reader.drain()
    for n in range(MUCH + 1):
        await source.remove(f"{n}")
    with pytest.raises(StoreUnavailable, match="is empty"):
        await reader.read()
    await source.put(".keep", "")
    assert len((await reader.drain()).changes) == MUCH + 1


async def test_a_file_that_goes_while_its_reader_dies_is_taken_away(source: Folder) -> None:
    """The job may be there already, and nobody else would know of it."""
    kept: dict[str, Json] = {}
    first = Reader(source.feed(), kept)
    await source.put("a", "text")
    while not (batch := await first.read()).changes:
        await first.keep(batch)
    await source.remove("a")
    assert told((await Reader(source.feed(), kept).drain()).changes) == [("a", "delete")]


async def test_readers_that_die_after_each_batch_get_on(source: Folder) -> None:
    """However much waits: a batch is small enough to become durable before the next reader dies."""
    names = {f"{n:04}" for n in range(500)}
    for name in names:
        await source.put(name, "text")
    kept: dict[str, Json] = {}
    upserts: list[str] = []
    while len(upserts) < len(names):
        reader = Reader(source.feed(), kept)
        batch = await reader.read()
        assert batch.marks
        assert len(batch.changes) < PIECE
        upserts += [change.document_id for change in batch.changes]
        await reader.keep(batch)
    assert set(upserts) == names
    for name in names - {"0000"}:
        await source.remove(name)
    gone: set[str] = set()
    while len(gone) < 499:
        reader = Reader(source.feed(), kept)
        batch = await reader.read()
        assert 0 < len(batch.changes) < PIECE
        gone |= {change.document_id for change in batch.changes}
        await reader.keep(batch)


async def test_readers_that_die_early_do_not_all_begin_with_the_same_files(source: Folder) -> None:
    """While more changes than a reader tells in its life, each file has its turn all the same."""
    names = {f"{n:04}" for n in range(2 * PIECE)}
    for name in names:
        await source.put(name, "text")
    kept: dict[str, Json] = {}
    await Reader(source.feed(), kept).drain()
    for name in names:
        await source.put(name, "changed")
    told: set[str] = set()
    for _ in range(100):
        # It dies before its batch is durable.
        told |= {change.document_id for change in (await Reader(source.feed(), kept).read()).changes}
        if told == names:
            return
    raise AssertionError(f"{len(names - told)} files never had their turn")


async def until_quiet(reader: Reader, looks: list[None]) -> None:
    async with asyncio.timeout(20):
        while True:
            before = len(looks)
            assert (await reader.read()).changes == ()
            if len(looks) == before:
                return
            await asyncio.sleep(0.05)


async def test_a_quiet_folder_is_not_looked_at_until_a_notice_comes(
    source: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.feeds.watching.WARM_UP", 0.05)
    looks: list[None] = []
    sums = FolderFeed._sums

    def counted(feed: FolderFeed) -> dict[int, tuple[int, int]]:
        looks.append(None)
        return sums(feed)

    monkeypatch.setattr(FolderFeed, "_sums", counted)
    (source.path / "sub").mkdir()
    await source.put("sub/a", "text")
    feed = source.feed(watch=True)
    reader = Reader(feed, {})
    await reader.drain()
    await until_quiet(reader, looks)
    for do in (source.put("sub/a", "changed"), source.put("b", "new"), source.remove("sub/a")):
        await do
        async with asyncio.timeout(20):
            while not (batch := await reader.read()).changes:
                await reader.keep(batch)
                await asyncio.sleep(0.05)
        await reader.keep(batch)
        await until_quiet(reader, looks)
    # What no notice told of, as on a disk of another machine, is found by the rescan, which then trusts them no more.
    monkeypatch.setattr("perdure.feeds.watching.RESCAN", 0.0)
    monkeypatch.setattr(feed._watch, "_stir", lambda: None)
    feed._watch._observer.unschedule_all()
    await source.put("c", "text")
    assert told((await reader.drain()).changes) == [("c", "upsert")]
    assert not feed._watch._trusted
    await feed.close()


async def test_without_notices_each_look_is_one(source: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchdog", None)
    reader = Reader(source.feed(watch=True), {})
    for n in range(3):
        await source.put(f"{n}", "text")
        assert told((await reader.drain()).changes) == [(f"{n}", "upsert")]


async def test_an_idle_folder_asks_the_store_nothing(source: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    await source.put("a", "text")
    reader = Reader(source.feed(), {})
    await reader.drain()
    asked: list[object] = []

    async def recall(keys: object) -> dict[str, Json]:
        asked.append(keys)
        return {}

    monkeypatch.setattr(reader, "_recall", recall)
    assert (await reader.read()).changes == ()
    assert asked == []
