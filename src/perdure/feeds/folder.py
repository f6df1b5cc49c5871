"""A folder: files that come, change, move and go.

Found by looking, not by notices of the system, which get lost and don't cross networks; they only spare looks (`Watch`). Each look walks the tree and
sums up what it sees, in buckets by path. Buckets whose sum is not that of the last look are taken in hand, up to a number of files, and compared with the manifest file by file;
a few changes are told at a time, so that a reader that is killed has done most of its work. So memory is bounded whatever the number of files, and a look at an unchanged folder
asks the store nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from functools import reduce
from hashlib import sha256
from itertools import islice
from operator import xor
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from perdure.domain.change import Action, Batch, Change, Marks, Poison
from perdure.domain.errors import StoreUnavailable
from perdure.domain.record import Json
from perdure.feeds.watching import Watch
from perdure.ports.change_feed import Recall

BUCKETS: Final = 1024
IN_HAND: Final = 100_000
"""Files that are compared after one walk."""
AT_ONCE: Final = 64
"""Buckets whose manifest is read by one call."""
PIECE: Final = 200
"""Changes after which no other bucket is added to a batch: what a dead reader had begun is begun anew."""
MAX_ID: Final = 500
MUCH: Final = 100
"""Files that hardly anybody deletes to the last one."""
ANNOUNCED: Final[list[Json]] = [0, -1]
"""In a manifest: this file will be told of next. Else its deletion would be missed, if a reader died when the job was there and the
manifest was not."""
ROOT: Final = "root"
"""The mark that says which folder it was, by device and inode."""
UNFINISHED: Final = (".part", ".tmp", ".crdownload", "~")


class _File(NamedTuple):
    """What a look tells of a file: path below the folder, times in ns, and whether it looks finished."""

    path: str
    mtime: int
    size: int
    ctime: int
    settled: bool


class FolderFeed:
    """The regular files below a folder; a document's id is the file's path below it.

    Symbolic links are not followed. Names that begin with a dot, and those that end as unfinished ones do (``.part``, ``.tmp``,
    ``.crdownload``, ``~``), are passed over. A file is told of when its size and time have not changed for `settled` seconds.

    Args:
        include: patterns of file names, e.g. ``*.md``; empty: all.
        watch: let notices of the file system spare looks, where the package watchdog is installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tenant: str = "default",
        namespace: str = "default",
        include: tuple[str, ...] = (),
        settled: float = 1.0,
        watch: bool = True,
    ) -> None:
        self._folder = folder.absolute()
        self._whose: dict[str, Any] = {"tenant": tenant, "namespace": namespace}
        self._include, self._settled = include, settled
        self._told: dict[int, int] = {}
        """Bucket → sum of its files when it was last compared with the manifest."""
        self._hand: dict[int, list[_File]] = {}
        """Buckets that are to be compared, with their files."""
        self._compared: list[int] = []
        # Anywhere: else of readers that die soon all would begin with the same buckets, and the last would never have their turn.
        self._next = random.randrange(BUCKETS)  # noqa: S311 - keeps no secret
        self._watch = Watch(self._folder, trusted=watch)
        self._at: list[Json] = []
        self._fresh: dict[str, tuple[int, int, float]] = {}
        """Path → size and time of a file that is too young, and since when it has looked so."""

    async def read(self, recall: Recall, limit: int) -> Batch:
        """The differences between folder and manifest, of as many buckets as make a batch."""
        if not self._hand and await asyncio.to_thread(self._worth_a_look):
            self._hand = await asyncio.to_thread(self._take_in_hand)
        if not self._hand:
            return Batch()
        batch = await self._piece(recall, max(min(limit, PIECE), MUCH + 1))
        if not (batch.changes or batch.poison or batch.marks):
            await self.settle(batch)
        return batch

    def _take_in_hand(self) -> dict[int, list[_File]]:
        """Buckets that are not as they were told, beginning after those that had their turn last."""
        seen = self._sums()
        turns = sorted(range(BUCKETS), key=lambda bucket: (bucket - self._next) % BUCKETS)
        picked: list[int] = []
        files = 0
        for bucket in turns:
            total, number = seen.get(bucket, (0, 0))
            if self._told.get(bucket) == total:
                continue
            files += number
            if picked and files > IN_HAND:
                break
            picked.append(bucket)
        if not picked:
            self._watch.saw(unsettled=bool(self._fresh))
            return {}
        self._watch.found()
        self._next = picked[-1] + 1
        return self._look(picked)

    async def _piece(self, recall: Recall, enough: int) -> Batch:
        """The next buckets in hand; those with a file that is only announced stay there."""
        batch, announced = Batch(), 0
        self._compared = []
        manifest: Marks = {}
        for number, (bucket, files) in enumerate(self._hand.items()):
            if number % AT_ONCE == 0:
                ahead = islice(self._hand, number, number + AT_ONCE)
                manifest = await recall([_key(one) for one in ahead])
            batch, new = self._compare(bucket, files, manifest.get(_key(bucket)) or {}, batch)
            announced += new
            if not new:
                self._compared.append(bucket)
            if len(batch.changes) + len(batch.poison) + announced >= enough:
                break
        return await self._guarded(batch, recall)

    def _worth_a_look(self) -> bool:
        if (root := self._root()) != self._at:
            self._at = root
            self._watch.close()  # it watches the folder that was here before
        return self._watch.worth_a_look()

    async def _guarded(self, batch: Batch, recall: Recall) -> Batch:
        """Lets nothing be deleted because a disk is not mounted: its mount point is a folder, too, and empty.

        Raises:
            StoreUnavailable: there is nothing at all, where many files were, or where another folder was.
        """
        root = self._root()
        if root != self._at:
            self._hand = {}
            raise StoreUnavailable(f"{self._folder} became another folder after it was looked at")
        if not batch.marks:
            return batch
        if not await asyncio.to_thread(lambda: any(self._folder.iterdir())):
            was = (await recall([ROOT])).get(ROOT, root)
            if len(batch.changes) > MUCH or (batch.changes and was != root):
                self._hand = {}
                raise StoreUnavailable(
                    f"{self._folder} is empty, and {len(batch.changes)} files were there; mount it, or put a file .keep there "
                    "if all of them were deleted on purpose"
                )
        return msgspec.structs.replace(batch, marks={**batch.marks, ROOT: root})

    def _compare(self, bucket: int, files: list[_File], before: Any, batch: Batch) -> tuple[Batch, int]:
        """The batch with what is new of this bucket, and how many of its files are only announced."""
        announced = 0
        changes: list[Change] = []
        poison: list[Poison] = []
        after: dict[str, Json] = {}
        for file in files:
            if not _names_a_document(file.path):
                poison.append(_unnamable(file.path))
            elif file.path in before and (not file.settled or before[file.path] == [file.mtime, file.size]):
                after[file.path] = before[file.path]
            elif file.settled and file.path not in before:
                after[file.path] = ANNOUNCED
                announced += 1
            elif file.settled:
                after[file.path] = [file.mtime, file.size]
                changes.append(self._upsert(file))
        there = {file.path for file in files}
        gone = [
            Change(action=Action.DELETE, document_id=path, path=str(self._folder / path), **self._whose)
            for path in before
            if path not in there
        ]
        more = Batch(
            changes=(*batch.changes, *changes, *gone),
            poison=(*batch.poison, *poison),
            marks={**batch.marks, **({_key(bucket): after or None} if after != before else {})},
        )
        return more, announced

    def _upsert(self, file: _File) -> Change:
        return Change(
            action=Action.UPSERT,
            document_id=file.path,
            # A file that went and came back with its old time has another ctime.
            etag=f"{file.mtime}-{file.size}-{file.ctime}",
            path=str(self._folder / file.path),
            name=file.path.rpartition("/")[2],
            at=max(file.mtime, file.ctime) / 1e9,
            **self._whose,
        )

    async def settle(self, batch: Batch) -> None:
        """The manifest has been written: these buckets need no second look until they change."""
        for bucket in self._compared:
            self._told[bucket] = _sum(self._hand.pop(bucket))
        self._compared = []

    async def close(self) -> None:
        """Forget what was seen: another reader may go on meanwhile."""
        self._told, self._hand, self._compared, self._fresh = {}, {}, [], {}
        await asyncio.to_thread(self._watch.close)

    # --- the tree ---------------------------------------------------------------------------

    def _sums(self) -> dict[int, tuple[int, int]]:
        """Bucket → (sum over its files, number of them)."""
        sums: dict[int, tuple[int, int]] = {}
        for file in self._walk():
            total, number = sums.get(bucket := _bucket(file.path), (0, 0))
            sums[bucket] = (total ^ hash(file), number + 1)
        return sums

    def _look(self, picked: list[int]) -> dict[int, list[_File]]:
        found: dict[int, list[_File]] = {bucket: [] for bucket in picked}
        for file in self._walk():
            if (bucket := _bucket(file.path)) in found:
                found[bucket].append(file)
        return found

    def _walk(self) -> Iterator[_File]:
        root = self._root()
        now = time.time()
        fresh: dict[str, tuple[int, int, float]] = {}
        folders = [str(self._folder)]
        start = len(folders[0].rstrip("/")) + 1
        while folders:
            for entry in _entries(folders.pop()):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif self._wanted(entry.name) and (stat := _stat(entry)) is not None:
                    path = entry.path[start:]
                    settled = self._has_settled(path, stat, now, fresh)
                    yield _File(path, stat.st_mtime_ns, stat.st_size, stat.st_ctime_ns, settled)
        if self._root() != root:
            raise StoreUnavailable(f"{self._folder} became another folder while it was looked at")
        self._fresh = fresh

    def _root(self) -> list[Json]:
        """What tells this folder from the one that is there without the disk, by device and inode."""
        if not self._folder.is_dir():
            # A disk that is not mounted is no reason to delete everything.
            raise StoreUnavailable(f"there is no folder {self._folder}; mount it, or make it")
        stat = self._folder.stat()
        return [stat.st_dev, stat.st_ino]

    def _has_settled(self, path: str, stat: os.stat_result, now: float, fresh: dict[str, Any]) -> bool:
        if self._settled <= now - max(stat.st_mtime, stat.st_ctime):
            return True
        # Still being written, or the clock jumped: it has settled once it looked alike for so long.
        size, mtime, since = self._fresh.get(path, (-1, 0, now))
        if (size, mtime) != (stat.st_size, stat.st_mtime_ns) or since > now:
            since = now
        fresh[path] = (stat.st_size, stat.st_mtime_ns, since)
        return now - since >= self._settled

    def _wanted(self, name: str) -> bool:
        if name.endswith(UNFINISHED):
            return False
        return not self._include or any(fnmatch(name, pattern) for pattern in self._include)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return  # it went meanwhile
    except OSError as error:
        raise StoreUnavailable(f"can't look into {folder}: {error.strerror}; make it readable") from None


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of a regular file that is still there."""
    with suppress(FileNotFoundError):
        stat = entry.stat(follow_symlinks=False)
        return stat if S_ISREG(stat.st_mode) else None
    return None


def _bucket(path: str) -> int:
    return crc32(os.fsencode(path)) % BUCKETS


def _key(bucket: int) -> str:
    return f"{bucket:04}"


def _sum(files: list[_File]) -> int:
    return reduce(xor, map(hash, files), 0)


def _names_a_document(path: str) -> bool:
    return len(path) <= MAX_ID and "\n" not in path and path == path.encode(errors="replace").decode()


def _unnamable(path: str) -> Poison:
    said = os.fsencode(path)
    return Poison(
        id=sha256(said).hexdigest()[:32],
        reason=f"this path can't name a document: expected UTF-8, one line, at most {MAX_ID} characters; rename the file",
        event=repr(said)[:1000],
    )
