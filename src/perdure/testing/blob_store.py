"""The contract of `perdure.ports.blob_store.BlobStore`, as tests: subclass it with a fixture `blobs` and `advance`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

import pytest

from perdure.domain.errors import NotFound
from perdure.ports.blob_store import BlobStore

MIB = 1024 * 1024
HOUR = timedelta(hours=1)


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Give the pieces one by one, letting others run in between."""
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


async def failing(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Give the pieces, then fail as a client does that goes away."""
    async for piece in stream(pieces):
        yield piece
    raise ConnectionResetError("the client went away")


async def content(blobs: BlobStore, tenant: str, blob_id: str) -> bytes:
    """All bytes of a blob."""
    return b"".join([piece async for piece in blobs.read(tenant, blob_id)])


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which a piece that is lost, doubled or moved is seen."""
    return random.Random(seed).randbytes(size)


class BlobStoreContract:
    """Everything that a blob store promises."""

    pytestmark = pytest.mark.asyncio

    async def advance(self, blobs: BlobStore, step: timedelta) -> None:
        """Let the store's clock go on."""
        raise NotImplementedError("a blob store's clock must be movable to test what is aged")

    @pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 5 * MIB + 17])
    @pytest.mark.parametrize("cut", [1000, MIB, 2 * MIB + 5])
    async def test_what_is_read_is_what_was_written(self, blobs: BlobStore, size: int, cut: int) -> None:
        data = pattern(size)
        pieces = [data[start : start + cut] for start in range(0, size, cut)]
        assert await blobs.write("acme", "upload", stream(pieces)) == size
        read = [piece async for piece in blobs.read("acme", "upload")]
        assert b"".join(read) == data
        assert all(0 < len(piece) <= MIB for piece in read)

    async def test_empty_pieces_do_no_harm(self, blobs: BlobStore) -> None:
        assert await blobs.write("acme", "upload", stream([b"", b"ab", b"", b"c", b""])) == 3
        assert await content(blobs, "acme", "upload") == b"abc"

    async def test_an_unknown_blob_is_not_found(self, blobs: BlobStore) -> None:
        with pytest.raises(NotFound):
            await content(blobs, "acme", "upload")

    async def test_a_tenant_sees_only_its_own(self, blobs: BlobStore) -> None:
        await blobs.write("acme", "upload", stream([b"secret"]))
        with pytest.raises(NotFound):
            await content(blobs, "bolt", "upload")
        assert not await blobs.delete("bolt", "upload")
        await blobs.write("bolt", "upload", stream([b"other"]))
        assert await content(blobs, "acme", "upload") == b"secret"

    @pytest.mark.parametrize("size", [3, 3 * MIB])
    async def test_writing_again_replaces_the_whole(self, blobs: BlobStore, size: int) -> None:
        await blobs.write("acme", "upload", stream([pattern(2 * MIB)]))
        assert await blobs.write("acme", "upload", stream([pattern(size, 9)])) == size
        assert await content(blobs, "acme", "upload") == pattern(size, 9)

    async def test_nothing_is_read_before_it_is_whole(self, blobs: BlobStore) -> None:
        async def watched() -> AsyncIterator[bytes]:
            yield pattern(2 * MIB)
            with pytest.raises(NotFound):
                await content(blobs, "acme", "upload")
            yield b"end"

        await blobs.write("acme", "upload", watched())
        assert await content(blobs, "acme", "upload") == pattern(2 * MIB) + b"end"

    async def test_a_write_that_fails_leaves_nothing(self, blobs: BlobStore) -> None:
        with pytest.raises(ConnectionResetError):
            await blobs.write("acme", "upload", failing([pattern(3 * MIB)]))
        with pytest.raises(NotFound):
            await content(blobs, "acme", "upload")
        assert not await blobs.delete("acme", "upload")

    async def test_a_write_that_fails_leaves_what_was_there(self, blobs: BlobStore) -> None:
        await blobs.write("acme", "upload", stream([b"before"]))
        with pytest.raises(ConnectionResetError):
            await blobs.write("acme", "upload", failing([pattern(3 * MIB)]))
        assert await content(blobs, "acme", "upload") == b"before"

    async def test_a_write_that_is_cancelled_leaves_nothing(self, blobs: BlobStore) -> None:
        arrived = asyncio.Event()

        async def stalled() -> AsyncIterator[bytes]:
            yield pattern(2 * MIB)
            arrived.set()
            await asyncio.Event().wait()

        writing = asyncio.create_task(blobs.write("acme", "upload", stalled()))
        await arrived.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        with pytest.raises(NotFound):
            await content(blobs, "acme", "upload")

    async def test_of_writes_at_once_one_stands_whole(self, blobs: BlobStore) -> None:
        versions = [pattern(2 * MIB + seed, seed) for seed in range(4)]
        await asyncio.gather(*(blobs.write("acme", "upload", stream([data])) for data in versions))
        assert await content(blobs, "acme", "upload") in versions

    async def test_a_reader_gets_one_version_or_is_told(self, blobs: BlobStore) -> None:
        await blobs.write("acme", "upload", stream([pattern(3 * MIB)]))
        reading = blobs.read("acme", "upload")
        pieces = [await anext(reading)]
        await blobs.write("acme", "upload", stream([pattern(3 * MIB, 9)]))
        try:
            pieces += [piece async for piece in reading]
        except NotFound:
            return
        assert b"".join(pieces) == pattern(3 * MIB)

    async def test_what_is_deleted_is_gone(self, blobs: BlobStore) -> None:
        await blobs.write("acme", "upload", stream([pattern(2 * MIB)]))
        await blobs.write("acme", "kept", stream([b"kept"]))
        assert await blobs.delete("acme", "upload")
        assert not await blobs.delete("acme", "upload")
        with pytest.raises(NotFound):
            await content(blobs, "acme", "upload")
        assert await content(blobs, "acme", "kept") == b"kept"

    async def test_aged_names_the_blobs_written_longer_ago(self, blobs: BlobStore) -> None:
        await blobs.write("acme", "old", stream([b"1"]))
        await blobs.write("bolt", "rewritten", stream([b"1"]))
        await self.advance(blobs, HOUR)
        await blobs.write("bolt", "rewritten", stream([b"2"]))
        assert await blobs.aged(timedelta(minutes=59)) == [("acme", "old")]
        assert await blobs.aged(timedelta(minutes=61)) == []
        await self.advance(blobs, HOUR)
        assert sorted(await blobs.aged(timedelta(minutes=59))) == [("acme", "old"), ("bolt", "rewritten")]

    async def test_setup_again_keeps_what_is_there(self, blobs: BlobStore) -> None:
        await blobs.write("acme", "upload", stream([b"kept"]))
        await asyncio.gather(blobs.setup(), blobs.setup())
        assert await content(blobs, "acme", "upload") == b"kept"

    async def test_closing_twice_is_fine(self, blobs: BlobStore) -> None:
        await blobs.close()
        await blobs.close()
