"""The one composition root: a URL becomes an adapter, whose driver is imported only then."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote, unquote, urlsplit

import msgspec

from perdure.core.cache import CachedJobStore
from perdure.core.jobs import JobService as JobService  # noqa: PLC0414 - the command line names its type
from perdure.core.webhooks import Webhooks as Webhooks  # noqa: PLC0414
from perdure.domain.errors import InvalidInput
from perdure.domain.packages import needed
from perdure.domain.record import Record
from perdure.embedders.named import LOCAL
from perdure.ports.blob_store import BlobStore
from perdure.ports.embedding_cache import EmbeddingCache
from perdure.ports.job_store import JobStore
from perdure.ports.sender import Sender
from perdure.ports.vector_store import VectorStore
from perdure.settings import Settings

if TYPE_CHECKING:
    from perdure.databases.postgres import PostgresDatabase

Shared: TypeAlias = "dict[str, PostgresDatabase]"
log = logging.getLogger(__name__)

_POSTGRES: Final = ("postgresql", "postgres")
_REDIS: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
_COSMOS: Final = ("cosmos", "cosmos+http", "https", "http", "accountendpoint=https", "accountendpoint=http")
_PINECONE: Final = ("pinecone", "pinecone+http")
_NETWORKED: Final = (
    "postgresql://user@host/database, mongodb://host/database, redis://host:6379/0, or "
    "cosmos://:key@account.documents.azure.com/database"
)
JOB_STORES: Final = {
    "memory": "perdure.stores.memory:MemoryJobStore",
    "sqlite": "perdure.stores.sqlite:SqliteJobStore",
    **dict.fromkeys(_POSTGRES, "perdure.stores.postgres:PostgresJobStore"),
    **dict.fromkeys(("mongodb", "mongodb+srv"), "perdure.stores.mongodb:MongoJobStore"),
    **dict.fromkeys(_REDIS, "perdure.stores.redis:RedisJobStore"),
    **dict.fromkeys(_COSMOS, "perdure.stores.cosmos:CosmosJobStore"),
}
"""URL scheme → where its adapter lives."""
VECTOR_STORES: Final = {
    "memory": "perdure.vectors.memory:MemoryVectorStore",
    "sqlite": "perdure.vectors.sqlite:SqliteVectorStore",
    **dict.fromkeys(_POSTGRES, "perdure.vectors.pgvector:PgvectorStore"),
    **dict.fromkeys(_PINECONE, "perdure.vectors.pinecone:PineconeVectorStore"),
}
BLOB_STORES: Final = {
    "memory": "perdure.blobs.memory:MemoryBlobStore",
    "sqlite": "perdure.blobs.sqlite:SqliteBlobStore",
    **dict.fromkeys(_POSTGRES, "perdure.blobs.postgres:PostgresBlobStore"),
}
CACHES: Final = {
    **dict.fromkeys(("memory", "sqlite"), "perdure.caches.sqlite:SqliteEmbeddingCache"),
    **dict.fromkeys(_POSTGRES, "perdure.caches.postgres:PostgresEmbeddingCache"),
}


class Parts(Record):
    """The adapters of one process, not yet set up."""

    jobs: JobStore
    vectors: VectorStore
    blobs: BlobStore
    cache: EmbeddingCache | None = None

    async def setup(self) -> None:
        """Create or migrate whatever the stores need."""
        for part in (self.jobs, self.vectors, self.blobs, self.cache):
            if part is not None:
                await part.setup()

    async def close(self) -> None:
        """Close them all."""
        for part in (self.cache, self.blobs, self.vectors, self.jobs):
            if part is not None:
                await part.close()


def scheme_of(url: str) -> str:
    """The adapter that a URL asks for.

    Raises:
        InvalidInput: none has this name.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or scheme.lower() not in JOB_STORES | VECTOR_STORES:
        raise InvalidInput(
            f"unknown store {scheme + colon!r}…; expected sqlite:///perdure.db (a file here), "
            f"sqlite:////var/lib/perdure.db (an absolute path), memory:, {_NETWORKED}"
        )
    return scheme.lower()


def sqlite_path(url: str) -> Path:
    """The file that a ``sqlite:`` URL names.

    Raises:
        InvalidInput: it names none, or a host.
    """
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path:
        raise InvalidInput(
            f"{url!r} names no file; write three slashes before a relative path (sqlite:///perdure.db) "
            "and four before an absolute one"
        )
    return Path(path)


def exists(url: str) -> bool:
    """Whether something lies at a store's URL already; of a store that is no file this is taken for granted.

    Raises:
        InvalidInput: an unknown URL.
    """
    return scheme_of(url) != "sqlite" or sqlite_path(url).exists()


def build(settings: Settings) -> Parts:
    """Make the adapters that the settings name; they connect when they are set up.

    Raises:
        InvalidInput: an unknown URL, a driver that is not installed, or no place for the vectors.
    """
    shared: Shared = {}
    jobs = job_store(settings, shared)
    scheme = scheme_of(settings.store)
    vectors_url = _keyed(settings.vectors or settings.store, settings)
    vectors_scheme = scheme_of(vectors_url)
    if vectors_scheme not in VECTOR_STORES:
        raise InvalidInput(
            f"{vectors_scheme} keeps jobs, not vectors; name a place for the vectors, for example "
            "PERDURE_VECTORS=sqlite:///vectors.db"
        )
    if "memory" in (scheme, vectors_scheme):
        what = "jobs" if scheme == "memory" else "vectors"
        log.warning("the %s are in memory only: nothing survives this process", what)
    # Content that waits lies beside the jobs where they can hold it, else beside the vectors.
    blobs_url = settings.blobs or (settings.store if scheme in BLOB_STORES else vectors_url)
    if scheme_of(blobs_url) not in BLOB_STORES:
        raise InvalidInput(
            f"{scheme_of(blobs_url)} cannot keep content that waits for its job; name a place for it, for example "
            "PERDURE_BLOBS=sqlite:///blobs.db on one machine, PERDURE_BLOBS=postgresql://user@host/database on many"
        )
    cached = settings.embed_cache_days and settings.embedder not in LOCAL
    return Parts(
        jobs=jobs,
        vectors=_make(VECTOR_STORES[vectors_scheme], vectors_url, shared),
        blobs=_make(BLOB_STORES[scheme_of(blobs_url)], blobs_url, shared),
        cache=_make(CACHES[scheme_of(blobs_url)], blobs_url, shared) if cached else None,
    )


async def init(settings: Settings) -> None:
    """Make the stores that the settings name, or bring them up to date, also where a URL says ``migrate=off``.

    Raises:
        InvalidInput: as `build`.
    """
    urls = {name: getattr(settings, name) for name in ("store", "vectors", "blobs")}
    told = {
        name: f"{url}{'&' if '?' in url else '?'}migrate=on"
        for name, url in urls.items()
        if url and scheme_of(url) in _POSTGRES
    }
    parts = build(msgspec.structs.replace(settings, **told))
    try:
        await parts.setup()
    finally:
        await parts.close()


def blob_store(url: str) -> BlobStore | None:
    """Make the store of waiting content that lies beside the jobs at this URL; None where they have none."""
    scheme = scheme_of(url)
    return _make(BLOB_STORES[scheme], url, {}) if scheme in BLOB_STORES else None


def shown(url: str) -> str:
    """A store's URL as people may read it: without its password."""
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":***@")


def job_store(settings: Settings, shared: Shared | None = None) -> JobStore:
    """Make the job store that the settings name, behind a cache where they give it memory.

    Args:
        shared: databases that others use too.

    Raises:
        InvalidInput: an unknown URL, or a driver that is not installed.
    """
    if (scheme := scheme_of(settings.store)) not in JOB_STORES:
        raise InvalidInput(
            f"{scheme} keeps vectors, not jobs; name a store for the jobs, for example PERDURE_STORE=sqlite:///perdure.db, and "
            f"PERDURE_VECTORS={shown(settings.store)}"
        )
    store: JobStore = _make(JOB_STORES[scheme], settings.store, {} if shared is None else shared)
    if not settings.cache_megabytes:
        return store
    return CachedJobStore(
        store,
        megabytes=settings.cache_megabytes,
        staleness=timedelta(seconds=settings.cache_staleness_seconds),
        ttl=timedelta(minutes=settings.cache_ttl_minutes),
    )


@asynccontextmanager
async def job_service(settings: Settings) -> AsyncIterator[JobService]:
    """The jobs of the store that the settings name, and nothing else: whoever only looks at jobs, or steers them, needs no vectors."""
    async with AsyncExitStack() as stack:
        store = job_store(settings)
        stack.push_async_callback(store.close)
        await store.setup()
        jobs = JobService(store, poll=timedelta(seconds=settings.poll_seconds))
        stack.push_async_callback(jobs.close)
        await jobs.start()
        yield jobs


def _keyed(url: str, settings: Settings) -> str:
    """The URL with the key of Pinecone, where it names none."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in _PINECONE or parts.password or not settings.pinecone_api_key:
        return url
    return parts._replace(netloc=f":{quote(settings.pinecone_api_key, safe='')}@{parts.netloc}").geturl()


def _make(name: str, url: str, shared: Shared) -> Any:
    """Import an adapter and make one for the URL; those of one PostgreSQL share its connections."""
    module, _, attribute = name.partition(":")
    extra = "postgres" if scheme_of(url) in _POSTGRES else module.rpartition(".")[2]
    with needed("this store needs", extra):
        adapter = getattr(import_module(module), attribute)
    match scheme_of(url):
        case "memory":
            return adapter()
        case "sqlite":
            return adapter(sqlite_path(url))
        case "postgresql" | "postgres":
            from perdure.databases.postgres import PostgresDatabase

            return adapter(shared.setdefault(url, PostgresDatabase(url)))
        case _:
            return adapter(url)


def sender(settings: Settings) -> Sender:
    """What carries webhooks.

    Raises:
        InvalidInput: its library is not installed.
    """
    with needed("webhooks need", "webhooks"):
        from perdure.senders.http import HttpSender
    return HttpSender(allow_private=settings.webhook_allow_private)


def webhooks(jobs: JobService, settings: Settings) -> Webhooks:
    """Who else is told what happens to these jobs."""
    return Webhooks(jobs, lambda: sender(settings))
