"""The calls by the stubs that are shipped."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from perdure.app import App
from perdure.core.context import Context
from perdure.domain.access import Scope
from perdure.domain.errors import RetryAfter
from perdure.grpc.server import MAX_MESSAGE
from perdure.grpc.v1 import perdure_pb2 as v1

if TYPE_CHECKING:
    from perdure.grpc.v1.perdure_pb2_grpc import PerdureAsyncStub

UNKNOWN = "0198c0de-7a3e-7abc-8def-0123456789ab"
REQUESTS: dict[str, Message] = {
    "Vectorize": v1.VectorizeRequest(text="a word"),
    "GetJob": v1.GetJobRequest(id=UNKNOWN),
    "ListJobs": v1.ListJobsRequest(),
    "WatchJob": v1.WatchJobRequest(id=UNKNOWN),
    "CancelJob": v1.CancelJobRequest(id=UNKNOWN),
    "RetryJob": v1.RetryJobRequest(id=UNKNOWN),
    "RespondJob": v1.RespondJobRequest(id=UNKNOWN, answer=Value(bool_value=True)),
    "Search": v1.SearchRequest(query="a word"),
    "GetStats": v1.GetStatsRequest(),
}


async def call(stub: PerdureAsyncStub, name: str, request: Message, **metadata: str) -> Any:
    """What a call answers; of a stream its first message."""
    sent = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    answer = getattr(stub, name)(request, metadata=sent, timeout=20)
    return await (answer.read() if name == "WatchJob" else answer)


async def refused(
    stub: PerdureAsyncStub, name: str, request: Message, **metadata: str
) -> tuple[str, str, str]:
    """The status, the reason and the message of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(stub, name, request, **metadata)
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]  # it has what is asked of it
    assert status is not None
    assert status.code == caught.value.code().value[0]
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "perdure"
    assert info.metadata["type"] == f"/problems/{info.reason.lower().replace('_', '-')}"
    return caught.value.code().name, info.reason, status.message


def struct(**fields: Any) -> Struct:
    made = Struct()
    made.update(fields)
    return made


@pytest.mark.usefixtures("worker")
async def test_a_document_goes_in_and_is_found(stub: PerdureAsyncStub) -> None:
    request = v1.VectorizeRequest(
        text="Every employee has thirty days of leave.",
        document_id="leave",
        metadata=struct(lang="en", year=2024),
        labels={"team": "hr"},
        idempotency_key="leave-1",
    )
    job = await stub.Vectorize(request)
    assert (job.kind, job.status, job.document_id, job.labels["team"]) == (
        "vectorize",
        "pending",
        "leave",
        "hr",
    )
    assert (await stub.Vectorize(request)).id == job.id
    done = await stub.GetJob(v1.GetJobRequest(id=job.id, wait_seconds=20))
    assert (done.status, done.progress.fraction, done.progress.counts["chunks_stored"]) == (
        "completed",
        1.0,
        1,
    )
    assert done.completed_at.ToDatetime() >= done.created_at.ToDatetime()
    found = await stub.Search(v1.SearchRequest(query="leave", limit=3, filter=struct(year=2024)))
    [hit] = found.hits
    assert (hit.document_id, hit.ingestion_id, hit.span.end) == ("leave", job.id, 40)
    assert MessageToDict(hit.metadata) == {"lang": "en", "year": 2024}
    assert not (await stub.Search(v1.SearchRequest(query="leave", filter=struct(lang="de")))).hits
    stats = await stub.GetStats(v1.GetStatsRequest())
    assert (stats.total, stats.by_status["completed"]) == (1, 1)
    assert stats.by_kind["vectorize"].by_status["completed"] == 1


@pytest.mark.usefixtures("worker")
async def test_a_file_goes_in_as_bytes(stub: PerdureAsyncStub) -> None:
    job = await stub.Vectorize(v1.VectorizeRequest(content=b"# Leave\n\nThirty days.", name="leave.md"))
    assert (await stub.GetJob(v1.GetJobRequest(id=job.id, wait_seconds=20))).status == "completed"
    [hit] = (await stub.Search(v1.SearchRequest(query="thirty", mode="text"))).hits
    assert MessageToDict(hit.chunk_metadata)["heading"] == ["Leave"]


async def test_lists_go_page_by_page(app: App, stub: PerdureAsyncStub) -> None:
    jobs = [(await app.submit("a", {"n": n})).id for n in range(5)]
    await app.submit("b")
    request = v1.ListJobsRequest(kind=["a"], status=["pending"], limit=2)
    seen: list[str] = []
    while True:
        page = await stub.ListJobs(request)
        seen += [job.id for job in page.items]
        if not page.next_cursor:
            break
        request.cursor = page.next_cursor
    assert seen == jobs[::-1]
    oldest = await stub.ListJobs(v1.ListJobsRequest(kind=["a"], limit=2, oldest_first=True))
    assert [job.id for job in oldest.items] == jobs[:2]
    request.kind.append("b")
    assert (await refused(stub, "ListJobs", request))[:2] == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_a_question_is_answered_and_what_happens_is_told(app: App, stub: PerdureAsyncStub) -> None:
    @app.handler("publish", max_attempts=1)
    async def publish(ctx: Context, title: str) -> dict[str, Any]:
        return {"said": await ctx.ask(f"Publish {title}?")}

    job = await app.submit("publish", {"title": "Leave"})
    watching = stub.WatchJob(v1.WatchJobRequest(id=job.id))
    worker = app.make_worker()
    running = asyncio.create_task(worker.run())
    events: list[v1.JobEvent] = []
    async for event in watching:
        events.append(event)
        if event.event == "asked":
            asked = await stub.GetJob(v1.GetJobRequest(id=job.id))
            assert (asked.status, asked.questions[0].prompt) == ("waiting", "Publish Leave?")
            answer = Value(struct_value=struct(days=3, yes=True))
            await call(stub, "RespondJob", v1.RespondJobRequest(id=job.id, answer=answer), x_actor="ann")
    worker.stop()
    await running
    names = [event.event for event in events]
    assert (names[0], names[-1]) == ("added", "completed")
    assert "ann" in [event.actor for event in events]
    done = await stub.GetJob(v1.GetJobRequest(id=job.id))
    assert MessageToDict(done.result) == {"said": {"days": 3, "yes": True}}
    told_again = [
        event async for event in stub.WatchJob(v1.WatchJobRequest(id=job.id, after=events[1].position))
    ]
    assert told_again == events[2:]


async def test_a_job_is_called_off_and_sent_round_again(app: App, stub: PerdureAsyncStub) -> None:
    job = await app.submit("a")
    gone = await call(stub, "CancelJob", v1.CancelJobRequest(id=job.id, reason="wrong"), x_actor="ann")
    assert gone.status == "cancelled"
    assert (await app.jobs.history(job.id, tenant="default"))[-1].actor == "ann"
    assert (await stub.RetryJob(v1.RetryJobRequest(id=job.id))).status == "pending"


REFUSED = [
    ("GetJob", v1.GetJobRequest(id=UNKNOWN), "NOT_FOUND", "NOT_FOUND", UNKNOWN),
    ("GetJob", v1.GetJobRequest(id="x"), "INVALID_ARGUMENT", "INVALID_REQUEST", "is not a UUID"),
    (
        "GetJob",
        v1.GetJobRequest(id=UNKNOWN, wait_seconds=99),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "0 to 60",
    ),
    ("WatchJob", v1.WatchJobRequest(id=UNKNOWN), "NOT_FOUND", "NOT_FOUND", UNKNOWN),
    ("WatchJob", v1.WatchJobRequest(after="x"), "INVALID_ARGUMENT", "INVALID_REQUEST", "no position"),
    (
        "ListJobs",
        v1.ListJobsRequest(status=["x"]),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "expected one of pending",
    ),
    ("ListJobs", v1.ListJobsRequest(limit=-1), "INVALID_ARGUMENT", "INVALID_REQUEST", "1 to 1000"),
    ("Vectorize", v1.VectorizeRequest(), "INVALID_ARGUMENT", "INVALID_REQUEST", "send text, or content"),
    ("Vectorize", v1.VectorizeRequest(text=" "), "INVALID_ARGUMENT", "UNREADABLE_DOCUMENT", "empty"),
    (
        "Vectorize",
        v1.VectorizeRequest(text="a", namespace="/"),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "namespace",
    ),
    (
        "Vectorize",
        v1.VectorizeRequest(text="a", priority=9999),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "priority",
    ),
    ("RespondJob", v1.RespondJobRequest(id=UNKNOWN), "INVALID_ARGUMENT", "INVALID_REQUEST", "no answer"),
    ("Search", v1.SearchRequest(query="a", mode="x"), "INVALID_ARGUMENT", "INVALID_REQUEST", "mode"),
]


@pytest.mark.parametrize(("name", "request_", "code", "reason", "said"), REFUSED)
async def test_what_does_not_fit_is_refused_with_the_reason(
    stub: PerdureAsyncStub, name: str, request_: Message, *, code: str, reason: str, said: str
) -> None:
    told = await refused(stub, name, request_)
    assert told[:2] == (code, reason)
    assert said in told[2]


async def test_a_state_that_does_not_allow_it_and_a_key_that_was_used(
    app: App, stub: PerdureAsyncStub
) -> None:
    job = await app.submit("a")
    request = v1.RespondJobRequest(id=job.id, answer=Value(string_value="yes"))
    assert (await refused(stub, "RespondJob", request))[:2] == ("FAILED_PRECONDITION", "ILLEGAL_TRANSITION")
    await stub.Vectorize(v1.VectorizeRequest(text="one", document_id="d", idempotency_key="k"))
    other = v1.VectorizeRequest(text="two", document_id="d", idempotency_key="k")
    assert (await refused(stub, "Vectorize", other))[:2] == ("ALREADY_EXISTS", "IDEMPOTENCY_CONFLICT")


async def test_a_message_over_the_limit_is_refused(stub: PerdureAsyncStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Vectorize(v1.VectorizeRequest(text="a" * MAX_MESSAGE))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{MAX_MESSAGE}" in (caught.value.details() or "")
    assert (await stub.GetStats(v1.GetStatsRequest())).total == 0


async def test_a_wait_is_answered_before_the_deadline(app: App, stub: PerdureAsyncStub) -> None:
    job = await app.submit("a")
    told = await stub.GetJob(v1.GetJobRequest(id=job.id, wait_seconds=60), timeout=1)
    assert told.status == "pending"


async def test_what_went_wrong_inside_stays_inside(
    app: App, stub: PerdureAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: object, **_options: object) -> None:
        raise KeyError("secret host")

    monkeypatch.setattr(app.jobs, "stats", broken)
    code, reason, message = await refused(stub, "GetStats", v1.GetStatsRequest())
    assert (code, reason) == ("INTERNAL", "INTERNAL_ERROR")
    assert "secret" not in message

    async def busy(*_args: object, **_options: object) -> None:
        raise RetryAfter(3, "secret host is busy")

    monkeypatch.setattr(app.jobs, "stats", busy)
    assert (await refused(stub, "GetStats", v1.GetStatsRequest()))[0] == "UNAVAILABLE"


# --- the door -------------------------------------------------------------------------------


@pytest.fixture
async def keys(app: App) -> dict[str, str]:
    made = {
        "acme": (await app.keys.create("acme", tenant="acme"))[1],
        "other": (await app.keys.create("other", tenant="other"))[1],
        "reader": (await app.keys.create("reader", tenant="acme", scope=Scope.READ))[1],
    }
    app.keys._used = (app.jobs.clock.now(), True)  # the time until every process knows it
    return {name: f"Bearer {token}" for name, token in made.items()}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.usefixtures("keys")
async def test_no_call_without_a_good_key_answers(app: App, stub: PerdureAsyncStub, name: str) -> None:
    _, expired = await app.keys.create("expired", tenant="acme", ttl=timedelta(microseconds=1))
    gone, revoked = await app.keys.create("gone", tenant="acme")
    await app.keys.revoke(gone.id)
    for credential in ("", "pdk", "Bearer pdk_x", f"Bearer {expired}", f"Bearer {revoked}"):
        sent = {"authorization": credential} if credential else {}
        code, reason, message = await refused(stub, name, REQUESTS[name], **sent)
        assert (code, reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        assert "create" in message


@pytest.mark.parametrize("name", ["GetJob", "WatchJob", "CancelJob", "RetryJob", "RespondJob"])
async def test_another_tenants_job_is_not_there(
    app: App, stub: PerdureAsyncStub, keys: dict[str, str], name: str
) -> None:
    job = await app.submit("a", tenant="acme")
    request = type(REQUESTS[name])()
    request.CopyFrom(REQUESTS[name])
    request.id = job.id  # type: ignore[attr-defined]  # each has it
    assert (await refused(stub, name, request, authorization=keys["other"]))[0] == "NOT_FOUND"
    forbidden = await refused(stub, name, request, authorization=keys["other"], x_tenant="acme")
    assert forbidden[0] == "PERMISSION_DENIED"
    mine = await app.jobs.get(job.id, tenant="acme")
    assert mine == job


async def test_lists_counts_events_and_hits_are_the_tenants_own(
    app: App, stub: PerdureAsyncStub, keys: dict[str, str]
) -> None:
    await app.submit("a", tenant="acme")
    assert (await call(stub, "GetStats", v1.GetStatsRequest(), authorization=keys["other"])).total == 0
    assert not (await call(stub, "ListJobs", v1.ListJobsRequest(), authorization=keys["other"])).items
    assert len((await call(stub, "ListJobs", v1.ListJobsRequest(), authorization=keys["reader"])).items) == 1
    await app.submit("b", tenant="acme")
    page = await call(stub, "ListJobs", v1.ListJobsRequest(limit=1), authorization=keys["acme"])
    theirs = v1.ListJobsRequest(limit=1, cursor=page.next_cursor)
    assert (await refused(stub, "ListJobs", theirs, authorization=keys["other"]))[0] == "INVALID_ARGUMENT"
    watching = stub.WatchJob(v1.WatchJobRequest(), metadata=(("authorization", keys["other"]),), timeout=20)
    telling = asyncio.ensure_future(watching.read())
    await asyncio.sleep(0.2)
    await app.submit("theirs", tenant="acme")
    await app.submit("own", tenant="other")
    event = await telling
    assert isinstance(event, v1.JobEvent)
    assert (event.tenant, event.kind) == ("other", "own")


@pytest.mark.parametrize("name", ["Vectorize", "CancelJob", "RetryJob", "RespondJob"])
async def test_a_key_that_may_read_does_not_write(
    stub: PerdureAsyncStub, keys: dict[str, str], name: str
) -> None:
    code, _, message = await refused(stub, name, REQUESTS[name], authorization=keys["reader"])
    assert code == "PERMISSION_DENIED"
    assert "one that allows write" in message
