"""The environment, read once into typed settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Literal

import msgspec

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record
from perdure.domain.terms import parse_shares

DEFAULT_STORE: Final = "sqlite:///perdure.db"
PREFIX: Final = "PERDURE_"
_POSITIVE: Final = (
    "parser_memory_mb",
    "parser_seconds",
    "job_ttl_hours",
    "concurrency",
    "lease_seconds",
    "poll_seconds",
    "max_upload_bytes",
)
_NOT_NEGATIVE: Final = (
    "embed_cache_days",
    "grace_seconds",
    "cache_megabytes",
    "cache_staleness_seconds",
    "cache_ttl_minutes",
    "max_pending_jobs",
    "max_chunks",
)


class Settings(Record):
    """How a Perdure process is set up. Each field can be given as ``PERDURE_<FIELD>`` in the environment.

    Attributes:
        store: URL of the job store: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``memory:``.
        vectors: URL of the vector store; None: the same as `store`.
        blobs: URL of the place where content waits for its job; None: beside the jobs, or else the vectors, where these can
            hold it.
        pinecone_api_key: for a vector store there; also read from ``PINECONE_API_KEY``.
        embedder: ``local`` (the bundled model), ``hashing`` (no model at all, for tests), ``minilm``,
            ``minilm:int8``, ``openai:MODEL@URL``, ``ollama:MODEL@URL``, ``sentence-transformers:MODEL``, or
            ``python:package.module:function`` (yours: called without arguments, it gives an `Embedder`).
        embedders: others that namespaces may have been moved to by `App.reindex`, with a comma or blank between.
        embedder_key: sent to the embedder's server.
        openai_api_key: the same for OpenAI's own, where `embedder_key` is empty; also read from ``OPENAI_API_KEY``.
        embed_limits: what all workers together may ask of an embedder's server, e.g. ``openai=600rpm,1000000tpm``: `r`equests or
            `t`okens per `s`, `m`, `h` or `d`; empty: as much as it takes.
        embed_tenant_limits: the same for tenants, by name or ``*``: ``acme=60rpm; *=300rpm``.
        embed_cache_days: how long a vector is remembered after its last use, beside the content that waits, so that the same text of a
            tenant costs nothing; 0: not at all. Embedders ``local`` and ``hashing`` are as quick without.
        chunking: how documents are cut that do not say it themselves: ``recursive:1000``, ``markdown:1200,overlap=100`` …
        parsers: a library that is preferred to Perdure's own parsers for PDF and Office documents: ``markitdown`` or
            ``docling``; empty: none.
        parser_memory_mb: of the process that reads one document of a format that is not plain text.
        parser_seconds: from one piece of its text to the next; ten times as much processor time, all in all.
        job_ttl_hours: how long a finished job can be looked up.
        concurrency: jobs under way at once in one worker.
        lease_seconds: how long a dead worker's jobs wait for their rescue.
        poll_seconds: how often to look where no hint comes.
        shares: how many jobs tenants get in one turn, where it is not one: ``acme=3,beta=2``. All replicas should say the same.
        grace_seconds: how long a stopping worker waits for what it has begun.
        cache_megabytes: memory for jobs that are looked at again and again (`CachedJobStore`); 0: none, every look is
            the store's own answer.
        cache_staleness_seconds: how old an answer from there about an unfinished job may be.
        cache_ttl_minutes: how long a finished job stays there.
        host, port: where `serve` listens.
        grpc: where `serve` answers gRPC, too: ``127.0.0.1:8322``; empty: nowhere.
        grpc_cert, grpc_key: files of its certificate and key (PEM), for TLS. grpc_client_ca: whose clients' certificates are
            asked for.
        allow_remote: let `serve` listen beyond this machine although it asks nobody for a key.
        webhook_allow_private: let webhooks go to addresses of this machine and its network.
        max_upload_bytes: of one document sent to the server.
        max_pending_jobs: of one tenant; more are refused until some have run. 0: no limit.
        max_chunks: of one tenant, stored; documents are refused as soon as it has so many. 0: no limit.
        feeds: sources that workers follow beside their jobs, one process each: ``inbox=folder:/srv/inbox; papers@acme/hr=postgresql://…``.
        cors_origins: web pages of these origins may call the server (comma-separated); empty: none.
        log: how the long-running commands log: ``text``, or ``json`` (`perdure[telemetry]`): an object a line, with job and tenant.
        jwt_keys: whose tokens are taken, besides keys: the URL or the file of a JSON Web Key Set; empty: none.
        jwt_issuer, jwt_audience: what such a token must say (`iss`, `aud`).
        jwt_tenant_claim: the claim that names the tenant.
    """

    store: str = DEFAULT_STORE
    vectors: str | None = None
    blobs: str | None = None
    pinecone_api_key: str = ""
    embedder: str = "local"
    embedders: str = ""
    embedder_key: str = ""
    openai_api_key: str = ""
    embed_limits: str = ""
    embed_tenant_limits: str = ""
    embed_cache_days: int = 30
    chunking: str = "recursive:1000"
    parsers: str = ""
    parser_memory_mb: int = 1000
    parser_seconds: float = 120.0
    job_ttl_hours: float = 24.0
    concurrency: int = 64
    lease_seconds: float = 30.0
    poll_seconds: float = 0.5
    shares: str = ""
    grace_seconds: float = 30.0
    cache_megabytes: float = 0.0
    cache_staleness_seconds: float = 1.0
    cache_ttl_minutes: float = 60.0
    host: str = "127.0.0.1"
    port: int = 8321
    grpc: str = ""
    grpc_cert: str = ""
    grpc_key: str = ""
    grpc_client_ca: str = ""
    allow_remote: bool = False
    webhook_allow_private: bool = False
    max_upload_bytes: int = 1_000_000_000
    max_pending_jobs: int = 0
    feeds: str = ""
    max_chunks: int = 0
    cors_origins: str = ""
    log: Literal["text", "json"] = "text"
    jwt_keys: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_tenant_claim: str = "tenant"

    def __post_init__(self) -> None:
        for what in _POSITIVE:
            if getattr(self, what) <= 0:
                raise InvalidInput(f"{PREFIX}{what.upper()} is {getattr(self, what)}; expected more than 0")
        for what in _NOT_NEGATIVE:
            if getattr(self, what) < 0:
                raise InvalidInput(f"{PREFIX}{what.upper()} is {getattr(self, what)}; expected 0 or more")

        parse_shares(self.shares)

    @property
    def job_ttl(self) -> timedelta:
        """`job_ttl_hours` as a length of time."""
        return timedelta(hours=self.job_ttl_hours)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], **overrides: Any) -> Settings:
        """Read the environment; `overrides` that are not None win.

        Raises:
            InvalidInput: naming the variable, its value and what was expected.
        """
        values: dict[str, Any] = _aliases(environ)
        settings: dict[str, Any] = {}
        for field in msgspec.structs.fields(cls):
            text = environ.get(PREFIX + field.name.upper()) or values.get(field.name)
            if text:
                settings[field.name] = _convert(field, text)
        given = {key: value for key, value in overrides.items() if value is not None}
        return cls(**{**settings, **given})


def _convert(field: msgspec.structs.FieldInfo, text: str) -> Any:
    try:
        return msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError as error:
        name = PREFIX + field.name.upper()
        raise InvalidInput(f"{name} is {text!r}: {error}") from None


def _aliases(environ: Mapping[str, str]) -> dict[str, Any]:
    """The variables' names in the services that Perdure replaces."""
    values: dict[str, Any] = {
        "openai_api_key": environ.get("OPENAI_API_KEY"),
        "pinecone_api_key": environ.get("PINECONE_API_KEY"),
    }
    match environ.get("JOB_STORE_TYPE", "").lower():
        case "":
            pass
        case "memory":
            values["store"] = "memory:"
        case "sqlite":
            values["store"] = "sqlite:///" + environ.get("SQLITE_PATH", "perdure.db")
        case "redis":
            values["store"] = environ.get("REDIS_URL", "redis://localhost:6379/0")
        case other:
            raise InvalidInput(f"JOB_STORE_TYPE is {other!r}; expected memory, sqlite or redis")
    if hours := environ.get("VECTORIZATION_JOB_TTL_HOURS"):
        values["job_ttl_hours"] = hours
    return values
