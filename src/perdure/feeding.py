"""Where feeds and documents meet: an event becomes a job, or takes a document away."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from perdure import orders
from perdure.core.feeds import FeedRunner, Feeds, FeedStatus, Sink
from perdure.domain import validation as check
from perdure.domain.change import Action, Change, Poison
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import (
    Deferred,
    DocumentError,
    DocumentUnreadable,
    IdempotencyConflict,
    IllegalTransition,
    InvalidInput,
    NotFound,
    QuotaExceeded,
)
from perdure.domain.ids import uuid5
from perdure.domain.job import DEFAULT_TENANT, Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.feeds.named import make_bridge, make_feed, migration
from perdure.ports.change_feed import ChangeFeed

if TYPE_CHECKING:
    from perdure.app import App

__all__ = [
    "FeedStatus",
    "Poison",
    "companions",
    "declared",
    "feeds_of",
    "make_bridge",
    "make_feed",
    "make_runner",
    "migration",
    "take",
]

log = logging.getLogger(__name__)
AT_ONCE: Final = 32
"""Documents that are submitted, or taken away, at the same time."""


def feeds_of(app: App) -> Feeds:
    """What the app's store knows of its feeds."""
    return Feeds(app.jobs.store.values, app.jobs.clock.now)


def make_runner(
    app: App, name: str, feed: ChangeFeed, sink: Sink | None = None, **options: Any
) -> FeedRunner:
    """A runner that brings the feed's events into the app's jobs, or into another sink; `options` as of `FeedRunner`."""
    reader = f"{socket.gethostname()}:{os.getpid()}:{app.jobs.stamp('').entry_id[-8:]}"
    return FeedRunner(name, feed, feeds_of(app), sink or Documents(app), **({"reader": reader} | options))


def declared(text: str) -> dict[str, tuple[str, ChangeFeed]]:
    """The feeds of `Settings.feeds`, by name: whose, and what. Each is ``NAME=URL`` or ``NAME@TENANT/NAMESPACE=URL``, with a semicolon or
    a line's end between.

    Raises:
        InvalidInput: one is neither, comes twice, or can't be made.
    """
    made: dict[str, tuple[str, ChangeFeed]] = {}
    for part in filter(None, map(str.strip, re.split(r"[;\n]", text))):
        left, _, url = part.partition("=")
        name, _, where = left.strip().partition("@")
        tenant, _, namespace = where.partition("/")
        if not url or "?" in left or name in made:
            what = "comes twice" if name in made else "is no feed"
            raise InvalidInput(
                f"{left[:100]!r} in PERDURE_FEEDS {what}; expected NAME=URL or NAME@TENANT/NAMESPACE=URL, with ; between"
            )
        tenant = check.name(tenant or DEFAULT_TENANT, "tenant")
        namespace = check.name(namespace or DEFAULT_NAMESPACE, "namespace")
        made[check.name(name, "the feed's name")] = (
            tenant,
            make_feed(url.strip(), tenant=tenant, namespace=namespace),
        )
    return made


def companions(app: App) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """What a worker of the app does beside its jobs: follow the feeds of settings and code, each unless another process does."""
    return [
        partial(_follow, make_runner(app, name, feed, tenant=tenant))
        for name, (tenant, feed) in (declared(app.settings.feeds) | app.followed).items()
    ]


async def _follow(runner: FeedRunner) -> None:
    while True:
        try:
            return await runner.run()
        except Exception:
            # The worker's jobs must not end with it.
            log.exception("feed %s broke; it is tried again in a minute", runner.name)
            await asyncio.sleep(60)


async def take(app: App, changes: Sequence[Change]) -> list[Poison]:
    """Carry changes out now; those that can't be."""
    return await Documents(app).take(changes)


class Documents:
    """The sink of a feed: documents of an app."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def pending(self, tenants: Sequence[str]) -> int:
        """How many jobs of these tenants wait."""
        stats = [await self._app.jobs.stats(tenant) for tenant in tenants]
        return sum(one.by_state.get(JobState.PENDING, 0) for one in stats)

    async def take(self, changes: Sequence[Change]) -> list[Poison]:
        """Submit or take away, each document's changes in order; those that never can be."""
        poison: list[Poison] = []
        for at in range(0, len(changes), AT_ONCE):
            told = await asyncio.gather(*map(self._one, changes[at : at + AT_ONCE]))
            poison += [event for event in told if event is not None]
        return poison

    async def _one(self, change: Change) -> Poison | None:
        reason = ""
        try:
            while True:
                try:
                    await (self._delete(change) if change.action is Action.DELETE else self._upsert(change))
                    return None
                except QuotaExceeded as error:
                    await asyncio.sleep(min(error.seconds, 5))
        except IdempotencyConflict as error:
            if change.looked_up:
                return None  # it was told before, and a later event tells of what it is now
            reason = f"this version came before with other content: {error}"
        except (InvalidInput, DocumentError) as error:
            if change.path is not None and isinstance(error, DocumentUnreadable):
                return None  # it went meanwhile, and perhaps came back; the next look tells
            reason = str(error)
        return Poison(id=_key(change), reason=reason, event=repr(change)[:2000], change=change)

    async def _upsert(self, change: Change) -> None:
        options: dict[str, Any] = {
            "tenant": change.tenant,
            "namespace": change.namespace,
            "document_id": change.document_id,
            "version": change.version,
            "metadata": change.metadata,
            "media_type": change.media_type,
            "name": change.name,
            "idempotency_key": _key(change),
        }
        given: Mapping[str, Any] = {key: value for key, value in options.items() if value is not None}
        if change.path is not None:
            job = await self._app.ingest(change.path, **given)
        elif change.text is not None:
            job = await self._app.ingest_text(change.text, **given)
        else:
            raise InvalidInput("an upsert brings a text or the path of a file; this one brings neither")
        await self._supersede(job)

    async def _supersede(self, job: Job) -> None:
        """What waits of the document in older versions need not be embedded; what runs already, finds out itself."""
        for other in await self._jobs_of(job.tenant, str(job.document_id), (JobState.PENDING,)):
            same = other.payload.get("namespace") == job.payload.get("namespace")
            if same and _version(other) < _version(job):
                with suppress(IllegalTransition, NotFound):
                    await self._app.jobs.cancel(
                        other.id, tenant=job.tenant, actor="feed", reason=f"superseded by {job.id}"
                    )

    async def _jobs_of(self, tenant: str, document_id: str, states: tuple[JobState, ...]) -> list[Job]:
        query = JobFilter(tenant=tenant, kinds=(orders.KIND,), states=states, document_id=document_id)
        return await self._app.jobs.store.find(query, 500, None)

    async def _delete(self, change: Change) -> None:
        about = {"namespace": change.namespace, "tenant": change.tenant}
        # Told again after a crash, while the document came back in a newer version: that one stays.
        with suppress(NotFound, Deferred):
            await self._app.delete_document(change.document_id, version=change.version, **about)


def _version(job: Job) -> int:
    version = job.payload["version"]
    assert isinstance(version, int)
    return version


def _key(change: Change) -> str:
    """The same for the same state of the same document."""
    return orders.FED + uuid5(*change.document, str(change.action), str(change.version), change.etag)
