"""`perdure.open`: the whole system as one object."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import msgspec

from perdure import bootstrap, deletion, ingestion, orders, reindexing
from perdure.access import Gate
from perdure.chunkers import named as chunking
from perdure.core.dispatch import Dispatcher
from perdure.core.events import EventLog
from perdure.core.generations import Documents, Generations
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.keys import Keys
from perdure.core.tracking import Tracked
from perdure.core.webhooks import KIND as WEBHOOK
from perdure.core.webhooks import RETRY as WEBHOOK_RETRY
from perdure.core.webhooks import Webhooks
from perdure.core.worker import Worker
from perdure.deletion import Deletion
from perdure.domain import validation as check
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import InvalidInput, PerdureError
from perdure.domain.job import DEFAULT_TENANT, Job, NewJob
from perdure.domain.record import Json
from perdure.domain.retry import RetryPolicy
from perdure.domain.search import Hit, parse_filter
from perdure.domain.terms import parse_shares
from perdure.feeding import companions
from perdure.ingestion import Ingestion
from perdure.inline import inline
from perdure.ledger import Ledger
from perdure.orders import FileItem, OrderBook
from perdure.ports.blob_store import BlobStore
from perdure.ports.change_feed import ChangeFeed
from perdure.ports.vector_store import VectorStore
from perdure.quotas import Quotas
from perdure.reindexing import Reindexing
from perdure.settings import Settings
from perdure.submissions import Submissions, Unchanged
from perdure.telemetry import Metrics, Recent
from perdure.telemetry.traces import tracing
from perdure.tracking import make_tracker
from perdure.verification import Drift, Verification
from perdure.wiring import Pipeline

if TYPE_CHECKING:
    from perdure.parsers import Parsers
    from perdure.pipeline.search import Mode
    from perdure.pipeline.vectorize import Vectorizer

__all__ = ["App", "FileItem", "open"]

Function = TypeVar("Function", bound=Callable[..., Any])
_OWN_KINDS: Final = frozenset({orders.KIND, reindexing.KIND, deletion.KIND, WEBHOOK})
log = logging.getLogger(__name__)


def open(  # `perdure.open` reads as the builtin does
    store: str | None = None, *, settings: Settings | None = None, worker: bool = True, **overrides: Any
) -> App:
    """Open Perdure on a store; use it as ``async with perdure.open(…) as app``.

    Args:
        store: a URL; None: ``PERDURE_STORE``, else ``sqlite:///perdure.db``.
        settings: instead of the environment's.
        worker: whether jobs also run inside this app while it is open; False: submit, look and search only.
        overrides: fields of `Settings`.

    Raises:
        InvalidInput: an unknown URL or setting.
    """
    if settings is None:
        settings = Settings.from_environ(os.environ, store=store, **overrides)
    elif store is not None or overrides:
        given = {"store": store} if store else {}
        settings = msgspec.structs.replace(settings, **given, **overrides)
    return App(settings, worker=worker)


class App:
    """Documents in, vectors out, jobs in between; opened by `perdure.open`.

    Attributes:
        settings: what it was opened with.
        jobs: jobs of any kind: look, count, cancel, requeue, answer.
        events: what happens to jobs, live, in whatever process.
        keys: API keys: made, listed, rotated, revoked.
        gate: lets callers in, for faces: a credential becomes a `Caller`.
        metrics: what Prometheus reads of this process and its store. recent: what ended in the last hour.
        webhooks: who else is told of it.
        followed: feeds that were declared in code (`follow`): name → whose, and what.
        handlers: the registered kinds; Perdure's own, such as `vectorize`, while the app is open.
        documents: documents and chunks as readers see them.
        vectors, blobs: the stores of chunks and of waiting content. A namespace that was reindexed lies in `vectors` once for
            each model, under names of its own.
    """

    jobs: JobService
    events: EventLog
    keys: Keys
    gate: Gate
    metrics: Metrics
    recent: Recent
    webhooks: Webhooks
    documents: Documents
    vectors: VectorStore
    blobs: BlobStore

    def __init__(self, settings: Settings, *, worker: bool = True) -> None:
        self.settings = settings
        self.handlers = Handlers()
        self.followed: dict[str, tuple[str, ChangeFeed]] = {}
        self._with_worker = worker
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            parts = bootstrap.build(self.settings)
            stack.push_async_callback(parts.close)
            await parts.setup()
            self.vectors, self.blobs = parts.vectors, parts.blobs
            self.jobs = JobService(parts.jobs, poll=timedelta(seconds=self.settings.poll_seconds))
            self.jobs.attempts_of, self.jobs.limited = self.handlers.attempts_of, self.handlers.limited
            stack.push_async_callback(self.jobs.close)
            await self.jobs.start()
            self._quotas = Quotas(self.settings, self.jobs, self.vectors)
            self.events = EventLog(self.jobs)
            stack.push_async_callback(self.events.close)
            self.keys = Keys(parts.jobs.values, self.jobs.clock.now)
            self.gate = Gate(self.keys, self.settings)
            self.webhooks = bootstrap.webhooks(self.jobs, self.settings)
            stack.push_async_callback(self.webhooks.close)
            self._tracker = make_tracker(self.jobs, self.settings, maintain=not self._with_worker)
            stack.push_async_callback(self._tracker.aclose)
            self.jobs.tracing = tracing()
            span = nullcontext if self.jobs.tracing is None else self.jobs.tracing.span
            self._pipeline = Pipeline(self.vectors, self.settings, self.jobs, span, parts.cache)
            stack.push_async_callback(self._pipeline.close)
            self.metrics, self.recent = Metrics(self.jobs, self._pipeline.tokens), Recent(self.jobs)
            self._generations = Generations(parts.jobs.values, self.settings.embedder)
            self.documents = Documents(self.vectors, self._generations)
            self._orders = OrderBook(self.jobs, self.settings.job_ttl, chunking.parse)
            self._ingestion = Ingestion(
                self.jobs,
                self.vectors,
                self.blobs,
                self._vectorizer,
                chunking.chunker,
                self._generations,
            )
            unchanged = Unchanged(self.vectors, self._vectorizer, chunking.chunker, self._generations)
            self._submissions = Submissions(self.jobs, self.blobs, self._orders, self._quotas, unchanged)
            self._deletion = Deletion(self.jobs, self.vectors, self.blobs, self._generations)
            stack.push_async_callback(self._ingestion.close)
            self.jobs.listeners.append(self._ingestion.heed)
            self._reindexing = Reindexing(self.jobs, self.vectors, self._generations, self._vectorizer)
            stack.push_async_callback(self._reindexing.close)
            self.jobs.listeners.append(self._reindexing.heed)
            for kind, call, retry in (
                (orders.KIND, self._ingestion.run, ingestion.RETRY),
                (reindexing.KIND, self._reindexing.run, reindexing.RETRY),
                (deletion.KIND, self._deletion.run, deletion.RETRY),
                (WEBHOOK, self.webhooks.deliver, WEBHOOK_RETRY),
            ):
                if kind not in self.handlers:
                    self.handlers.register(kind, call, retry=retry)
                    stack.callback(self.handlers.remove, kind)  # an app may be opened again
            if self._with_worker:
                worker = self.make_worker()
                running = asyncio.create_task(worker.run(), name="perdure-worker")
                running.add_done_callback(_mourn)
                stack.push_async_callback(_drain, worker, running)
            self._stack = stack.pop_all()
        return self

    @property
    def tokens(self) -> Mapping[tuple[str, str], int]:
        """What the model has read since this app was opened, documents and questions: (tenant, model) → tokens."""
        return self._pipeline.tokens

    @property
    def ledger(self) -> Ledger:
        """What became of each chunk of an ingestion."""
        return Ledger(self.jobs, self.documents)

    @property
    def parsers(self) -> Parsers:
        """Which parser reads which file."""
        return self._pipeline.parsers

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- documents --------------------------------------------------------------------------

    async def ingest(
        self,
        path: str | Path,
        *,
        document_id: str | None = None,
        encoding: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        **options: Any,
    ) -> Job:
        """Submit a file, which a worker on this machine reads when its turn comes. Durable on return.

        Args:
            document_id: names the document for all its versions; default: the path as seen from the working
                folder, absolute where it lies outside.
            encoding: of its bytes; None: by byte order mark, else UTF-8.
            metadata: JSON; searches can filter by it.
            options: `namespace`, `tenant`, `version`, `name`, `media_type`, `chunking` (how it is cut, e.g.
                ``"markdown:1200,overlap=100"``), `connection` (see `submit`), and the fields of `NewJob`.

        Raises:
            DocumentUnreadable: it is not there now, or no file.
            InvalidInput: a name or value does not fit.
            QuotaExceeded: the tenant has as much as it may.
        """
        item = FileItem(
            path=Path(path), document_id=document_id, encoding=encoding, metadata=dict(metadata or {})
        )
        return (await self.ingest_many([item], **options))[0]

    async def ingest_many(
        self, items: Iterable[FileItem], *, connection: object | None = None, **options: Any
    ) -> list[Job]:
        """Submit many files, some hundred at a time, each batch whole or not at all; see `ingest`.

        Where a worker of this app ingests, documents that did not change are found here: their jobs are completed on return.
        """
        return await self._submissions.files(items, options, connection)

    async def ingest_text(
        self,
        text: str,
        *,
        document_id: str | None = None,
        media_type: str = "text/plain",
        **options: Any,
    ) -> Job:
        """Submit a text; its content is durable on return. `options` as of `ingest`.

        Args:
            document_id: default: a new one.
            media_type: ``text/plain``, ``text/markdown``, ``text/html`` or ``text/x-rst``.

        Raises:
            DocumentEmpty: there is no word in it.
        """
        told = {"document_id": document_id, "media_type": media_type, "name": "text", **options}
        return await self._submissions.text(text, told)

    async def ingest_stream(
        self,
        pieces: AsyncIterable[bytes],
        *,
        name: str,
        document_id: str | None = None,
        media_type: str | None = None,
        late: Callable[[], Mapping[str, Any]] = dict,
        **options: Any,
    ) -> Job:
        """Submit content as it comes in, never whole in memory; durable on return. `options` as of `ingest`.

        Args:
            name: a file name; decides the parser where `media_type` does not.
            late: asked for more options once the last piece is in: those that come after the content.
        """
        told = {"document_id": document_id, "media_type": media_type, "name": name, **options}
        return await self._submissions.stream(pieces, told, late)

    async def search(
        self,
        query: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        tenant: str = DEFAULT_TENANT,
        limit: int = 10,
        where: Mapping[str, Any] | None = None,
        document_ids: Sequence[str] = (),
        mode: str = "hybrid",
        threshold: float | None = None,
        effort: int | None = None,
    ) -> list[Hit]:
        """The chunks that answer a question best, best first.

        Args:
            where: a metadata filter, e.g. ``{"lang": "en", "page": {"gte": 3}}``; see
                `perdure.domain.search.parse_filter`.
            mode: ``hybrid`` (by meaning and by words), ``vector`` or ``text``.
            threshold: with ``vector``: the least cosine similarity of a hit.
            effort: how hard an approximate index looks, 1 to 32,768 (pgvector: `ef_search` of HNSW, `probes` of
                IVFFlat); None: as the store is set up. Without an index nothing is missed, whatever it says.

        Raises:
            InvalidInput: an empty query, or a filter, mode, limit or effort that does not fit.
        """
        lineage = await self._generations.read(tenant, namespace)
        while True:
            seen = lineage.current
            searcher = await self._pipeline.by(seen.embedder).searcher()
            hits = await searcher.search(
                query,
                tenant=tenant,
                namespace=seen.name(namespace),
                limit=limit,
                where=parse_filter(where),
                document_ids=tuple(document_ids),
                mode=cast("Mode", mode),  # checked there
                threshold=threshold,
                effort=effort,
            )
            lineage = await self._generations.read(tenant, namespace)
            if seen in lineage.kept:  # else it may have been removed under the search
                return hits

    async def delete_document(
        self,
        document_id: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        tenant: str = DEFAULT_TENANT,
        version: int | None = None,
    ) -> int:
        """Take a document away, cancelling what is under way; how many chunks readers no longer see. It is durable before
        anything is removed: where this process dies, a worker goes on.

        Args:
            version: only versions up to this one, whether they came yet or not; a newer one stays.

        Raises:
            NotFound: without a version: there is nothing of it.
            Deferred: the vector store is away; a job deletes it as soon as it is back.
        """
        return await self._deletion.document(tenant, namespace, document_id, version)

    async def delete_ingestion(self, job_id: str, *, tenant: str = DEFAULT_TENANT) -> int:
        """Take away what one ingestion brought; a newer version of its document stays.

        Raises:
            NotFound: there is no such ingestion.
            Deferred: as `delete_document`.
        """
        return await self._deletion.ingestion(tenant, job_id)

    def verify(
        self, namespace: str | None = None, *, repair: bool = False, tenant: str = DEFAULT_TENANT
    ) -> AsyncIterator[Drift]:
        """Compare jobs, documents and vectors both ways, while all is in use; what does not fit, one after the other.

        Args:
            namespace: only this one; None: all of the tenant.
            repair: put it right: vectors are made again from stored texts, other lost chunks by ingesting the document
                again where its job still knows its content, and what belongs to nothing is removed.
        """
        parts = (self.jobs, self.vectors, self._generations, self._vectorizer, self._orders)
        return Verification(*parts).run(tenant, namespace, repair=repair)

    async def reindex(
        self,
        namespace: str = DEFAULT_NAMESPACE,
        embedder: str = "",
        *,
        rollback: bool = False,
        drop_old: bool = False,
        tenant: str = DEFAULT_TENANT,
        **options: Any,
    ) -> Job:
        """Submit a job that moves a namespace to another embedding model while it is searched and filled: its stored texts
        are embedded again beside it, and searches change over in one step. Durable on return.

        Args:
            embedder: as `Settings.embedder`; every process must be set up for it (`Settings.embedders`).
            rollback: instead, go back to the model before, with all that came in meanwhile.
            drop_old: instead, remove what is kept for a rollback.
            options: fields of `NewJob`.

        Raises:
            InvalidInput: not one of the three is asked for, or the embedder is not set up here.
        """
        check.name(namespace, "namespace")
        if [bool(embedder), rollback, drop_old].count(True) != 1:
            raise InvalidInput("reindex takes one of: an embedder (--model), rollback, drop_old")
        payload: dict[str, Json] = {"namespace": namespace}
        if embedder:
            self._pipeline.by(embedder)
            payload["embedder"] = embedder
        else:
            payload["action"] = "back" if rollback else "drop"
        options = {"ttl": self.settings.job_ttl, **options}
        return await self.jobs.add(NewJob(kind=reindexing.KIND, payload=payload, tenant=tenant, **options))

    async def _vectorizer(self, embedder: str) -> Vectorizer:
        return await self._pipeline.by(embedder).vectorizer()

    # --- jobs -------------------------------------------------------------------------------

    def handler(
        self,
        kind: str,
        *,
        max_attempts: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: str | timedelta | None = None,
        limit: int | None = None,
        limit_per_tenant: int | None = None,
    ) -> Callable[[Function], Function]:
        """Let the decorated function run the jobs of `kind`: ``async def (ctx, **payload)``, or a plain
        function, which then runs in a thread. What it returns (JSON) is the job's result.

        Args:
            timeout: of one run, e.g. ``"5m"``.
            limit, limit_per_tenant: how many jobs of the kind may run at once, of all and of each tenant, over all workers
                of the store; every process that runs the kind should say the same. None: any number.
        """

        def register(call: Function) -> Function:
            self.handlers.register(
                kind,
                call,
                retry=retry,
                max_attempts=max_attempts,
                timeout=None if timeout is None else check.duration(timeout),
                limit=limit,
                limit_per_tenant=limit_per_tenant,
            )
            return call

        return register

    async def submit(
        self,
        kind: str,
        payload: Mapping[str, Json] | None = None,
        *,
        connection: object | None = None,
        **options: Any,
    ) -> Job:
        """Submit a job of any kind; `options` are fields of `NewJob`. Durable on return.

        Args:
            connection: of asyncpg, to the store's PostgreSQL database, with a transaction open: the job is part of
                it, and is there once it commits.

        Raises:
            InvalidInput: a field or the connection does not fit, the store takes no connection, or the kind is
                `vectorize`, for which there is `ingest`.
        """
        new = self._new(kind, payload, **options)
        await self._quotas.check_jobs(new.tenant)
        return await self.jobs.add(new, connection=connection)

    async def submit_many(self, jobs: Sequence[Mapping[str, Any]], *, tenant: str) -> list[Job]:
        """Submit jobs of a tenant, all or none; each is the arguments of `submit`. Durable on return.

        Raises:
            InvalidInput: a field of one does not fit; nothing was added.
            QuotaExceeded: they would be too many; nothing was added.
            IdempotencyConflict: a key was used before for another request. The others were added.
        """
        new = [self._new(**job, tenant=tenant) for job in jobs]
        await self._quotas.check_jobs(tenant, len(new))
        return await self.jobs.add_many(new)

    def _new(self, kind: str, payload: Mapping[str, Json] | None = None, **options: Any) -> NewJob:
        if kind in _OWN_KINDS:
            raise InvalidInput(
                f"jobs of kind {kind!r} are Perdure's own; documents come in by ingest (POST /v1/ingest)"
            )
        return NewJob(kind=kind, payload=dict(payload or {}), **{"ttl": self.settings.job_ttl, **options})

    def track(self, kind: str, **options: Any) -> Tracked:
        """Keep a record of work that runs elsewhere: ``async with app.track("transcribe", tenant="acme") as job``.

        The work never waits for the store; see `Tracker.track` for the options.
        """
        return self._tracker.track(kind, **options)

    async def wait(self, job_id: str, *, tenant: str = DEFAULT_TENANT, timeout: float | None = None) -> Job:
        """The job once it is finished; see `JobService.wait`."""
        return await self.jobs.wait(job_id, tenant=tenant, timeout=timeout)

    def make_worker(self, **options: Any) -> Worker:
        """A worker with this app's settings; `options` of `Worker` win."""
        settings = self.settings
        defaults: dict[str, Any] = {
            "concurrency": settings.concurrency,
            "lease": timedelta(seconds=settings.lease_seconds),
            "poll": timedelta(seconds=settings.poll_seconds),
            "grace": timedelta(seconds=settings.grace_seconds),
            "chores": (self._ingestion.sweep, self._pipeline.sweep),
            "shares": parse_shares(settings.shares),
        }
        worker = Worker(self.jobs, self.handlers, **(defaults | options))
        ours = self.handlers.get(orders.KIND).call == self._ingestion.run
        self._submissions.looks |= ours and orders.KIND in (options.get("kinds") or self.handlers)
        worker.companions += [Dispatcher(self.jobs, worker.name).run, *companions(self)]
        return worker

    def follow(self, name: str, feed: ChangeFeed, *, tenant: str = DEFAULT_TENANT) -> None:
        """Let this app's workers read a feed, as those of `Settings.feeds`: one of them at a time, over all processes that say the same
        name. Say it before a worker is made, and so before the app is opened where it has one inside.

        Args:
            feed: of `perdure.feeding.make_feed`, or your own. tenant: whose it is.
        """
        self.followed[check.name(name, "the feed's name")] = (tenant, feed)

    def testing(self) -> AbstractAsyncContextManager[App]:
        """For your own tests: inside this block jobs have run when `submit…` and `ingest…` return, up to their ends, to a
        question, or to a time at which they are to go on. Open the app without a worker.
        """
        return inline(self)

    async def health(self) -> dict[str, str]:
        """Ask each store for a sign of life: part → ``ok``, or what is wrong."""
        told: dict[str, str] = {}
        for part, probe in (("store", self.jobs.store.now()), ("vectors", self.vectors.namespaces("-"))):
            try:
                async with asyncio.timeout(5):
                    await probe
                told[part] = "ok"
            except (PerdureError, TimeoutError) as error:
                told[part] = str(error) or "no answer within 5 s"
        return told


def _mourn(running: asyncio.Task[None]) -> None:
    """A worker ends only when it is stopped; else nobody would know why jobs stay where they are."""
    if not running.cancelled() and (error := running.exception()):
        log.critical("the worker inside this app died; no jobs run here any more", exc_info=error)


async def _drain(worker: Worker, running: asyncio.Task[None]) -> None:
    worker.stop()
    await running
