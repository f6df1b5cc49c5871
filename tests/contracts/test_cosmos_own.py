"""What is the Cosmos DB store's own: items that people read, its container, what it costs, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError
from msgspec.structs import replace

from perdure.databases.cosmos.address import parse
from perdure.domain import transition as move
from perdure.domain.errors import InvalidInput, PerdureError, SchemaMismatch, StoreError, StoreUnavailable
from perdure.domain.job import Failure, Job, Progress
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.ports.job_store import JobStore
from perdure.stores.cosmos import CosmosJobStore, documents
from perdure.stores.cosmos.documents import document, line
from perdure.stores.cosmos.errors import translate
from perdure.testing.builders import KIND, make_job, make_stamp
from tests.servers.cosmos import KEY
from tests.servers.cosmos_peer import Container, Peer, cosmos_peer

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("cosmos-own")]

LEASE, DAY = timedelta(minutes=5), timedelta(days=1)
ALL = JobFilter(tenant=None)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with cosmos_peer() as peer:
        yield peer


@asynccontextmanager
async def opened(peer: Peer, **options: Any) -> AsyncIterator[CosmosJobStore]:
    store = CosmosJobStore(peer.url, database="ai", **options)
    await store.setup()
    yield store
    await store.close()


@pytest_asyncio.fixture
async def store(peer: Peer) -> AsyncIterator[CosmosJobStore]:
    async with opened(peer) as store:
        yield store


@pytest.fixture
def held(peer: Peer, store: CosmosJobStore) -> Container:
    """The container as everybody else sees it."""
    return peer.container("ai")


async def running(store: JobStore, **over: Any) -> Job:
    await store.add([make_job(await store.now(), **over)])
    [job] = await store.claim("worker-1", [over.get("kind", KIND)], 1, LEASE)
    return job


async def read(store: JobStore, job: Job) -> Job:
    found = await store.get(job.tenant, job.id)
    assert found is not None
    return found


# --- the container and its items ------------------------------------------------------------


async def test_an_item_can_be_read_without_perdure(store: CosmosJobStore, held: Container) -> None:
    payload = {"shardTypeId": "article", "text": "…"}
    job = await running(store, tenant="acme", kind="vectorize", document_id="handbook", payload=payload)
    counted = Progress(counts={"chunks_stored": 3})
    await store.apply([move.save(job, await store.now(), progress=counted)])
    failed = move.fail(
        await read(store, job),
        Failure(type="E", message="torn", fatal=True),
        timedelta(0),
        make_stamp(await store.now()),
    )
    await store.apply([failed])
    item = held.get("acme", job.id)
    assert item is not None
    expected = {
        "tenantId": "acme",
        "shardId": "handbook",
        "shardTypeId": "article",
        "status": "failed",
        "retryCount": 0,
        "error": "torn",
    }
    assert {name: item[name] for name in expected} == expected
    assert item["metadata"]["vectorCount"] == 3
    assert item["metadata"]["processingTimeMs"] >= 0
    assert item["completedAt"] == item["updatedAt"] > item["createdAt"]
    assert item["ttl"] >= DAY.total_seconds()


async def test_many_replicas_make_the_container_at_once(peer: Peer) -> None:
    stores = [CosmosJobStore(peer.url, database="ai") for _ in range(5)]
    await asyncio.gather(*(store.setup() for store in stores))
    properties = peer.container("ai").properties
    assert properties["partitionKey"]["paths"] == ["/tenantId"]
    assert properties["defaultTtl"] == -1
    composites = [
        [(part["path"], part["order"]) for part in index]
        for index in properties["indexingPolicy"]["compositeIndexes"]
    ]
    assert composites == [
        [("/tenantId", "ascending"), ("/status", "ascending"), ("/createdAt", "descending")],
        [("/tenantId", "ascending"), ("/shardId", "ascending"), ("/updatedAt", "descending")],
    ]
    for store in stores:
        await store.close()


async def test_a_tenants_queries_name_it_in_text_and_in_partition_key(
    peer: Peer, store: CosmosJobStore
) -> None:
    job = await running(store, tenant="acme", idempotency_key="k", document_id="d")
    peer.queries.clear()
    await store.find(JobFilter(tenant="acme", document_id="d"), 5)
    await store.count(JobFilter(tenant="acme", states=(JobState.RUNNING,)))
    await store.stats("acme")
    await store.history("acme", job.id)
    await store.add([make_job(await store.now(), tenant="acme", idempotency_key="k")])
    assert len(peer.queries) >= 5
    for text, key in peer.queries:
        assert key == "acme"
        assert "c.tenantId = @tenant" in text


async def test_the_service_removes_what_is_over_and_nothing_else(
    peer: Peer, store: CosmosJobStore, held: Container
) -> None:
    now = await store.now()
    over, kept, forever, pending = await store.add(
        [make_job(now, ttl=ttl) for ttl in (timedelta(seconds=5), DAY, None, timedelta(seconds=5))]
    )
    await store.apply([move.cancel(job, make_stamp(now)) for job in (over, kept, forever)])
    assert len([row for row in held.rows() if row["type"] == "job"]) == 4
    peer.ahead = 10
    left = {row["id"] for row in held.rows() if row["type"] == "job"}
    assert left == {kept.id, forever.id, pending.id}
    assert (await store.stats(None)).total == 3


async def test_only_the_newest_history_is_kept(
    store: CosmosJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "HISTORY_KEPT", 2)
    [job] = await store.add([make_job(await store.now())])
    edits = []
    for priority in (1, 2, 3):
        edits.append(move.edit(job, make_stamp(await store.now()), priority=priority))
        job = edits[-1].after
    assert await store.apply(edits) == [True] * 3
    assert await store.history(job.tenant, job.id) == [edit.entry for edit in edits[1:]]


async def test_what_is_too_large_is_refused_and_the_job_goes_on(store: CosmosJobStore) -> None:
    job = await running(store)
    with pytest.raises(InvalidInput, match="2 MB"):
        await store.apply([move.complete(job, "x" * 2_100_000, make_stamp(await store.now()))])
    assert await read(store, job) == job
    with pytest.raises(InvalidInput, match="2 MB"):
        await store.add([make_job(await store.now()), make_job(await store.now(), result="ä" * 1_100_000)])
    assert (await store.stats(None)).total == 1
    nearly = make_job(await store.now(), payload={"text": "ä" * 950_000})
    assert await store.add([nearly, make_job(await store.now(), payload={"text": "ä" * 950_000})])
    assert (await read(store, nearly)) == nearly


def test_the_line_is_in_the_order_of_claiming() -> None:
    now = datetime(2031, 5, 4, tzinfo=UTC)
    wanted = [
        make_job(now, priority=1000, tenant="z"),
        make_job(now, priority=0, tenant="a"),
        make_job(now, priority=0, tenant="a-b"),
        make_job(now, priority=0, tenant="a.b", due_at=now - DAY),
        make_job(now, priority=0, tenant="a.b"),
        make_job(now, priority=0, tenant="ab"),
        make_job(now, priority=-1000, tenant="a"),
    ]
    assert sorted(set(map(line, wanted)), key=str) == [line(job) for job in wanted]
    assert line(replace(wanted[0], state=JobState.WAITING)) is None


# --- the clock ------------------------------------------------------------------------------


async def test_leases_go_by_the_services_clock(peer: Peer) -> None:
    peer.ahead = -3600
    async with opened(peer) as store:
        job = await running(store)
        assert await store.expired(5) == []
        peer.ahead = 0  # an hour later there, and nothing has passed here
        await store.count(ALL)
        assert [overdue.id for overdue in await store.expired(5)] == [job.id]
        assert await store.extend("worker-1", {job.id: 1}, LEASE) == set()
        assert await store.expired(5) == []


# --- what it costs --------------------------------------------------------------------------


async def test_each_call_costs_the_requests_that_the_reference_tells(store: CosmosJobStore) -> None:
    def spent(call: str) -> int:
        before, told[call] = told.get(call, 0), store.charges[call].requests
        return told[call] - before

    now = await store.now()
    first = [make_job(now, tenant="first", due_at=now + DAY) for _ in range(2)]
    await store.add(first)  # the driver asks once how the container is cut
    told = {"add": store.charges["add"].requests}
    assert await store.claim("w", [KIND], 5, LEASE) == []
    assert spent("claim") == 1
    [job] = await store.add([make_job(now)])
    assert spent("add") == 1
    await store.add([make_job(now) for _ in range(100)])
    assert spent("add") == 1
    await store.add([make_job(now, tenant="acme") for _ in range(101)])
    assert spent("add") == 4, "two batches, the token, and reading how it ended"
    [taken] = await store.claim("w", [KIND], 1, LEASE)
    assert spent("claim") <= 5
    await store.extend("w", {taken.id: taken.epoch}, LEASE)
    assert spent("extend") == 2
    await store.apply([move.complete(taken, 1, make_stamp(now))])
    assert spent("apply") == 2
    await store.get(job.tenant, job.id)
    assert spent("get") == 1
    await store.find(JobFilter(tenant="default"), 10)
    assert spent("find") == 1
    assert store.charges["add"].units >= store.charges["add"].requests


async def test_what_is_throttled_is_asked_again_when_the_service_says(
    peer: Peer, store: CosmosJobStore
) -> None:
    peer.throttle(5, after_ms=20)
    job = make_job(await store.now())
    assert await store.add([job]) == [job]
    assert (store.charges["add"].throttled, store.charges["add"].requests) == (5, 6)


async def test_a_storm_that_does_not_end_is_an_error_and_nothing_is_half_done(peer: Peer) -> None:
    async with opened(peer, patience=1.0) as store:
        now = await store.now()
        jobs = [make_job(now, tenant=f"tenant-{n % 3}") for n in range(9)]
        peer.throttle(10_000, after_ms=50)
        with pytest.raises(StoreUnavailable, match="repeat"):
            await store.add(jobs)
        peer.throttle(0, after_ms=0)
        store._patience = 60.0
        assert await store.count(ALL) == 0
        assert await store.add(jobs) == jobs
        assert (await store.stats(None)).total == 9


# --- reads that are late --------------------------------------------------------------------


async def test_a_process_sees_what_it_wrote_and_decides_nothing_on_late_reads(
    peer: Peer, store: CosmosJobStore
) -> None:
    async with opened(peer) as other:
        peer.lag = 3600
        job = await running(store)
        assert await read(store, job) == job
        assert await other.get(job.tenant, job.id) is None, "a lagging replica answered"
        peer.lag = 0  # it has caught up …
        seen = await read(other, job)
        peer.lag = 3600  # … and lags behind again
        assert await store.apply([move.complete(job, 1, make_stamp(await store.now()))]) == [True]
        late = move.rescue(seen, make_stamp(await other.now()))
        assert await other.apply([late]) == [False]
        assert (await read(store, job)).state is JobState.COMPLETED


async def test_late_reads_never_undo_an_add_that_went_through(peer: Peer, store: CosmosJobStore) -> None:
    async with opened(peer) as other:
        peer.lag = 0.3
        now = await store.now()
        jobs = [make_job(now, idempotency_key=f"k{n}") for n in range(150)]
        mine, theirs = await asyncio.gather(store.add(jobs), other.add(jobs), return_exceptions=True)
        assert jobs in (mine, theirs)
        await asyncio.sleep(0.4)
        assert await other.count(ALL) == await store.count(ALL) == 150


# --- large adds -----------------------------------------------------------------------------


async def test_an_add_over_tenants_and_batches_is_seen_whole_or_not(
    peer: Peer, store: CosmosJobStore
) -> None:
    async with opened(peer) as other:
        now = await store.now()
        jobs = [make_job(now, tenant=f"tenant-{n % 3}") for n in range(450)]
        seen: set[int] = set()
        async with asyncio.TaskGroup() as group:
            adding = group.create_task(store.add(jobs))
            while not adding.done():
                seen.add(len(await other.find(ALL, 1000)))
                seen.add(await other.count(ALL))
        assert adding.result() == jobs
        assert seen <= {0, 450}
        taken = [job for _ in range(10) for job in await other.claim("w", [KIND], 45, LEASE)]
        assert len({job.id for job in taken}) == 450


async def half_added(store: CosmosJobStore, jobs: list[Job]) -> None:
    """An add whose process died before it was committed."""
    items = store._items
    assert items is not None
    assert await items.create_together([document(job, adding="token-of-the-dead") for job in jobs])


async def test_what_a_dead_add_left_is_invisible_and_swept_away(
    peer: Peer, store: CosmosJobStore, held: Container
) -> None:
    now = await store.now()
    [behind] = await store.add([make_job(now)])
    left = [make_job(now, tenant="acme") for _ in range(3)]
    await half_added(store, left)
    assert await store.get("acme", left[0].id) is None
    assert await store.count(JobFilter(tenant="acme")) == 0
    assert [job.id for job in await store.claim("w", [KIND], 5, LEASE)] == [behind.id]
    assert await store.apply([move.cancel(left[0], make_stamp(now))]) == [False]
    await store.purge(10)
    assert held.get("acme", left[0].id) is not None, "it may still be under way"
    peer.ahead = 60
    await store.now()
    await store.count(ALL)
    await store.purge(10)
    assert all(held.get("acme", job.id) is None for job in left)


async def test_what_a_dead_add_left_makes_way_for_the_same_again(peer: Peer, store: CosmosJobStore) -> None:
    jobs = [make_job(await store.now(), idempotency_key=f"k{n}") for n in range(3)]
    await half_added(store, jobs)
    with pytest.raises(StoreUnavailable, match="try again"):
        await store.add(jobs)
    peer.ahead = 60
    await store.count(ALL)
    assert await store.add(jobs) == jobs
    assert (await store.stats(None)).total == 3


async def test_an_add_that_was_taken_for_dead_begins_anew(
    store: CosmosJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = store._items
    assert items is not None
    decide, aborted = items.decide, False

    async def too_late(token: str, outcome: str) -> str:
        nonlocal aborted
        if not aborted:
            aborted = True
            await decide(token, "aborted")
        return await decide(token, outcome)

    monkeypatch.setattr(items, "decide", too_late)
    jobs = [make_job(await store.now()) for _ in range(150)]
    assert await store.add(jobs) == jobs
    assert await store.count(ALL) == 150


# --- what goes wrong ------------------------------------------------------------------------


async def refusal(url: str, kind: type[PerdureError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        await CosmosJobStore(url, database="ai", **options).setup()
    assert KEY not in f"{caught.value}"
    return str(caught.value)


async def test_a_container_of_another_program_is_named_with_what_differs(peer: Peer) -> None:
    properties = {
        "id": "embedding-jobs",
        "partitionKey": {"paths": ["/id"]},
        "uniqueKeyPolicy": {"uniqueKeys": []},
    }
    peer.databases["ai"] = {"embedding-jobs": Container(properties, peer.clock)}
    told = await refusal(peer.url, SchemaMismatch)
    assert "/tenantId" in told
    assert "/once" in told
    assert "time to live" in told
    async with opened(peer, container="jobs") as store:
        assert (await store.stats(None)).total == 0


async def test_an_account_that_forgets_its_own_writes_is_refused(peer: Peer) -> None:
    peer.consistency = "Eventual"
    assert "BoundedStaleness" in await refusal(peer.url, StoreError)


async def test_a_wrong_key_is_named_as_such(peer: Peer) -> None:
    told = await refusal(peer.url.replace(KEY, "d3Jvbmc%3D"), StoreError)
    assert "read-write key" in told
    assert "d3Jvbmc" not in told


async def test_a_host_that_is_down_is_named() -> None:
    url = f"cosmos+http://:{KEY}@127.0.0.1:1/ai"
    assert "127.0.0.1:1" in await refusal(url, StoreUnavailable, patience=2.0)


async def test_a_container_that_went_is_said_to_be_gone(peer: Peer, store: CosmosJobStore) -> None:
    del peer.databases["ai"]["embedding-jobs"]
    with pytest.raises(StoreError, match="setup"):
        await store.add([make_job(await store.now())])
    await store.setup()
    assert await store.count(ALL) == 0


@pytest.mark.parametrize(
    ("url", "endpoint", "shown"),
    [
        ("cosmos://:a%2Bb%3D@h", "https://h/", "cosmos://h/perdure/embedding-jobs"),
        (
            "cosmos+http://:a%2Bb%3D@127.0.0.1:81/ai/jobs",
            "http://127.0.0.1:81/",
            "cosmos://127.0.0.1:81/ai/jobs",
        ),
        ("https://h:443/ai?key=a%2Bb=", "https://h:443/", "cosmos://h:443/ai/embedding-jobs"),
        ("https://h/ai?key=a+b=", "https://h/", "cosmos://h/ai/embedding-jobs"),
        (
            "AccountEndpoint=https://h:443/;AccountKey=a+b=;",
            "https://h:443/",
            "cosmos://h:443/perdure/embedding-jobs",
        ),
        (
            "AccountEndpoint=https://h;AccountKey=a+b=;Database=ai;Container=c",
            "https://h/",
            "cosmos://h/ai/c",
        ),
    ],
)
def test_a_url_names_account_key_database_and_container(url: str, endpoint: str, shown: str) -> None:
    address = parse(url)
    assert (address.endpoint, address.key, address.shown) == (endpoint, "a+b=", shown)
    assert parse(url, "d", "c").shown.endswith("/d/c")


@pytest.mark.parametrize(
    "url",
    [
        "cosmos://h/ai",
        "cosmos://:s3/cret@h/ai",
        "cosmos://:s3cret@h:port/ai",
        "cosmos://:s3cret@h/a/b/c",
        "cosmos://:s3cret@h/ai?throughput=400",
        "mongodb://:s3cret@h/ai",
        "AccountEndpoint=https://h/;AccountKey=",
        "AccountEndpoint=ftp://h/;AccountKey=s3cret",
        "AccountEndpoint=https://h/;AccountKey=s3cret;More=1",
    ],
)
def test_a_url_that_does_not_fit_is_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput, match="expected cosmos://") as caught:
        parse(url)
    assert "s3" not in str(caught.value)


def _answered(status: int) -> AzureError:
    error = HttpResponseError("said so")
    error.status_code = status
    return error


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (_answered(401), StoreError, "read-write key"),
        (_answered(403), StoreError, "firewall"),
        (_answered(404), StoreError, "setup"),
        (_answered(413), InvalidInput, "2 MB"),
        (_answered(429), StoreUnavailable, "throughput"),
        (_answered(449), StoreUnavailable, "safe to repeat"),
        (_answered(503), StoreUnavailable, "safe to repeat"),
        (_answered(400), StoreError, "said so"),
        (ServiceRequestError("no route"), StoreUnavailable, "no route"),
    ],
)
def test_the_drivers_errors_are_told_in_our_words(
    error: AzureError, kind: type[PerdureError], remedy: str
) -> None:
    told = translate(error, "cosmos://h/d/c")
    assert type(told) is kind
    assert remedy in str(told)
