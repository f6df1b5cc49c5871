"""What is asked of a `vectorize` job: which document, where its content is, how it is cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any, Final

import msgspec

from perdure.core.jobs import JobService
from perdure.domain import validation as check
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import DocumentUnreadable, InvalidInput
from perdure.domain.ids import uuid5
from perdure.domain.job import DEFAULT_TENANT, Job, NewJob
from perdure.domain.record import Json, Record

KIND: Final = "vectorize"
INLINE_BYTES: Final = 64_000
"""Text up to this size travels in the job's payload, larger content in a blob."""
FED: Final = "feed:"
"""How the idempotency keys of what feeds submit begin."""


class FileItem(Record):
    """A file to ingest.

    Attributes:
        document_id: names the document for all its versions; None: the path as seen from the working folder,
            absolute where it lies outside.
        encoding: of its bytes; None: by byte order mark, else UTF-8.
        metadata: JSON; searches can filter by it.
    """

    path: Path
    document_id: str | None = None
    encoding: str | None = None
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)


class Order(Record, omit_defaults=True):
    """The payload of a `vectorize` job: which document, and where its content is (`path`, `text` or `blob`).

    Attributes:
        version: of the document; grows with each submission.
        dated: the version is the time of submission, not one of the caller's own.
        name: decides the parser, where `media_type` does not.
        encoding: of the bytes; None: by byte order mark, else UTF-8.
        chunking: how it is cut, e.g. ``markdown:1200,overlap=100``; None: as the worker's settings say.
        sha256: of a blob's content, so that the same request is recognised.
    """

    document_id: str
    version: int
    name: str
    dated: bool = False
    namespace: str = DEFAULT_NAMESPACE
    path: str | None = None
    text: str | None = None
    blob: str | None = None
    sha256: str | None = None
    media_type: str | None = None
    encoding: str | None = None
    chunking: str | None = None
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)

    def payload(self) -> dict[str, Json]:
        """As JSON."""
        payload: dict[str, Json] = msgspec.to_builtins(self)
        return payload


class OrderBook:
    """Turns what a caller says of a document into the job for it.

    Args:
        ttl: of the jobs that say none.
        chunking: refuses a name for a way of cutting that cannot be read.
    """

    def __init__(self, jobs: JobService, ttl: timedelta, chunking: Callable[[str], object]) -> None:
        self._jobs = jobs
        self._ttl = ttl
        self._chunking = chunking
        self._lock = Lock()
        self._version = 0

    def for_file(self, item: FileItem, options: Mapping[str, Any]) -> NewJob:
        """A job for a file that must be there now.

        Raises:
            DocumentUnreadable: it is not, or it is no file.
            InvalidInput: a name or value does not fit.
        """
        path = item.path.absolute()
        if not path.is_file():
            there = "it is no regular file" if path.exists() else "there is no such file"
            raise DocumentUnreadable(f"{item.path}: {there}; check the path, then ingest it again")
        document_id = item.document_id
        if document_id is None:
            folder = Path.cwd()
            document_id = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        told = {"path": str(path), "document_id": document_id, "encoding": item.encoding}
        return self.job({"name": path.name, **options, **told, "metadata": item.metadata})

    def job(self, options: Mapping[str, Any]) -> NewJob:
        """Sort the options into the order, which is the payload, and the job around it.

        Raises:
            InvalidInput: an option is unknown, or its value does not fit.
        """
        known = {*Order.__struct_fields__, *NewJob.__struct_fields__} - {"kind", "payload"}
        if unknown := options.keys() - known:
            raise InvalidInput(f"unknown option {min(unknown)!r}; known are {', '.join(sorted(known))}")
        given = {key: value for key, value in options.items() if value is not None}
        order = {key: value for key, value in given.items() if key in Order.__struct_fields__}
        if "document_id" not in order:
            order["document_id"] = self._new_document_id(given)
        if "version" not in order:
            order |= {"version": self._next_version(), "dated": True}
        check.name(order.get("namespace", DEFAULT_NAMESPACE), "namespace")
        check.text(order["document_id"], "document_id")
        check.json_value(order.get("metadata", {}), "metadata")
        if "chunking" in order:
            self._chunking(str(order["chunking"]))
        try:
            payload = msgspec.convert(order, Order).payload()
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the document's description does not fit: {error}") from None
        job = {key: value for key, value in given.items() if key in NewJob.__struct_fields__}
        job |= {"document_id": order["document_id"], "ttl": options.get("ttl", self._ttl)}
        return NewJob(kind=KIND, payload=payload, **job)

    def _new_document_id(self, given: Mapping[str, Any]) -> str:
        """A new id; under an idempotency key always the same, or else the repeat would be another document."""
        if key := given.get("idempotency_key"):
            return uuid5(str(given.get("tenant", DEFAULT_TENANT)), str(key))
        return self._jobs.stamp("").entry_id

    def _next_version(self) -> int:
        """Microseconds of the store's clock, each given once by this process."""
        with self._lock:
            now, here = self._jobs.clock.now().timestamp(), time.time()
            # Of two processes that submit one after the other the second must not be the earlier one, because the store
            # told it the time less well: where the machine's clock may be right, it is the better one.
            if now <= here < now + self._jobs.store.capabilities.behind:
                now = here
            self._version = max(self._version + 1, int(now * 1_000_000))
            return self._version


def same_request(made: Job, kept: Job) -> bool:
    """Whether two jobs under one idempotency key ask for the same: all but what is made anew at each saying."""
    return made.kind == kept.kind and _request(made) == _request(kept)


def _request(job: Job) -> dict[str, Json]:
    volatile = {"blob", "version"} if job.payload.get("dated") else {"blob"}
    return {key: value for key, value in job.payload.items() if key not in volatile}
