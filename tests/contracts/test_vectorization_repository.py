"""Vectorization records over a job store: what a pipeline that runs its own work keeps here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.domain import transition as move
from perdure.domain.errors import IllegalTransition, InvalidInput, NotFound
from perdure.domain.record import Json
from perdure.ports.job_store import JobStore
from perdure.stores.memory import MemoryJobStore
from perdure.stores.sqlite import SqliteJobStore
from perdure.testing.builders import make_job, make_stamp
from perdure.testing.clock import MovableClock
from perdure.vectorization import (
    RECORD,
    RUN,
    VectorizationJobRepository,
    VectorizationJobStatus,
    VectorizationResult,
)

RUNNING, COMPLETED = VectorizationJobStatus.RUNNING, VectorizationJobStatus.COMPLETED
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def store(
    request: pytest.FixtureRequest, clock: MovableClock, tmp_path: Path
) -> AsyncIterator[JobStore]:
    made = MemoryJobStore(clock) if request.param == "memory" else SqliteJobStore(tmp_path / "jobs.db", clock)
    await made.setup()
    yield made
    await made.close()


@pytest.fixture
def repository(store: JobStore) -> VectorizationJobRepository:
    return VectorizationJobRepository(store)


def record(**over: Any) -> VectorizationResult:
    return VectorizationResult(**{"job_id": str(uuid4()), "document_id": "handbook", **over})


def completed(job: VectorizationResult) -> VectorizationResult:
    return replace(
        job,
        status=COMPLETED,
        chunks_total=9,
        chunks_embedded=8,
        chunks_stored=8,
        failed_count=1,
        content_hash="ab12",
        failed_chunks=[{"index": 3, "reason": "too long"}],
        vector_ids=["v1", "v2"],
        started_at=datetime(2031, 5, 4, 12, 0, 0, 1, tzinfo=UTC),
        completed_at=datetime(2031, 5, 4, 12, 0, 9, 2, tzinfo=UTC),
    )


async def test_a_record_comes_back_as_it_was(repository: VectorizationJobRepository) -> None:
    job = record(document_version=3, namespace="hr")
    assert await repository.create(job) == job.job_id
    assert await repository.get(job.job_id) == job


async def test_an_unknown_record_is_none(repository: VectorizationJobRepository) -> None:
    assert await repository.get(str(uuid4())) is None


async def test_creating_it_again_changes_nothing(repository: VectorizationJobRepository) -> None:
    job = record()
    await repository.create(job)
    await repository.update(completed(job))
    assert await repository.create(job) == job.job_id
    assert await repository.get(job.job_id) == completed(job)


async def test_an_update_is_what_is_read_then(repository: VectorizationJobRepository) -> None:
    job = record()
    await repository.create(job)
    for told in (replace(job, status=RUNNING), replace(job, status=RUNNING, chunks_total=9), completed(job)):
        await repository.update(told)
        await repository.update(told)
        assert await repository.get(job.job_id) == told


async def test_updates_at_once_leave_one_of_them(repository: VectorizationJobRepository) -> None:
    job = record(status=RUNNING)
    await repository.create(job)
    told = [replace(job, chunks_total=number) for number in range(5)]
    await asyncio.gather(*(repository.update(one) for one in told))
    assert await repository.get(job.job_id) in told


async def test_an_update_of_nothing_says_so(repository: VectorizationJobRepository) -> None:
    with pytest.raises(NotFound, match="create it first"):
        await repository.update(record())


async def test_a_finished_record_stays_as_it_is(repository: VectorizationJobRepository) -> None:
    job = record()
    await repository.create(job)
    await repository.update(completed(job))
    with pytest.raises(IllegalTransition, match="completed"):
        await repository.update(replace(job, status=RUNNING))
    assert await repository.get(job.job_id) == completed(job)


@pytest.mark.parametrize("over", [{"job_id": "7"}, {"status": COMPLETED}], ids=str)
async def test_a_record_that_does_not_fit_is_refused(
    repository: VectorizationJobRepository, over: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput):
        await repository.create(record(**over))


async def test_lists_by_document_and_by_status(repository: VectorizationJobRepository) -> None:
    jobs = [record(document_id=name) for name in ("a", "b", "a")]
    for job in jobs:
        await repository.create(job)
    await repository.update(completed(jobs[0]))
    by_document = await repository.list_by_document("a")
    assert {job.job_id for job in by_document} == {jobs[0].job_id, jobs[2].job_id}
    assert await repository.list_by_status(COMPLETED) == [completed(jobs[0])]
    assert len(await repository.list_by_status(VectorizationJobStatus.PENDING)) == 2
    assert await repository.list_by_status(VectorizationJobStatus.FAILED) == []


async def test_a_finished_record_expires_and_an_unfinished_never(
    repository: VectorizationJobRepository, clock: MovableClock
) -> None:
    ended, going = record(), record(status=RUNNING)
    for job in (ended, going):
        await repository.create(job)
    await repository.update(completed(ended))
    clock.advance(23 * HOUR)
    assert await repository.get(ended.job_id) == completed(ended)
    clock.advance(2 * HOUR)
    assert await repository.get(ended.job_id) is None
    assert await repository.get(going.job_id) == going


async def test_no_worker_takes_a_record_and_none_is_overdue(
    repository: VectorizationJobRepository, store: JobStore, clock: MovableClock
) -> None:
    for status in (VectorizationJobStatus.PENDING, RUNNING):
        await repository.create(record(status=status))
    clock.advance(1000 * HOUR)
    assert await store.claim("w", [RECORD, RUN], 9, HOUR) == []
    assert await store.expired(9) == []


async def test_a_tenants_records_are_its_own(store: JobStore) -> None:
    job = record()
    await VectorizationJobRepository(store, tenant="acme").create(job)
    assert await VectorizationJobRepository(store, tenant="bolt").get(job.job_id) is None


async def test_a_job_of_our_own_workers_is_read_and_not_written(
    repository: VectorizationJobRepository, store: JobStore
) -> None:
    now = await store.now()
    order = {"document_id": "handbook", "version": 7, "namespace": "hr"}
    await store.add([make_job(now, kind=RUN, document_id="handbook", payload=order)])
    [job] = await store.claim("w", [RUN], 1, HOUR)
    result: Json = {"content_hash": "ab12", "chunks_total": 9, "chunks_stored": 8, "chunks_failed": 1}
    assert await store.apply([move.complete(job, result, make_stamp(now))]) == [True]
    [found] = await repository.list_by_document("handbook")
    assert (found.status, found.document_version, found.namespace) == (COMPLETED, 7, "hr")
    assert (found.chunks_total, found.chunks_stored, found.failed_count) == (9, 8, 1)
    with pytest.raises(IllegalTransition):
        await repository.update(replace(found, chunks_total=1))


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"started_at": datetime(2031, 5, 4)}, "started_at .* has no time zone"),  # noqa: DTZ001
        ({"completed_at": datetime(2031, 5, 4)}, "completed_at .* has no time zone"),  # noqa: DTZ001
        ({"failed_chunks": [{"reason": "bad \x00"}]}, "failed_chunks.* holds a NUL"),
    ],
)
def test_a_record_that_no_store_can_hold_is_refused(over: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        record(**over)
