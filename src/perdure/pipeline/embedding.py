"""Texts become vectors in batches that go across documents."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from perdure.domain.errors import EmbedderError, InvalidInput, RetryAfter, TextRejected
from perdure.domain.job import DEFAULT_TENANT
from perdure.pipeline.governor import Governor
from perdure.pipeline.recall import Recall
from perdure.ports.embedder import Embedder, metered
from perdure.ports.embedding_cache import Cached

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Outcome: TypeAlias = bytes | TextRejected
"""A vector (float32, little-endian), or why there will never be one."""


class Answer(NamedTuple):
    """What became of texts.

    Attributes:
        outcomes: for each text, in order.
        tokens: for each text, how many the model read.
        saved: for each text whose vector was remembered, how many the model need not read.
    """

    outcomes: list[Outcome]
    tokens: list[int]
    saved: dict[str, int] = {}  # noqa: RUF012 - nobody changes it


class _Request:
    """The texts that one document waits for."""

    def __init__(self, texts: Sequence[str], since: float, answer: asyncio.Future[Answer]) -> None:
        self.texts = texts
        self.since = since
        self.answer = answer
        self.batch: _Batch | None = None


class _Batch:
    """Requests that go to the model together, and hold their place until each of them is done with."""

    def __init__(self, requests: list[_Request]) -> None:
        self.requests = requests
        self.held = set(requests)
        for request in requests:
            request.batch = self


class Embedding:
    """The texts of a document, which are embedded, and stored before they are let go of: `async with` does so."""

    def __init__(self, batcher: EmbeddingBatcher, texts: Sequence[str], tenant: str) -> None:
        self.texts = texts
        self.tenant = tenant
        self.request: _Request | None = None
        self._batcher = batcher

    async def answer(self) -> Answer:
        """Wait for what becomes of each text, in order: its vector, or the `TextRejected` that says why it will never have one.

        Raises:
            EmbedderError: the model failed in a way that may pass, or the batcher is closed.
            RetryAfter: the provider asked to wait, or the tenant is at its limit.
        """
        return await self._batcher.answer(self)

    def release(self) -> None:
        """Let go of their place in the batch: they are stored, or nobody wants them any more."""
        if self.request is not None:
            self._batcher.leave(self.request)
            self.request = None

    async def __aenter__(self) -> Answer:
        try:
            return await self.answer()
        except BaseException:
            self.release()
            raise

    async def __aexit__(self, *raised: object) -> None:
        self.release()


class EmbeddingBatcher:
    """Gathers the texts of all documents under way into batches for the model. One event loop uses it.

    A batch leaves when it is full, when every document under way waits for one, or when its oldest text has waited
    `max_wait`; and when fewer than `concurrency` batches are under way. A batch is under way until all of its documents
    have left `embed`, in which they store what they got: whatever dies then, at most `concurrency` batches are
    paid for twice. A document has at most one request here, so what is queued is bounded by the documents under way.

    Args:
        max_wait: seconds. A model on this machine wants little: waiting leaves it idle.
        concurrency: batches at the model, or being stored, at once.
        governor: holds back the texts of tenants that are at their limits; None: there are none.
        recall: knows texts that were embedded before; None: nobody does.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        max_wait: float = 0.002,
        concurrency: int = 1,
        governor: Governor | None = None,
        recall: Recall | None = None,
    ) -> None:
        if max_wait < 0 or concurrency < 1:
            raise InvalidInput(
                f"max_wait is {max_wait} and concurrency {concurrency}; expected 0 or more seconds and 1 or more"
            )
        self._embedder = embedder
        self._max_wait = max_wait
        self._concurrency = concurrency
        self._governor = governor
        self._recall = recall
        self._queue: deque[_Request] = deque()
        self._queued = 0
        self._batches: set[_Batch] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._underway = 0
        self._busy = 0
        self._looking = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def model(self) -> str:
        """The embedder's."""
        return self._embedder.model

    @property
    def dimension(self) -> int:
        """The embedder's."""
        return self._embedder.dimension

    @property
    def max_batch(self) -> int:
        """The embedder's."""
        return self._embedder.max_batch

    @contextmanager
    def document(self) -> Iterator[None]:
        """Announce a document that will ask for vectors: a batch may wait for it, but not longer than `max_wait`."""
        self._underway += 1
        try:
            yield
        finally:
            self._underway -= 1
            self._look_soon()

    def embed(self, texts: Sequence[str], tenant: str = DEFAULT_TENANT) -> Embedding:
        """Embed texts of a document, none empty, and store them inside the block.

        Up to `max_batch` texts go to the model in one batch, never torn apart.
        """
        return Embedding(self, texts, tenant)

    async def answer(self, embedding: Embedding) -> Answer:
        """See `Embedding.answer`."""
        texts, tenant = embedding.texts, embedding.tenant
        if self._recall is None:
            return await self._fresh(embedding, texts)
        known = await self._recall.find(tenant, self._embedder, texts)
        fresh = [text for text in texts if text not in known]
        answer = await self._fresh(embedding, fresh)
        made = dict(zip(fresh, zip(answer.outcomes, answer.tokens, strict=True), strict=True))
        # Before anybody stores them: what dies there is not paid for again.
        kept = {text: Cached(one, cost) for text, (one, cost) in made.items() if isinstance(one, bytes)}
        await self._recall.keep(tenant, self._embedder, kept)
        all_of = [made[text] if text in made else (known[text].vector, 0) for text in texts]
        saved = {text: cached.tokens for text, cached in known.items()}
        return Answer([one for one, _ in all_of], [cost for _, cost in all_of], saved)

    async def _fresh(self, embedding: Embedding, texts: Sequence[str]) -> Answer:
        """What the model makes of texts, which hold their place in its batch from then on."""
        if not texts:
            return Answer([], [])
        taken = None if self._governor is None else await self._governor.take(embedding.tenant, texts)
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        request = embedding.request = _Request(texts, loop.time(), loop.create_future())
        self._queue.append(request)
        self._queued += len(texts)
        self._busy += 1
        self._look_soon()
        answer = await request.answer
        if taken is not None:
            budget, share = taken
            await budget.settle(share, sum(answer.tokens))
        return answer

    def leave(self, request: _Request) -> None:
        """A document is done with its vectors, or does not want them any more."""
        self._busy -= 1
        if request.batch is None:
            if request in self._queue:
                self._queue.remove(request)
                self._queued -= len(request.texts)
        else:
            request.batch.held.discard(request)
            self._settle(request.batch)
        self._look_soon()

    async def close(self) -> None:
        """Give up what is under way: those who wait get an `EmbedderError`. May be called twice."""
        self._closed = True
        self._stop_timer()
        for request in [*self._queue, *(held for batch in self._batches for held in batch.held)]:
            _refuse(request, _closed())
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _look_soon(self) -> None:
        # Only after every task that is ready to hand in its texts has done so.
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self, *, due: bool = False) -> None:
        """Send off what is ready to leave."""
        self._looking = False
        while self._queue and len(self._batches) < self._concurrency and (due or self._ready()):
            batch = self._next_batch()
            self._batches.add(batch)
            call = asyncio.create_task(self._answer(batch))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            due = False
            self._stop_timer()
        if self._queue and self._timer is None and len(self._batches) < self._concurrency:
            due_at = self._queue[0].since + self._max_wait
            self._timer = asyncio.get_running_loop().call_at(due_at, self._time_is_up)

    def _next_batch(self) -> _Batch:
        """Take whole requests, the oldest and then each that still fits; one that fits in no batch goes alone."""
        taken, left = [self._queue.popleft()], deque[_Request]()
        count = len(taken[0].texts)
        for request in self._queue:
            fits = count + len(request.texts) <= self._embedder.max_batch
            (taken if fits else left).append(request)
            count += len(request.texts) if fits else 0
        self._queue, self._queued = left, self._queued - count
        return _Batch(taken)

    def _ready(self) -> bool:
        return self._queued >= self._embedder.max_batch or self._busy >= self._underway

    def _time_is_up(self) -> None:
        self._timer = None
        self._look(due=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self, batch: _Batch) -> None:
        """Free the batch's place once nobody holds it any more."""
        if not batch.held:
            self._batches.discard(batch)

    async def _answer(self, batch: _Batch) -> None:
        texts = [text for request in batch.requests for text in request.texts]
        size = self._embedder.max_batch
        try:
            bites = [await self._embed(texts[start : start + size]) for start in range(0, len(texts), size)]
        except BaseException as error:  # whatever it is, those who wait must hear of it
            broken = (
                error if isinstance(error, Exception) else EmbedderError(f"the model broke off: {error!r}")
            )
            refused = [*batch.requests]
            if isinstance(error, RetryAfter):  # nobody else need wait to hear the same
                refused += self._queue
                self._queue.clear()
                self._queued = 0
            for request in refused:
                _refuse(request, broken)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return
        outcomes = chain.from_iterable(bite.outcomes for bite in bites)
        tokens = chain.from_iterable(bite.tokens for bite in bites)
        for request in batch.requests:
            count = len(request.texts)
            mine = Answer(list(islice(outcomes, count)), list(islice(tokens, count)))
            if not request.answer.done():
                request.answer.set_result(mine)

    async def _embed(self, texts: list[str], attempt: int = 1) -> Answer:
        """Embed a batch; a text that the model refuses is found by halving, so that the others go on."""
        try:
            vectors, tokens = await metered(self._embedder, texts, "document")
        except (TextRejected, InvalidInput) as error:
            if len(texts) == 1:
                refused = TextRejected(str(error))
                refused.attempts = attempt
                return Answer([refused], [0])
            half = len(texts) // 2
            first = await self._embed(texts[:half], attempt + 1)
            second = await self._embed(texts[half:], attempt + 1)
            return Answer(first.outcomes + second.outcomes, first.tokens + second.tokens)
        return Answer(checked(vectors, len(texts), self._embedder), tokens)


def checked(vectors: npt.NDArray[np.float32], count: int, embedder: Embedder) -> list[Outcome]:
    """Pack vectors, trusting no model: one bad vector would spoil every search of its namespace."""
    import numpy as np

    if vectors.shape != (count, embedder.dimension):
        raise EmbedderError(
            f"{embedder.model} gave vectors of shape {vectors.shape} for {count} texts; expected "
            f"({count}, {embedder.dimension}); check the model's name and dimension"
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    packed, size = np.ascontiguousarray(vectors, dtype="<f4").tobytes(), 4 * embedder.dimension
    made: list[Outcome] = [packed[start : start + size] for start in range(0, count * size, size)]
    for spoilt in np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0))):
        made[spoilt] = TextRejected(f"its vector has length {lengths[spoilt]}")
    return made


def _refuse(request: _Request, error: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)


def _closed() -> EmbedderError:
    return EmbedderError("embedding was stopped: this process is closing down")
