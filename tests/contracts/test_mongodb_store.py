"""The MongoDB store keeps the contract on a real server, by that server's clock; and what is its own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from msgspec.structs import replace
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, PyMongoError

from perdure.domain import transition as move
from perdure.domain.errors import (
    InvalidInput,
    PerdureError,
    SchemaMismatch,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
)
from perdure.domain.job import Job, Progress
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.domain.state import JobState
from perdure.ports.job_store import Capabilities, JobStore
from perdure.stores.mongodb import MongoJobStore, applying, schema
from perdure.stores.mongodb.address import parse
from perdure.stores.mongodb.documents import from_bson, to_bson
from perdure.stores.mongodb.errors import translate
from perdure.testing import JobStoreContract
from perdure.testing.builders import KIND, make_job, make_stamp
from perdure.vectorization import VectorizationJobRepository, VectorizationJobStatus, VectorizationResult
from tests.servers.mongodb import fresh_database, mongodb_url

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("mongodb")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with mongodb_url() as url:
        yield url


@pytest_asyncio.fixture
async def database(server: str) -> AsyncIterator[str]:
    async with fresh_database(server) as name:
        yield name


@pytest_asyncio.fixture
async def store(server: str, database: str) -> AsyncIterator[MongoJobStore]:
    store = MongoJobStore(server, database=database)
    await store.setup()
    yield store
    await store.close()


class TestMongoJobStore(JobStoreContract):
    crowd = 300
    capabilities = Capabilities(
        durable=True,
        multi_process=True,
        change_feed=True,
        native_ttl=True,
        constant_stats=False,
        transactions=False,
    )

    @pytest_asyncio.fixture
    async def store(self, server: str, database: str) -> AsyncIterator[MongoJobStore]:
        self.url, self.database = server, database
        store = MongoJobStore(server, database=database)
        await store.setup()
        yield store
        await store.close()

    async def second(self, store: JobStore) -> JobStore:
        handle = MongoJobStore(self.url, database=self.database)
        await handle.setup()
        return handle


# --- what is its own: documents that people read ----------------------------------------------

LEASE = timedelta(minutes=5)
Documents = AsyncCollection[dict[str, Any]]


@pytest_asyncio.fixture
async def documents(server: str, store: MongoJobStore, database: str) -> AsyncIterator[Documents]:
    """The collection as everybody else sees it."""
    async with AsyncMongoClient[dict[str, Any]](server, tz_aware=True) as client:
        yield client[database]["vectorization_jobs"]


async def running(store: JobStore, **over: Any) -> Job:
    await store.add([make_job(await store.now(), **over)])
    [job] = await store.claim("worker-1", [over.get("kind", KIND)], 1, LEASE)
    return job


async def test_a_document_can_be_read_without_perdure(store: MongoJobStore, documents: Documents) -> None:
    payload: dict[str, Json] = {"document_id": "handbook", "version": 7, "namespace": "hr"}
    job = await running(store, kind="vectorize", document_id="handbook", payload=payload)
    result: Json = {
        "content_hash": "ab12",
        "chunks_total": 3,
        "chunks_stored": 2,
        "chunks_failed": 1,
        "failed_chunks": [{"index": 2, "chunk_id": "c2", "reason": "too long"}],
    }
    counted = Progress(counts={"chunks_total": 3, "chunks_embedded": 2, "failed_count": 1})
    await store.apply([move.save(job, await store.now(), progress=counted)])
    saved = await store.get(job.tenant, job.id)
    assert saved is not None
    await store.apply([move.complete(saved, result, make_stamp(await store.now()))])
    found = await documents.find_one({"job_id": job.id})
    assert found is not None
    story = {
        "status": "completed",
        "document_id": "handbook",
        "document_version": 7,
        "namespace": "hr",
        "chunks_total": 3,
        "chunks_embedded": 2,
        "chunks_stored": 2,
        "failed_count": 1,
        "failed_chunks": [{"index": 2, "chunk_id": "c2", "reason": "too long"}],
        "content_hash": "ab12",
    }
    assert {name: found[name] for name in story} == story
    assert found["payload"] == payload
    stored = await store.get(job.tenant, job.id)
    assert stored is not None
    assert stored.expires_at is not None
    for name in ("created_at", "started_at", "updated_at", "completed_at", "expires_at"):
        exact = getattr(stored, name)
        assert timedelta(0) <= abs(found[name] - exact) < timedelta(milliseconds=1), name
    assert found["expires_at"] >= stored.expires_at, "the server must not remove it too early"


async def test_a_vectorization_record_is_such_a_document(store: MongoJobStore, documents: Documents) -> None:
    repository = VectorizationJobRepository(store)
    record = VectorizationResult(job_id=str(uuid4()), document_id="handbook", document_version=7)
    await repository.create(record)
    told = replace(record, status=VectorizationJobStatus.PARTIAL, chunks_total=9, failed_count=1)
    await repository.update(told)
    assert await repository.list_by_status(VectorizationJobStatus.PARTIAL) == [told]
    found = await documents.find_one({"job_id": record.job_id})
    assert found is not None
    names = ("status", "document_id", "document_version", "chunks_total", "failed_count")
    assert [found[name] for name in names] == ["partial", "handbook", 7, 9, 1]
    assert found["expires_at"] - found["completed_at"] == timedelta(hours=24)


async def test_the_indexes_are_there(documents: Documents) -> None:
    found = await documents.index_information()
    assert found["job_id"]["unique"]
    assert found["idempotency"]["unique"]
    assert found["idempotency"]["key"] == [("tenant", 1), ("idempotency_key", 1)]
    assert found["expires_at"]["expireAfterSeconds"] == 0
    assert {info["key"][0][0] for info in found.values()} >= {"status", "document_id", "completed_at"}


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_the_server_removes_what_is_over_and_nothing_else(
    store: MongoJobStore, documents: Documents
) -> None:
    now, day = await store.now(), timedelta(days=1)
    old = make_stamp(now - 3 * day)
    over, kept, forever, pending = await store.add(
        [make_job(now, ttl=ttl) for ttl in (day, 4 * day, None, day)]
    )
    assert await store.apply([move.cancel(job, old) for job in (over, kept, forever)]) == [True] * 3
    async with asyncio.timeout(150):
        while await documents.find_one({"_id": over.id}) is not None:
            await asyncio.sleep(0.2)
    left = {job.id for job in await store.find(JobFilter(tenant=None), 9)}
    assert left == {kept.id, forever.id, pending.id}
    assert (await store.stats(None)).total == 3


@pytest.mark.parametrize(
    "value",
    [
        {"%24": 1, "$": 2, "%": 3, "a.b%2E": {"$set": [{"..": "%"}]}},
        {"$ref": "#/definitions/page", "$id": "x"},
        [[], {}, "", 2**63 - 1, 1.0, True, None],
    ],
)
async def test_values_that_mean_something_to_mongodb_mean_nothing(store: MongoJobStore, value: Json) -> None:
    assert from_bson(to_bson(value)) == value
    job = await running(store, payload={"value": value})
    assert job.payload == {"value": value}


async def test_only_the_newest_history_is_kept(store: MongoJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "HISTORY_KEPT", 2)
    [job] = await store.add([make_job(await store.now())])
    edits = []
    for priority in (1, 2, 3):
        edits.append(move.edit(job, make_stamp(await store.now()), priority=priority))
        job = edits[-1].after
    assert await store.apply(edits) == [True] * 3
    assert await store.history(job.tenant, job.id) == [edit.entry for edit in edits[1:]]


# --- what goes wrong -----------------------------------------------------------------------------


async def test_what_is_too_large_is_refused_and_the_job_goes_on(store: MongoJobStore) -> None:
    job = await running(store)
    large = move.complete(job, "x" * 17_000_000, make_stamp(await store.now()))
    with pytest.raises(InvalidInput, match="16 MB"):
        await store.apply([large])
    half = move.save(job, await store.now(), checkpoint="x" * 9_000_000)
    assert await store.apply([half]) == [True]
    with pytest.raises(InvalidInput, match="16 MB"):
        await store.apply([move.complete(half.after, "x" * 9_000_000, make_stamp(await store.now()))])
    stored = await store.get(job.tenant, job.id)
    assert stored is not None
    assert (stored.state, stored.version) == (JobState.RUNNING, job.version + 1)
    with pytest.raises(InvalidInput, match="16 MB"):
        await store.add([make_job(await store.now()), make_job(await store.now(), result="x" * 17_000_000)])
    assert (await store.stats(None)).total == 1


async def test_somebody_elses_collection_is_left_alone(server: str, database: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](server) as client:
        await client[database]["vectorization_jobs"].insert_one({"job_id": "of another program"})
    with pytest.raises(StoreCorrupt, match="another collection"):
        await MongoJobStore(server, database=database).setup()
    beside = MongoJobStore(server, database=database, collection="jobs")
    await beside.setup()
    assert (await beside.stats(None)).total == 0
    await beside.close()


async def test_an_index_of_another_shape_is_named(
    store: MongoJobStore, documents: Documents, server: str, database: str
) -> None:
    await documents.drop_index("expires_at")
    await documents.create_index("expires_at", name="expires_at", expireAfterSeconds=60)
    with pytest.raises(SchemaMismatch, match="index"):
        await MongoJobStore(server, database=database).setup()


def test_a_lone_mongod_is_refused() -> None:
    with pytest.raises(StoreError, match="--replSet"):
        schema.check_server({"isWritablePrimary": True}, "mongodb://h/d.c")
    schema.check_server({"setName": "rs0"}, "mongodb://h/d.c")
    schema.check_server({"msg": "isdbgrid"}, "mongodb://h/d.c")


async def refusal(store: MongoJobStore) -> str:
    try:
        await store.setup()
    except StoreUnavailable as error:
        return f"{error} {error.__cause__}"
    return "none"


# The driver's monitor leaves its socket to the garbage collector when it is stopped while it connects.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_host_that_is_down_is_named_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.stores.mongodb.store.SELECTION_MS", 300)
    told = await refusal(MongoJobStore("mongodb://ann:s3cret@127.0.0.1:1/jobs"))
    assert "127.0.0.1:1/jobs" in told
    assert "s3cret" not in told
    gc.collect()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mongodb://h", ("perdure", "vectorization_jobs", "mongodb://h/perdure.vectorization_jobs")),
        ("mongodb://u:p@h1:1,h2:2/ai?replicaSet=r", ("ai", "vectorization_jobs", None)),
        ("mongodb+srv://u:p%40@h/ai.jobs.v2", ("ai", "jobs.v2", "mongodb+srv://h/ai.jobs.v2")),
        ("mongodb://[::1]:27017/ai", ("ai", "vectorization_jobs", None)),
    ],
)
def test_a_url_names_database_and_collection(url: str, expected: tuple[str, str, str | None]) -> None:
    address = parse(url, None, None)
    assert (address.database, address.collection) == expected[:2]
    assert expected[2] in (None, address.shown)
    assert parse(url, "d", "c").shown.endswith("/d.c")


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "postgresql://u:s3cret@h/d",
        "mongodb://u:s3/cret@h/d",
        "mongodb://u:s3?cret@h/d",
        "mongodb://u:s3@cret@h/d",
        "mongodb://u:s3cret",
        "mongodb://u:s3cret@h:port/d",
    ],
)
async def test_a_url_that_does_not_fit_is_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput, match="expected mongodb://") as caught:
        await MongoJobStore(url).setup()
    assert "s3" not in f"{caught.value}{caught.value.__cause__}"


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (OperationFailure("Authentication failed.", 18), StoreError, "correct them"),
        (OperationFailure("not authorized", 13), StoreError, "readWrite"),
        (OperationFailure("not primary", 10107), StoreUnavailable, "safe to repeat"),
        (OperationFailure("time limit", 50), StoreUnavailable, "safe to repeat"),
        (OperationFailure("no space", 14031), StoreUnavailable, "free some space"),
        (AutoReconnect("connection closed"), StoreUnavailable, "safe to repeat"),
        (BulkWriteError({"writeErrors": [{"code": 17419}]}), InvalidInput, "16 MB"),
        (BulkWriteError({"writeConcernErrors": [{"code": 91}]}), StoreUnavailable, "safe to repeat"),
        (OperationFailure("no such thing", 59), StoreError, "no such thing"),
    ],
)
def test_the_drivers_errors_are_told_in_our_words(
    error: PyMongoError, kind: type[PerdureError], remedy: str
) -> None:
    told = translate(error, "mongodb://h/d.c")
    assert type(told) is kind
    assert remedy in str(told)
    assert "mongodb://h/d.c" in str(told)
