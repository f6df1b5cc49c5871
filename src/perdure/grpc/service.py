"""The calls: each lets its caller in, asks the app, and renders what REST renders, as messages."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import grpc
import msgspec
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from perdure import wire
from perdure.app import App
from perdure.domain import validation as check
from perdure.domain.access import Caller, Scope
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import InvalidInput, RateLimited, SlowFollower, WaitTimeout
from perdure.domain.job import Job
from perdure.domain.log import JobEvent
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.grpc.failures import end, refuse
from perdure.grpc.v1 import perdure_pb2 as v1
from perdure.grpc.v1 import perdure_pb2_grpc

Answer = TypeVar("Answer", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

MAX_WAIT: Final = 60.0
_MARGIN: Final = 0.2
"""Seconds before a call's deadline at which a wait is answered."""
ADMIT_EVERY: Final = 15.0
"""Seconds between two looks at whether a watcher's credential is still good."""


def _unary(scope: Scope) -> Callable[[Callable[..., Awaitable[Answer]]], Any]:
    """Make ``async def (self, request, caller, context)`` a call that needs a scope, and whose errors are told."""

    def make(handle: Callable[..., Awaitable[Answer]]) -> Any:
        @functools.wraps(handle)
        async def call(self: Service, request: Message, context: Context) -> Answer:
            try:
                return await handle(self, request, await self.admit(context, scope), context)
            except Exception as error:  # noqa: BLE001  # the last place that can answer; it is logged
                await refuse(context, error, handle.__name__)

        return call

    return make


class Service(perdure_pb2_grpc.PerdureServicer):
    """The calls of `perdure.v1`.

    Args:
        app: open.
        stopping: set when the server begins to stop: those who watch are sent away, to come back elsewhere.
    """

    def __init__(self, app: App, stopping: asyncio.Event) -> None:
        self._app = app
        self._stopping = stopping

    async def admit(self, context: Context, scope: Scope) -> Caller:
        """Let a caller in by its metadata; see `Gate.admit`."""
        sent = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        word, _, credential = sent.get("authorization", "").partition(" ")
        return await self._app.gate.admit(
            credential.strip() if word.lower() == "bearer" else None,
            scope,
            tenant=sent.get("x-tenant"),
            actor=sent.get("x-actor"),
        )

    @_unary(Scope.WRITE)
    async def Vectorize(self, request: v1.VectorizeRequest, caller: Caller, _context: Context) -> v1.Job:  # noqa: N802
        """Take a document."""
        options: dict[str, Any] = {
            name: getattr(request, name) or None
            for name in ("document_id", "chunking", "user_id", "created_by", "idempotency_key")
        }
        options |= {
            "tenant": caller.tenant,
            "namespace": check.name(request.namespace or DEFAULT_NAMESPACE, "namespace"),
            "version": request.version if request.HasField("version") else None,
            "metadata": _json(request.metadata),
            "priority": request.priority,
            "labels": dict(request.labels),
        }
        match request.WhichOneof("source"):
            case "text":
                options |= {"media_type": request.media_type or "text/plain", "name": request.name or "text"}
                return _job(await self._app.ingest_text(request.text, **options))
            case "content" if request.name and request.content:
                options |= {"media_type": request.media_type or None, "name": request.name}
                return _job(await self._app.ingest_stream(_once(request.content), **options))
            case _:
                raise InvalidInput("there is no document; send text, or content and its name")

    @_unary(Scope.READ)
    async def GetJob(self, request: v1.GetJobRequest, caller: Caller, context: Context) -> v1.Job:  # noqa: N802
        """Show a job."""
        if not 0 <= request.wait_seconds <= MAX_WAIT:
            raise InvalidInput(f"wait_seconds is {request.wait_seconds:g}; expected 0 to {MAX_WAIT:g}")
        left = context.time_remaining()
        wait = min(request.wait_seconds, MAX_WAIT if left is None else left - _MARGIN)
        if wait > 0:
            with suppress(WaitTimeout):
                await self._app.jobs.wait(request.id, tenant=caller.tenant, timeout=wait)
        return _job(await self._app.jobs.get(request.id, tenant=caller.tenant))

    @_unary(Scope.READ)
    async def ListJobs(  # noqa: N802
        self, request: v1.ListJobsRequest, caller: Caller, _context: Context
    ) -> v1.ListJobsResponse:
        """List jobs."""
        wanted = JobFilter(
            tenant=caller.tenant,
            states=tuple(map(_state, request.status)),
            kinds=tuple(request.kind),
            document_id=request.document_id or None,
            user_id=request.user_id or None,
            created_from=_moment(request.created_from) if request.HasField("created_from") else None,
            created_before=_moment(request.created_before) if request.HasField("created_before") else None,
            oldest_first=request.oldest_first,
        )
        after = wanted.unseal(request.cursor) if request.cursor else None
        page = await self._app.jobs.page(wanted, limit=request.limit or 50, after=after)
        return _filled(wire.JobPage.of(page, wanted), v1.ListJobsResponse())

    @_unary(Scope.WRITE)
    async def CancelJob(self, request: v1.CancelJobRequest, caller: Caller, _context: Context) -> v1.Job:  # noqa: N802
        """Call a job off."""
        options = {"tenant": caller.tenant, "actor": caller.actor}
        return _job(await self._app.jobs.cancel(request.id, reason=request.reason, **options))

    @_unary(Scope.WRITE)
    async def RetryJob(self, request: v1.RetryJobRequest, caller: Caller, _context: Context) -> v1.Job:  # noqa: N802
        """Send a job round again."""
        return _job(await self._app.jobs.requeue(request.id, tenant=caller.tenant, actor=caller.actor))

    @_unary(Scope.WRITE)
    async def RespondJob(self, request: v1.RespondJobRequest, caller: Caller, _context: Context) -> v1.Job:  # noqa: N802
        """Answer a job's question."""
        if not request.HasField("answer"):
            raise InvalidInput("there is no answer; a null is sent as null_value")
        options = {"tenant": caller.tenant, "actor": caller.actor}
        answer, key = _json(request.answer), request.key or None
        return _job(await self._app.jobs.respond(request.id, answer, key=key, **options))

    @_unary(Scope.READ)
    async def Search(  # noqa: N802
        self, request: v1.SearchRequest, caller: Caller, _context: Context
    ) -> v1.SearchResponse:
        """Find chunks."""
        hits = await self._app.search(
            request.query,
            tenant=caller.tenant,
            namespace=request.namespace or DEFAULT_NAMESPACE,
            limit=request.limit or 10,
            where=_json(request.filter),
            document_ids=request.document_ids,
            mode=request.mode or "hybrid",
            threshold=request.threshold if request.HasField("threshold") else None,
            effort=request.effort if request.HasField("effort") else None,
        )
        return _filled(wire.Hits.of(hits), v1.SearchResponse())

    @_unary(Scope.READ)
    async def GetStats(self, request: v1.GetStatsRequest, caller: Caller, _context: Context) -> v1.Stats:  # noqa: N802
        """Count jobs."""
        about = {"user_id": request.user_id or None, "document_id": request.document_id or None}
        counts = msgspec.to_builtins(wire.Counts.of(await self._app.jobs.stats(caller.tenant, **about)))
        by_kind = {kind: {"by_status": states} for kind, states in counts["by_kind"].items()}
        return ParseDict(counts | {"by_kind": by_kind}, v1.Stats())

    async def WatchJob(  # noqa: N802
        self, request: v1.WatchJobRequest, context: Context
    ) -> AsyncIterator[v1.JobEvent]:
        """Tell what happens to a job, or to all of the tenant's."""
        try:
            caller = await self.admit(context, Scope.READ)
            async with aclosing(self._events(request, caller.tenant)) as events:
                async for event in self._while_admitted(events, context):
                    yield _filled(wire.EventLine.of(event), v1.JobEvent(position=event.position))
        except SlowFollower as error:
            await end(context, "store-unavailable", str(error))
        except Exception as error:  # noqa: BLE001  # as in `_unary`
            await refuse(context, error, "WatchJob")
        if self._stopping.is_set():
            await end(context, "not-ready", "the server stops; watch again after the last event's position")

    def _events(self, request: v1.WatchJobRequest, tenant: str) -> AsyncGenerator[JobEvent, None]:
        after = request.after or None
        if not request.id:
            if after is not None:
                self._app.events.check_position(after)
            return self._app.events.follow(tenant, after)
        return self._app.events.follow_job(request.id, tenant=tenant, after=after)

    async def _while_admitted(
        self, events: AsyncGenerator[JobEvent, None], context: Context
    ) -> AsyncIterator[JobEvent]:
        """The events, until the server stops; a credential that has ended meanwhile raises."""
        stopping = asyncio.create_task(self._stopping.wait())
        following: asyncio.Task[JobEvent | None] | None = None
        try:
            while True:
                following = following or asyncio.create_task(anext(events, None))
                done, _ = await asyncio.wait(
                    (following, stopping), timeout=ADMIT_EVERY, return_when=asyncio.FIRST_COMPLETED
                )
                if stopping in done:
                    return
                if not done:
                    with suppress(RateLimited):
                        await self.admit(context, Scope.READ)
                    continue
                event, following = following.result(), None
                if event is None:
                    return
                yield event
        finally:
            for task in filter(None, (stopping, following)):
                task.cancel()
            await asyncio.gather(*filter(None, (stopping, following)), return_exceptions=True)


def _filled(answer: msgspec.Struct, message: Answer) -> Answer:
    """Fill a message with what REST would answer: its fields have the same names; null is left out."""
    return ParseDict(msgspec.to_builtins(answer), message, ignore_unknown_fields=True)


def _job(job: Job) -> v1.Job:
    return _filled(wire.JobWhole.of(job), v1.Job())


def _json(message: Struct | Value) -> Any:
    """JSON of a message; a number without a fraction is a whole one, as in JSON."""
    return _whole(MessageToDict(message))


def _whole(value: Any) -> Any:
    match value:
        case dict():
            return {name: _whole(item) for name, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _state(word: str) -> JobState:
    try:
        return JobState("running" if word == "processing" else word)
    except ValueError:
        raise InvalidInput(f"status is {word!r}; expected one of {', '.join(JobState)}") from None


def _moment(told: Timestamp) -> datetime:
    return told.ToDatetime(UTC)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
