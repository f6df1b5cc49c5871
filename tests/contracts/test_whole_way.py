"""The whole way through each networked job store, as a program opens it: by its URL alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

import perdure
from perdure.domain.errors import InvalidInput
from perdure.domain.state import Event, JobState
from tests.servers.mongodb import mongodb_url
from tests.servers.postgres import fresh_database
from tests.servers.redis import fresh, redis_url

pytestmark = pytest.mark.server


async def goes_the_whole_way(url: str, folder: Path, vectors: str | None = None) -> None:
    """Submitted by one app, run by another, looked up and found by a third: what a deploy does."""
    vectors = vectors or f"sqlite:///{folder / 'vectors.db'}"
    (folder / "leave.md").write_text("# Leave\n\nThirty days of leave.\n")
    async with perdure.open(url, vectors=vectors, embedder="hashing", worker=False) as app:
        job = await app.ingest(folder / "leave.md", document_id="leave.md", user_id="ada")
    async with perdure.open(url, vectors=vectors, embedder="hashing") as app:
        assert (await app.wait(job.id, timeout=120)).state is JobState.COMPLETED
    async with perdure.open(url, vectors=vectors, embedder="hashing", worker=False) as app:
        kept = await app.jobs.get(job.id, tenant="default")
        assert (kept.state, kept.user_id, kept.attempt) == (JobState.COMPLETED, "ada", 1)
        story = await app.jobs.history(job.id, tenant="default")
        assert [entry.event for entry in story] == [Event.ADDED, Event.COMPLETED]
        assert [hit.document_id for hit in await app.search("leave")] == ["leave.md"]


@pytest.mark.xdist_group("postgres")
async def test_postgresql(postgres_url: str, tmp_path: Path) -> None:
    async with fresh_database(postgres_url) as url:
        await goes_the_whole_way(url, tmp_path)


@pytest.mark.xdist_group("postgres")
async def test_postgresql_alone(postgres_url: str, tmp_path: Path) -> None:
    """One URL is all there is: jobs, chunks, and content that waits for its job, which another machine may read."""
    async with fresh_database(postgres_url) as url:
        await goes_the_whole_way(url, tmp_path, vectors=url)
        large = b"A large text about marmalade.\n\n" * 20_000
        async with perdure.open(url, embedder="hashing", worker=False) as app:
            job = await app.ingest_text(large.decode(), document_id="large.txt", namespace="large")
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM perdure_blobs") == 1
        async with perdure.open(url, embedder="hashing") as app:
            assert (await app.wait(job.id, timeout=120)).state is JobState.COMPLETED
            hits = await app.search("marmalade", namespace="large")
            assert {hit.document_id for hit in hits} == {"large.txt"}
            assert await connection.fetchval("SELECT count(*) FROM perdure_chunks") == len(
                await app.vectors.chunks("default", "large", "large.txt", 10_000)
            ) + len(await app.vectors.chunks("default", "default", "leave.md", 10))
            while await connection.fetchval("SELECT count(*) FROM perdure_blobs"):
                await asyncio.sleep(0.05)
            used = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            assert await connection.fetchval(used) <= 11, "one pool for all, and one that listens"
        await connection.close()


@pytest.mark.xdist_group("redis")
async def test_redis(tmp_path: Path) -> None:
    with redis_url("valkey") as url:
        await goes_the_whole_way(fresh(url), tmp_path)


@pytest.mark.xdist_group("mongodb")
async def test_mongodb(tmp_path: Path) -> None:
    with mongodb_url() as url:
        await goes_the_whole_way(url, tmp_path)


async def test_a_store_without_vectors_asks_for_a_place() -> None:
    with pytest.raises(InvalidInput, match="PERDURE_VECTORS=sqlite"):
        async with perdure.open("redis://127.0.0.1:1/0"):
            pass
