"""A running server in place of a store: what commands ask of `App` and `JobService`, by REST."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self
from urllib.parse import quote
from uuid import UUID, uuid4

import msgspec

from perdure.cli.connection import TRIES, WAIT, Connection
from perdure.cli.remote_webhooks import RemoteWebhooks
from perdure.domain.document import Document, StoredDocument
from perdure.domain.errors import Deferred, InvalidInput
from perdure.domain.job import Entry, Job
from perdure.domain.log import JobEvent
from perdure.domain.query import JobFilter, Page, Stats
from perdure.domain.search import Hit
from perdure.domain.state import JobState
from perdure.ledger import ChunkPage, ChunkState
from perdure.settings import Settings

if TYPE_CHECKING:
    import httpx

    from perdure.app import FileItem

_AT_ONCE: Final = 8
"""Uploads under way."""


class Remote:
    """The server at a URL, as the app, its jobs, its vectors and its events at once.

    Args:
        key: the credential; None: the server asks for none.
        tenant: whose things are meant; None: the key's own.

    Raises:
        InvalidInput: httpx is not installed, or this is no URL.
    """

    def __init__(self, url: str, key: str | None, tenant: str | None, actor: str) -> None:
        self._server = Connection(url, key, tenant, actor)
        self._tenant = tenant or "default"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.client.aclose()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise InvalidInput(
            "this command works on a store itself: run it where the store can be reached, without --server and PERDURE_SERVER, with --store"
        )

    @property
    def jobs(self) -> Self:
        """Of the app."""
        return self

    clock = events = ledger = jobs

    def now(self) -> datetime:
        """This machine's time: for ages on a screen."""
        return datetime.now(UTC)

    # --- documents --------------------------------------------------------------------------

    @cached_property
    def parsers(self) -> Any:
        """Those of this machine, which know what files are documents."""
        from perdure.wiring import Pipeline

        nowhere: Any = None
        return Pipeline(nowhere, Settings(), nowhere).parsers

    def make_worker(self) -> _Nobody:
        """Nothing: the server's workers run the jobs."""
        return _Nobody()

    async def ingest_many(self, items: Iterable[FileItem], *, tenant: str, **options: Any) -> list[Job]:
        """Upload files, some at once."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def upload(item: FileItem) -> Job:
            async with places:
                return await self._upload(item, options)

        return await asyncio.gather(*map(upload, items))

    async def _upload(self, item: FileItem, options: Mapping[str, Any]) -> Job:
        fields = {**options, "document_id": item.document_id, "encoding": item.encoding}
        fields = {name: value for name, value in fields.items() if value is not None}
        fields["metadata"] = json.dumps(item.metadata)
        key = str(uuid4())
        try:
            file = item.path.open("rb")
        except OSError as error:
            raise InvalidInput(f"it cannot be read: {error.strerror}") from None
        with file:

            async def send() -> httpx.Response:
                file.seek(0)
                return await self._server.client.post(
                    "/v1/ingest",
                    data=fields,
                    files={"file": (item.path.name, file)},
                    headers={"Idempotency-Key": key},
                )

            told = (await self._server.answer(send, TRIES)).json()
        return await self.get(told["job_id"])

    async def search(self, query: str, *, tenant: str, where: Any = None, **options: Any) -> list[Hit]:
        """See `App.search`."""
        body = {"query": query, "filter": where, **options}
        answer = await self._server.call(
            "POST", "/v1/search", {k: v for k, v in body.items() if v is not None}, tries=TRIES
        )
        return [
            msgspec.convert({**hit, "chunk_text": hit["text"], **hit["span"]}, Hit) for hit in answer["hits"]
        ]

    @cached_property
    def documents(self) -> _Documents:
        """Of the app."""
        return _Documents(self)

    @cached_property
    def webhooks(self) -> RemoteWebhooks:
        """Of the app."""
        return RemoteWebhooks(self._server.call)

    async def published(self, namespace: str, limit: int, after: str | None) -> list[StoredDocument]:
        """See `VectorStore.documents`."""
        query = {"namespace": namespace, "limit": min(limit, 1000), "cursor": after}
        answer = await self._server.call("GET", "/v1/documents", query=query)
        return [self._document(told, namespace) for told in answer["items"]]

    def _document(self, told: dict[str, Any], namespace: str) -> StoredDocument:
        about = {**told, "id": told["document_id"], "source_metadata": told["metadata"]}
        document = msgspec.convert({**about, "tenant": self._tenant, "namespace": namespace}, Document)
        return msgspec.convert({**told, "document": document, "dimension": 0, "strategy": ""}, StoredDocument)

    async def delete_document(
        self, document_id: str, *, namespace: str, tenant: str, version: int | None = None
    ) -> int:
        """See `App.delete_document`."""
        path = f"/v1/documents/{quote(document_id)}"
        answer = await self._server.call("DELETE", path, query={"namespace": namespace, "version": version})
        if job_id := answer.get("job_id"):
            raise Deferred(
                f"document {document_id!r} cannot be deleted now, and will be by job {job_id}", job_id
            )
        return int(answer["chunks_deleted"])

    async def chunks_of(
        self, job_id: str, *, state: ChunkState | None, limit: int, after: int, tenant: str
    ) -> ChunkPage:
        """See `Ledger.chunks_of`."""
        query = {"state": state, "limit": limit, "cursor": after}
        answer = await self._server.call("GET", f"/v1/ingest/{quote(job_id, safe='')}/chunks", query=query)
        return msgspec.convert(answer, ChunkPage)

    # --- jobs -------------------------------------------------------------------------------

    async def get(self, job_id: str, *, tenant: str = "") -> Job:
        """See `JobService.get`."""
        return _job(await self._server.call("GET", _path(job_id)))

    async def page(self, query: JobFilter, *, limit: int = 50, after: str | None = None) -> Page:
        """See `JobService.page`; `after` is an id or what `next` was."""
        if after is not None and _is_id(after):
            after = query.seal(after)
        asked = {
            "status": [*map(str, query.states)],
            "kind": [*query.kinds],
            "document_id": query.document_id,
            "user_id": query.user_id,
            "created_before": query.created_before.isoformat() if query.created_before else None,
            "sort": "created_at" if query.oldest_first else "-created_at",
            "limit": limit,
            "cursor": after,
        }
        answer = await self._server.call("GET", "/v1/jobs", query=asked)
        return Page(jobs=tuple(map(_job, answer["items"])), next=answer["next_cursor"])

    async def history(self, job_id: str, *, tenant: str) -> list[Entry]:
        """See `JobService.history`."""
        return [*map(_entry, (await self._server.call("GET", f"{_path(job_id)}/history"))["items"])]

    async def watch(self, job_id: str, *, tenant: str) -> AsyncIterator[Job]:
        """See `JobService.watch`."""
        job = await self.get(job_id)
        tag = ""
        while True:
            headers = {"If-None-Match": tag} if tag else {}
            query = {"wait": WAIT if tag else 0}
            answer = await self._server.send("GET", _path(job_id), None, query, headers, tries=TRIES)
            if answer.status_code != 304:
                tag, job = answer.headers["etag"], _job(answer.json())
                yield job
            if job.finished:
                return

    async def follow(self, _tenant: str) -> AsyncIterator[JobEvent]:
        """See `EventLog.follow`; a connection that breaks is made again, and nothing is left out."""
        async with aclosing(self._server.events()) as events:
            async for position, told in events:
                about = {key: told[key] for key in ("tenant", "job_id", "kind")}
                yield JobEvent(position=position, entry=_entry(told), **about)

    async def stats(self, tenant: str | None, **about: str | None) -> Stats:
        """See `JobService.stats`."""
        if tenant is None:
            raise InvalidInput("a server counts one tenant's jobs; leave --all-tenants out, or use --store")
        answer = await self._server.call("GET", "/v1/jobs/stats", query=about)
        return msgspec.convert({"counts": answer["by_kind"]}, Stats)

    async def tenants(self, _limit: int, after: str = "") -> dict[str, datetime | None]:
        """This tenant, and since when the one of its 1,000 newest pending jobs has been due that has waited longest."""
        if after:
            return {}
        page = await self.page(JobFilter(tenant=self._tenant, states=(JobState.PENDING,)), limit=1000)
        due = [job.due_at for job in page.jobs if job.due_at is not None and job.due_at <= self.now()]
        return {self._tenant: min(due, default=None)}

    async def cancel(self, job_id: str, *, reason: str = "", **_who: str) -> Job:
        """See `JobService.cancel`."""
        return _job(
            await self._server.call(
                "POST", f"{_path(job_id)}/cancel", {"reason": reason} if reason else {}, tries=TRIES
            )
        )

    async def requeue(self, job_id: str, **_who: str) -> Job:
        """See `JobService.requeue`."""
        return _job(await self._server.call("POST", f"{_path(job_id)}/retry", tries=TRIES))

    async def requeue_all(self, query: JobFilter, **_who: str) -> int:
        """See `JobService.requeue_all`; one job after the other."""
        done, after, more = 0, None, True
        while more:
            page = await self.page(query, limit=500, after=after)
            for job in page.jobs:
                await self.requeue(job.id)
                done += 1
            after, more = page.next, page.next is not None
        return done

    async def respond(self, job_id: str, answer: Any, *, key: str | None = None, **_who: str) -> Job:
        """See `JobService.respond`."""
        body = {"answer": answer} | ({"key": key} if key else {})
        return _job(await self._server.call("POST", f"{_path(job_id)}/respond", body, tries=TRIES))

    async def edit(self, job_id: str, *, tenant: str, actor: str, **changes: Any) -> Job:
        """See `JobService.edit`."""
        body = {name: value for name, value in changes.items() if value is not None and name != "ttl"}
        if "ttl" in changes:
            body["ttl_seconds"] = None if changes["ttl"] is None else changes["ttl"].total_seconds()
        return _job(await self._server.call("PATCH", _path(job_id), body))

    async def report(
        self, job_id: str, fraction: float, message: str, *, tenant: str, epoch: int | None
    ) -> Job:
        """See `JobService.report`."""
        body = {"fraction": fraction, "message": message, "epoch": epoch}
        return _job(await self._server.call("POST", f"{_path(job_id)}/progress", body))

    async def delete(self, job_id: str, **_who: str) -> None:
        """See `JobService.delete`."""
        await self._server.call("DELETE", _path(job_id))


class _Documents:
    """What `App.documents` is on a server."""

    def __init__(self, server: Remote) -> None:
        self._server = server

    async def documents(
        self, _tenant: str, namespace: str, limit: int, after: str | None
    ) -> list[StoredDocument]:
        """See `VectorStore.documents`."""
        return await self._server.published(namespace, limit, after)


class _Nobody:
    """A worker that runs nothing."""

    active = 0

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        await self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()


def _job(told: dict[str, Any]) -> Job:
    """The job behind its JSON; its version, epoch and checkpoint stay with the server."""
    due = told["run_at"] or told["expires_at"]
    return msgspec.convert({**told, "state": told["status"], "failure": told["error"], "due_at": due}, Job)


def _entry(told: dict[str, Any]) -> Entry:
    return msgspec.convert({**told, "state": told["status"], "epoch": 0}, Entry)


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _is_id(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False
