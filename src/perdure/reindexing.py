"""How a namespace moves to another embedding model while it is searched: `reindex` jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal, TypeAlias

from perdure.core.context import Context
from perdure.core.generations import Generations
from perdure.core.handlers import Partial
from perdure.core.jobs import JobService
from perdure.domain.document import StoredDocument
from perdure.domain.errors import Fatal, LeaseLost, StaleWrite, TextRejected
from perdure.domain.generation import (
    Lineage,
    begin_cut,
    cleared,
    cut,
    drop_previous,
    has_copy,
    start,
    start_back,
    stop,
)
from perdure.domain.record import Json
from perdure.domain.retry import RetryPolicy
from perdure.domain.state import JobState
from perdure.domain.transition import Transition
from perdure.pipeline.vectorize import QuietRun, Vectorizer
from perdure.ports.vector_store import VectorStore

Action: TypeAlias = Literal["move", "back", "drop"]

Change: TypeAlias = Callable[[Callable[[Lineage], Lineage]], Awaitable[tuple[Lineage, Lineage]]]

KIND: Final = "reindex"
RETRY: Final = RetryPolicy(max_attempts=10)
PAGE: Final = 200
AT_ONCE: Final = 32
"""Documents that are copied side by side, and share the embedder's batches."""
PASSES: Final = 5
FEW: Final = 50
"""A pass that copied no more is followed by the cut."""
NAMED: Final = 1000
"""Most documents with missing chunks that a result names."""


class Reindexing:
    """Runs `reindex` jobs.

    A job copies the documents of the current generation into the coming one, again until few have changed meanwhile; then
    it lets ingestions write to both, looks over all documents once more, and cuts over.

    Args:
        vectorizer: gives the pipeline with an embedder.
    """

    def __init__(
        self,
        jobs: JobService,
        vectors: VectorStore,
        generations: Generations,
        vectorizer: Callable[[str], Awaitable[Vectorizer]],
    ) -> None:
        self._jobs = jobs
        self._vectors = vectors
        self._generations = generations
        self._vectorizer = vectorizer
        self._stopping: set[asyncio.Task[tuple[Lineage, Lineage]]] = set()

    def heed(self, move: Transition) -> None:
        """Hear of a transition: where the job has come to an end without a cut, ingestions write to one generation again."""
        job = move.after
        if job.kind == KIND and job.state in (JobState.FAILED, JobState.CANCELLED):
            decide = partial(stop, job=job.id)
            task = asyncio.create_task(
                self._generations.change(job.tenant, str(job.payload["namespace"]), decide)
            )
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Wait for what `heed` began."""
        await asyncio.gather(*self._stopping, return_exceptions=True)

    async def run(
        self, ctx: Context, namespace: str, action: Action = "move", embedder: str = ""
    ) -> dict[str, Json] | Partial:
        """The handler.

        Args:
            action: ``move`` to `embedder`; ``back`` to the generation before; ``drop`` that one.

        Raises:
            Fatal: another job moves the namespace, or there is nothing to do.
            InvalidInput: the embedder is not set up here.
            EmbedderError, RetryAfter, StoreUnavailable: it goes on where it stopped, in the next attempt.
        """
        tenant = ctx.job.tenant
        change = partial(self._generations.change, tenant, namespace)
        if embedder:
            await self._vectorizer(embedder)  # found out now whether it is set up here
        told: dict[str, Json] = {"namespace": namespace}
        if action == "drop":
            _, lineage = await change(drop_previous)
        else:
            lineage = await self._generations.read(tenant, namespace)
            if not lineage.moved_by(ctx.job.id):
                await self._refuse_while_moved(ctx, lineage)
                run = (ctx.job.id, ctx.epoch)
                back = action == "back"
                _, lineage = await change(
                    lambda now: start_back(now, *run) if back else start(now, embedder, *run)
                )
                told |= await self._move(ctx, namespace, lineage, change)
                lineage = await self._generations.read(tenant, namespace)
        await self._clear(ctx, namespace, lineage)
        told |= {"generation": lineage.current.number, "embedder": lineage.current.embedder}
        if short := told.get("chunks_missing"):
            return Partial(
                result=told,
                message=f"{short} chunks could not be embedded by the model; the result names their documents",
            )
        return told

    async def _refuse_while_moved(self, ctx: Context, lineage: Lineage) -> None:
        if lineage.coming is None or lineage.job in ("", ctx.job.id):
            return
        holder = await self._jobs.store.get(ctx.job.tenant, lineage.job)
        if holder is not None and not holder.finished:
            raise Fatal(f"job {holder.id} is reindexing this namespace; wait for it, or cancel it")

    async def _move(
        self,
        ctx: Context,
        namespace: str,
        lineage: Lineage,
        change: Change,
    ) -> dict[str, Json]:
        coming = lineage.coming
        assert coming is not None, "it was just begun"
        vectorizer = await self._vectorizer(coming.embedder)
        copying = _Copying(
            self._vectors, vectorizer, ctx, lineage.current.name(namespace), coming.name(namespace)
        )
        await copying.count()
        for _ in range(PASSES):
            if await copying.copy_all() <= FEW:
                break
        await change(partial(begin_cut, job=ctx.job.id, epoch=ctx.epoch))
        # Whoever has not written to both has published before this pass begins.
        for _ in range(PASSES):
            if not await copying.copy_all():
                break
        await copying.remove_surplus()
        ctx.check()
        await change(partial(cut, job=ctx.job.id, epoch=ctx.epoch))
        return copying.told()

    async def _clear(self, ctx: Context, namespace: str, lineage: Lineage) -> None:
        """Remove the documents of generations that nobody needs."""
        tenant = ctx.job.tenant
        for gone in lineage.dropped:
            name = gone.name(namespace)
            while page := await self._vectors.documents(tenant, name, PAGE):
                ctx.check()
                await _side_by_side(
                    [partial(self._vectors.delete, tenant, name, one.document.id) for one in page]
                )
            await self._generations.change(tenant, namespace, partial(cleared, gone=gone))


class _Copying:
    """Brings one generation up to date with another."""

    def __init__(
        self, vectors: VectorStore, vectorizer: Vectorizer, ctx: Context, source: str, target: str
    ) -> None:
        self._vectors = vectors
        self._vectorizer = vectorizer
        self._ctx = ctx
        self._tenant = ctx.job.tenant
        self._source = source
        self._target = target
        self._total = 0
        self._copied = self._embedded = self._tokens = 0
        self._short: dict[str, int] = {}

    async def count(self) -> None:
        """Find out how much there is to do."""
        every = await self._vectors.namespaces(self._tenant)
        self._total = sum(one.documents for one in every if one.name == self._source)

    async def copy_all(self) -> int:
        """Copy every document that has changed since it was copied; how many."""
        copied, seen, after = 0, 0, None
        self._short = {}
        while page := await self._vectors.documents(self._tenant, self._source, PAGE, after):
            self._ctx.check()
            copied += sum(await _side_by_side([partial(self._copy, one) for one in page]))
            seen, after = seen + len(page), page[-1].document.id
            await self._ctx.progress(
                min(1.0, seen / max(self._total, seen)),
                f"{seen:,} documents looked at",
                documents_copied=self._copied,
                chunks_embedded=self._embedded,
                tokens=self._tokens,
            )
        return copied

    async def remove_surplus(self) -> None:
        """Remove what was copied and is not in the source any more."""
        after = None
        while page := await self._vectors.documents(self._tenant, self._target, PAGE, after):
            self._ctx.check()
            await _side_by_side([partial(self._remove_if_gone, one) for one in page])
            after = page[-1].document.id

    def told(self) -> dict[str, Json]:
        """What this run did, and what is missing."""
        return {
            "documents_copied": self._copied,
            "chunks_embedded": self._embedded,
            "tokens": self._tokens,
            "chunks_missing": sum(self._short.values()),
            "documents_incomplete": list[Json](self._short)[:NAMED],
        }

    async def _copy(self, source: StoredDocument) -> int:
        there = source.document
        copy = await self._vectors.document(self._tenant, self._target, there.id)
        if has_copy(source, copy):
            assert copy is not None
            if source.complete and not copy.complete:
                self._short[there.id] = source.chunk_count - copy.chunk_count
            return 0
        try:
            result = await self._vectorizer.copy(
                source, self._target, QuietRun(source.epoch, self._ctx.check)
            )
        except StaleWrite:
            return 1  # it changed meanwhile: another pass
        except TextRejected:
            self._short[there.id] = source.chunk_count
            return 0
        self._copied += 1
        self._embedded += result.chunks_embedded
        self._tokens += result.tokens
        if result.chunks_failed:
            self._short[there.id] = result.chunks_failed
        await self._remove_if_gone(source)
        return 1

    async def _remove_if_gone(self, copied: StoredDocument) -> int:
        there = copied.document
        if await self._vectors.document(self._tenant, self._source, there.id) is not None:
            return 0
        return await self._vectors.delete(self._tenant, self._target, there.id, version=there.version)


async def _side_by_side(calls: list[Callable[[], Awaitable[int]]]) -> list[int]:
    """Await some at a time. The first error stops all and is raised by itself, a lost lease before any other."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def call(one: Callable[[], Awaitable[int]]) -> int:
        async with gate:
            return await one()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(one)) for one in calls]
    except BaseExceptionGroup as errors:
        raise min(errors.exceptions, key=lambda error: not isinstance(error, LeaseLost)) from None
    return [task.result() for task in tasks]
