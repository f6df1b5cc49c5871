"""The way of a document, wired together: parsers, chunker, embedder and search, as the settings name them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from importlib import import_module
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from perdure.chunkers import named as chunking
from perdure.core.jobs import JobService
from perdure.domain.errors import InvalidInput
from perdure.domain.limits import parse_limits
from perdure.embedders.named import LOCAL, parse
from perdure.pipeline.recall import Recall
from perdure.ports.embedder import Embedder, Gate, MeteredEmbedder
from perdure.ports.embedding_cache import EmbeddingCache
from perdure.ports.vector_store import VectorStore
from perdure.settings import Settings

if TYPE_CHECKING:
    from perdure.parsers import Parsers
    from perdure.pipeline.embedding import EmbeddingBatcher
    from perdure.pipeline.governor import Governor
    from perdure.pipeline.search import Searcher
    from perdure.pipeline.vectorize import Span, Vectorizer

Made = TypeVar("Made")


class Pipeline:
    """The way of a document, put together when the first one comes: an app that only looks at jobs loads no model.

    Args:
        jobs: in whose store all processes note what they ask of a provider, by its clock.
        cache: of vectors; None: what is embedded is not remembered.
        usual: whose parsers and counted tokens this one shares.
    """

    def __init__(
        self,
        vectors: VectorStore,
        settings: Settings,
        jobs: JobService,
        span: Span = nullcontext,
        cache: EmbeddingCache | None = None,
        usual: Pipeline | None = None,
    ) -> None:
        self._usual = usual
        self._span = span
        self._cache = cache
        self._recall = (
            None
            if cache is None
            else Recall(cache, lambda: jobs.clock.now().toordinal(), settings.embed_cache_days)
        )
        self._vectors = vectors
        self._settings = settings
        self._jobs = jobs
        self._limits = parse_limits(settings.embed_limits, "PERDURE_EMBED_LIMITS")
        self._tenants = parse_limits(settings.embed_tenant_limits, "PERDURE_EMBED_TENANT_LIMITS")
        self._lock = Lock()
        chunking.parse(settings.chunking)  # found out now, not in the first job
        self.tokens: Counter[tuple[str, str]] = Counter() if usual is None else usual.tokens
        self._others: dict[str, Pipeline] = {}

    def by(self, embedder: str) -> Pipeline:
        """The pipeline with an embedder; parsers and counted tokens are the same.

        Raises:
            InvalidInput: the settings do not name it.
        """
        settings = self._settings
        if embedder == settings.embedder:
            return self
        if embedder not in self._others:
            if embedder not in (*LOCAL, *settings.embedders.replace(",", " ").split()):
                raise InvalidInput(
                    f"a namespace asks for the embedder {embedder!r}, which this process is not set up for; add it to "
                    "PERDURE_EMBEDDERS (names with a comma or blank between) of every process, and restart it"
                )
            own = replace(settings, embedder=embedder)
            self._others[embedder] = Pipeline(
                self._vectors, own, self._jobs, self._span, self._cache, usual=self
            )
        return self._others[embedder]

    @cached_property
    def parsers(self) -> Parsers:
        """Which parser reads which file."""
        if self._usual is not None:
            return self._usual.parsers
        from perdure.parsers import Limits, default_parsers

        settings = self._settings
        limits = Limits(
            memory=settings.parser_memory_mb * 1_000_000,
            silence=settings.parser_seconds,
            cpu=ceil(10 * settings.parser_seconds),
        )
        return default_parsers(limits, settings.parsers)

    async def vectorizer(self) -> Vectorizer:
        """What turns a document into searchable chunks."""
        if "_vectorizer" not in self.__dict__:  # made by the first job that asks; the others need no thread
            embedder = await asyncio.to_thread(lambda: self._made(lambda: self._embedder))
            if isinstance(embedder, MeteredEmbedder):
                await embedder.prepare()
            return await asyncio.to_thread(lambda: self._made(lambda: self._vectorizer))
        return self._vectorizer

    async def searcher(self) -> Searcher:
        """What finds chunks."""
        return await asyncio.to_thread(lambda: self._made(lambda: self._searcher))

    def _made(self, make: Callable[[], Made]) -> Made:
        with self._lock:
            return make()

    @cached_property
    def _embedder(self) -> Embedder:
        return embedder(self._settings.embedder, self._settings, self._governor)

    @cached_property
    def _governor(self) -> Governor:
        from perdure.pipeline.governor import Governor

        kind, _, rest = self._settings.embedder.partition(":")
        server = urlsplit("http" + rest.partition("@http")[2]).netloc
        return Governor(
            self._jobs.store.values,
            f"{kind}@{server}" if server else kind,
            lambda: self._jobs.clock.now().timestamp(),
            limits=self._limits.get(kind, ()),
            tenants=self._tenants,
        )

    @cached_property
    def _batcher(self) -> EmbeddingBatcher:
        from perdure.pipeline.embedding import EmbeddingBatcher

        # A model here costs time only: one batch is embedded while the last is stored. What is paid for is not risked so.
        kind = self._settings.embedder.partition(":")[0]
        says: bool | None = getattr(self._embedder, "paid", None)
        paid = kind in {"openai", "python"} if says is None else says
        return EmbeddingBatcher(
            self._embedder,
            concurrency=1 if paid else 2,
            governor=self._governor,
            recall=None if says is False else self._recall,
        )

    @cached_property
    def _vectorizer(self) -> Vectorizer:
        from perdure.pipeline.vectorize import Vectorizer

        return Vectorizer(
            self._vectors,
            self._batcher,
            self.parsers,
            chunking.chunker(self._settings.chunking),
            spent=self.tokens,
            span=self._span,
        )

    @cached_property
    def _searcher(self) -> Searcher:
        from perdure.pipeline.search import Searcher

        return Searcher(self._vectors, self._embedder, self.tokens)

    async def sweep(self) -> None:
        """Forget vectors that nobody used for long."""
        if self._recall is not None:
            await self._recall.sweep()

    async def close(self) -> None:
        """Free the models that were loaded."""
        for other in self._others.values():
            await other.close()
        if "_batcher" in self.__dict__:
            await self._batcher.close()
        if "_embedder" in self.__dict__:
            await self._embedder.close()


def embedder(name: str, settings: Settings | None = None, gate: Gate | None = None) -> Embedder:
    """Make the embedder that a name asks for; a model is loaded when it is first used.

    Args:
        name: ``local``, ``hashing``, ``minilm``, ``minilm:int8``, ``openai:MODEL@URL``, ``ollama:MODEL@URL``,
            ``sentence-transformers:MODEL``, or ``python:package.module:function`` for one of your own. All but the first
            two and the last take options, e.g. ``minilm?long=refuse``; see `perdure.embedders.named.Named`.
        settings: which hold the keys.
        gate: through which requests to a server go.

    Raises:
        InvalidInput: none has this name, its library is not installed, or yours cannot be imported.
    """
    kind, _, rest = name.partition(":")
    settings = settings or Settings()
    match kind.partition("?")[0]:
        case "local":
            from perdure.embedders.local import LocalEmbedder

            return LocalEmbedder()
        case "hashing":
            from perdure.embedders.hashing import HashingEmbedder

            return HashingEmbedder()
        case "minilm":
            from perdure.embedders.minilm import MiniLMEmbedder

            return MiniLMEmbedder(parse(name))
        case "sentence-transformers":
            from perdure.embedders.transformer import TransformerEmbedder

            return TransformerEmbedder(parse(rest))
        case "openai":
            from perdure.embedders.openai import URL, OpenAIEmbedder

            named = parse(rest, URL)
            # That key is for OpenAI; another server must not get to see it.
            own = settings.openai_api_key if named.url == URL else ""
            return OpenAIEmbedder(named, settings.embedder_key or own, gate)
        case "ollama":
            from perdure.embedders.ollama import URL, OllamaEmbedder

            return OllamaEmbedder(parse(rest, URL), settings.embedder_key, gate)
        case "python":
            made: Embedder = imported(rest)()
            return made
        case _:
            raise InvalidInput(
                f"unknown embedder {name!r}; expected local, hashing, minilm, minilm:int8, openai:MODEL@URL, "
                "ollama:MODEL@URL, sentence-transformers:MODEL or python:package.module:function"
            )


def imported(name: str) -> Any:
    """What ``package.module:attribute`` names.

    Raises:
        InvalidInput: there is no such module or attribute.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInput(
            f"cannot import {name!r} ({error}); expected package.module:attribute, importable from here"
        ) from None
