"""The blob stores keep the contract; what is special to SQLite's is below."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from perdure.blobs.memory import MemoryBlobStore
from perdure.blobs.pieces import ABANDONED
from perdure.blobs.postgres import PostgresBlobStore
from perdure.blobs.sqlite import SqliteBlobStore
from perdure.databases.sqlite import SqliteDatabase
from perdure.domain.errors import NotFound, StoreError, StoreUnavailable
from perdure.ports.blob_store import BlobStore
from perdure.testing.blob_store import MIB, BlobStoreContract, content, pattern, stream
from tests.servers.postgres import fresh_schema


class MovedByHand(BlobStoreContract):
    seconds = 1_000_000.0

    def clock(self) -> float:
        return self.seconds

    async def advance(self, blobs: BlobStore, step: timedelta) -> None:
        self.seconds += step.total_seconds()


class TestMemoryBlobStore(MovedByHand):
    @pytest_asyncio.fixture
    async def blobs(self) -> AsyncIterator[MemoryBlobStore]:
        blobs = MemoryBlobStore(self.clock)
        await blobs.setup()
        yield blobs
        await blobs.close()


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
class TestPostgresBlobStore(BlobStoreContract):
    url: str

    @pytest_asyncio.fixture
    async def blobs(self, postgres_url: str) -> AsyncIterator[PostgresBlobStore]:
        async with fresh_schema(postgres_url) as self.url:
            blobs = PostgresBlobStore(self.url)
            await blobs.setup()
            yield blobs
            await blobs.close()

    async def execute(self, statement: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    async def advance(self, blobs: BlobStore, step: timedelta) -> None:
        """The clock is the server's: all that is there grows older instead."""
        await self.execute(
            f"UPDATE perdure_blobs SET touched_at = touched_at - interval '{step.total_seconds()} s'"
        )

    async def pieces(self) -> int:
        return int((await self.execute("SELECT count(*) FROM perdure_blob_pieces"))[0][0])

    async def test_what_was_written_is_there_for_others(self, blobs: PostgresBlobStore) -> None:
        await blobs.write("acme", "upload", stream([pattern(3 * MIB)]))
        other = PostgresBlobStore(self.url)
        await other.setup()
        assert await content(other, "acme", "upload") == pattern(3 * MIB)
        await other.close()

    async def test_nothing_is_left_over(self, blobs: PostgresBlobStore) -> None:
        await self.test_a_write_that_fails_leaves_what_was_there(blobs)
        await self.test_writing_again_replaces_the_whole(blobs, MIB)
        assert await self.pieces() == 1
        assert await blobs.delete("acme", "upload")
        assert await self.pieces() == 0

    async def test_a_dead_write_is_removed_and_a_slow_one_is_told(self, blobs: PostgresBlobStore) -> None:
        async def slow() -> AsyncIterator[bytes]:
            yield pattern(2 * MIB)
            await self.advance(blobs, timedelta(minutes=59))
            await blobs.write("acme", "other", stream([b"sweeps"]))
            assert await self.pieces() == 3, "it may be a slow one that still lives"
            await self.advance(blobs, timedelta(minutes=2))
            await blobs.setup()
            yield pattern(2 * MIB)

        with pytest.raises(StoreError, match="write it again"):
            await blobs.write("acme", "upload", slow())
        assert await self.pieces() == 1
        with pytest.raises(NotFound):
            await content(blobs, "acme", "upload")

    async def test_a_closed_store_says_so(self, blobs: PostgresBlobStore) -> None:
        await blobs.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await blobs.delete("acme", "upload")


class TestSqliteBlobStore(MovedByHand):
    @pytest_asyncio.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[SqliteBlobStore]:
        self.path = tmp_path / "perdure.db"
        blobs = SqliteBlobStore(self.path, self.clock)
        await blobs.setup()
        yield blobs
        await blobs.close()

    async def pieces(self) -> int:
        """How many pieces lie in the file, readable or not."""
        database = await SqliteDatabase.open(self.path)
        try:
            return int(
                await database.read(
                    lambda connection: connection.execute("SELECT count(*) FROM blob_pieces").get
                )
            )
        finally:
            await database.close()

    async def test_what_was_written_survives_the_store(self, blobs: SqliteBlobStore) -> None:
        await blobs.write("acme", "upload", stream([pattern(3 * MIB)]))
        await blobs.close()
        again = SqliteBlobStore(self.path)
        await again.setup()
        assert await content(again, "acme", "upload") == pattern(3 * MIB)
        await again.close()

    async def test_nothing_is_left_over(self, blobs: SqliteBlobStore) -> None:
        await self.test_a_write_that_fails_leaves_what_was_there(blobs)
        await self.test_writing_again_replaces_the_whole(blobs, MIB)
        assert await self.pieces() == 1
        assert await blobs.delete("acme", "upload")
        assert await self.pieces() == 0

    async def test_what_a_dead_write_left_is_removed_later(self, blobs: SqliteBlobStore) -> None:
        seq = await blobs._begin("acme", "upload")
        for number in range(20):
            await blobs._add_piece(seq, number, b"half")  # and here the process dies
        await self.advance(blobs, ABANDONED - timedelta(seconds=1))
        await blobs.setup()
        assert await self.pieces() == 20, "it may be a slow one that still lives"
        await self.advance(blobs, timedelta(seconds=2))
        await blobs.setup()
        assert await self.pieces() == 0

    async def test_a_write_taken_for_dead_is_told(self, blobs: SqliteBlobStore) -> None:
        async def slow() -> AsyncIterator[bytes]:
            yield pattern(2 * MIB)
            await self.advance(blobs, ABANDONED + timedelta(seconds=1))
            await blobs.write("acme", "other", stream([b"sweeps"]))
            yield pattern(2 * MIB)

        with pytest.raises(StoreError, match="write it again"):
            await blobs.write("acme", "upload", slow())
        with pytest.raises(NotFound):
            await content(blobs, "acme", "upload")

    async def test_a_closed_store_says_so(self, blobs: SqliteBlobStore) -> None:
        await blobs.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await blobs.delete("acme", "upload")
