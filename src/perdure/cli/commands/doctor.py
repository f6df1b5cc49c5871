"""`perdure doctor`"""

from __future__ import annotations

import asyncio
import difflib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from rich.text import Text

from perdure import bootstrap, wiring
from perdure.cli.call import Call, command
from perdure.cli.failures import OK, UNSUCCESSFUL
from perdure.cli.output import show_log
from perdure.cli.show import table
from perdure.cli.text import age, counted, duration, printable
from perdure.domain.errors import PerdureError, SchemaMismatch, StoreCorrupt
from perdure.domain.state import JobState
from perdure.ports.embedder import MeteredEmbedder
from perdure.settings import PREFIX, Settings

OFFSET: Final = timedelta(seconds=2)
"""How far this machine's clock may be from the store's."""
STUCK: Final = timedelta(minutes=1)
ROOM: Final = 500_000_000
"""Bytes that a disk should have left."""
_PATIENCE: Final = 10.0
_OTHERS: Final = ("TENANT", "ACTOR", "DEBUG", "SERVER", "KEY")
"""Variables that are no settings."""
_STYLES: Final = {"ok": "green", "warning": "yellow", "fault": "red"}


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        status: `ok`, `warning` (it works, and perhaps not as meant) or `fault`.
        remedy: what to do; empty where all is well.
    """

    check: str
    status: str
    message: str
    remedy: str = ""


@command("perdure doctor", "perdure doctor --json | jq -r 'select(.status != \"ok\").remedy'")
async def doctor(call: Call) -> int:
    """Look what is wrong here, and tell what to do.

    It changes nothing, and makes no store. Settings, the store with its schema and clock, the place for vectors, the embedder, the disk, jobs that wait for
    nobody. With --json each check is a line. Exit code 1 if there is a fault.
    """
    if call.server:
        call.settings()  # says that there is none of another machine's
    show_log(50)
    found = [finding async for finding in examine(call.store, os.environ, call.tenant)]
    rows = table("CHECK", "", "WHAT IT FOUND", wrap=["WHAT IT FOUND"])
    for one in found:
        said = printable(f"{one.message}; {one.remedy}" if one.remedy else one.message)
        rows.add_row(one.check, Text(one.status, _STYLES[one.status]), said)
    call.show_each((one._asdict() for one in found), rows)
    return UNSUCCESSFUL if any(one.status == "fault" for one in found) else OK


async def examine(store: str | None, environ: Mapping[str, str], tenant: str) -> AsyncIterator[Finding]:
    """Check one thing after the other; what cannot be looked at because of a fault before is left out.

    Args:
        store: the URL that was given; None: the environment's.
    """
    for finding in _misspelt(environ):
        yield finding
    try:
        settings = Settings.from_environ(environ, store=store)
    except PerdureError as error:
        yield Finding("settings", "fault", str(error), "set the variable so, or unset it")
        return
    yield Finding("settings", "ok", f"store {bootstrap.shown(settings.store)}")
    for finding in (*_disk(settings), *_door(settings)):
        yield finding
    async with AsyncExitStack() as stack:
        async for finding in _stores(settings, tenant, stack):
            yield finding


def _misspelt(environ: Mapping[str, str]) -> Iterator[Finding]:
    known = [PREFIX + name.upper() for name in (*Settings.__struct_fields__, *_OTHERS)]
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not name.startswith(f"{PREFIX}TEST_"):
            near = difflib.get_close_matches(name, known, 1)
            remedy = f"did you mean {near[0]}?" if near else "unset it; docs/reference/settings.md lists all"
            yield Finding("environment", "warning", f"{name} is no setting, and nobody reads it", remedy)


def _disk(settings: Settings) -> Iterator[Finding]:
    for url in sorted({settings.store, settings.vectors or settings.store, settings.blobs or settings.store}):
        if not url.startswith("sqlite:"):
            continue
        try:
            folder = bootstrap.sqlite_path(url).absolute().parent
        except PerdureError:
            continue  # the store's own check says it
        if not folder.is_dir():
            yield Finding("disk", "fault", f"there is no folder {folder}", f"make it: mkdir -p {folder}")
            continue
        free = shutil.disk_usage(folder).free
        told = f"{free / 1e9:.1f} GB are free in {folder}"
        if not os.access(folder, os.W_OK):
            yield Finding("disk", "fault", f"{folder} may not be written", f"run: chown $USER {folder}")
        elif free < ROOM:
            remedy = "make room, or move the store: perdure store copy"
            yield Finding("disk", "fault", f"only {told}; writes will fail soon", remedy)
        else:
            yield Finding("disk", "ok", told)


def _door(settings: Settings) -> Iterator[Finding]:
    if settings.allow_remote and not settings.jwt_keys:
        yield Finding(
            "door",
            "warning",
            "PERDURE_ALLOW_REMOTE lets anybody who reaches the server in",
            "make a key (perdure keys create NAME) and unset it",
        )
    if settings.jwt_keys and not (settings.jwt_issuer and settings.jwt_audience):
        yield Finding(
            "door",
            "fault",
            "PERDURE_JWT_KEYS is set, and not whose tokens are meant: serve will not start",
            "set PERDURE_JWT_ISSUER and PERDURE_JWT_AUDIENCE, too",
        )


async def _stores(settings: Settings, tenant: str, stack: AsyncExitStack) -> AsyncIterator[Finding]:
    if "memory:" in (settings.store, settings.vectors):
        remedy = "name a store that lasts, e.g. PERDURE_STORE=sqlite:///perdure.db"
        yield Finding("store", "warning", "what is in memory is gone when its process ends", remedy)
    try:
        if not bootstrap.exists(settings.store):
            remedy = "make it: perdure store init; or name yours: --store, PERDURE_STORE"
            yield Finding("store", "fault", f"there is nothing at {settings.store} yet", remedy)
            return
        jobs = await _soon(stack.enter_async_context(bootstrap.job_service(settings)))
    except (PerdureError, OSError) as error:
        yield _store_fault("store", error)
        return
    yield Finding("store", "ok", "it answers, and its schema fits")
    async for finding in _jobs(jobs, tenant):
        yield finding
    async for finding in _vectors(settings, tenant, stack):
        yield finding


def _store_fault(check: str, error: Exception) -> Finding:
    match error:
        case SchemaMismatch():
            remedy = "use the Perdure that made it or a later one, or bring it up to date: perdure store init"
        case StoreCorrupt():
            remedy = "name another, or restore it from a backup"
        case _:
            remedy = "is it running, and are host, port, user and password in the URL right?"
    return Finding(check, "fault", str(error) or type(error).__name__, remedy)


async def _jobs(jobs: Any, tenant: str) -> AsyncIterator[Finding]:
    offset = abs(datetime.now(UTC) - await jobs.store.now())
    told = f"this machine's differs from the store's by {duration(offset)}"
    if offset > OFFSET:
        yield Finding("clock", "fault", told, "keep both by NTP: jobs run by the store's clock")
    else:
        yield Finding("clock", "ok", told)
    now = jobs.clock.now()
    due = [since for since in (await jobs.tenants(1000)).values() if since is not None]
    running = (await jobs.stats(None)).by_state[JobState.RUNNING]
    if due and now - min(due) > STUCK and not running:
        message = f"a job has been due for {age(min(due), now)}, and none is running"
        yield Finding("worker", "fault", message, "start one: perdure worker")
    failed = (await jobs.stats(tenant)).by_state[JobState.FAILED]
    if failed:
        remedy = "perdure dead list tells why; perdure dead retry sends them round again"
        yield Finding("jobs", "warning", f"{counted(failed, 'job')} failed", remedy)
    else:
        yield Finding("jobs", "ok", "none has failed")


async def _vectors(settings: Settings, tenant: str, stack: AsyncExitStack) -> AsyncIterator[Finding]:
    try:
        parts = bootstrap.build(settings)
        stack.push_async_callback(parts.close)
        url = settings.vectors or settings.store
        if not bootstrap.exists(url):
            yield Finding("vectors", "fault", f"there is nothing at {url} yet", "make it: perdure store init")
            return
        await _soon(parts.setup())
        namespaces = await _soon(parts.vectors.namespaces(tenant))
    except (PerdureError, OSError) as error:
        yield _store_fault("vectors", error)
        return
    yield Finding("vectors", "ok", f"{counted(len(namespaces), 'namespace')} of tenant {tenant}")
    try:
        embedder = await asyncio.to_thread(wiring.embedder, settings.embedder, settings)
        stack.push_async_callback(embedder.close)
        if isinstance(embedder, MeteredEmbedder):
            await _soon(embedder.prepare())
        [vector] = await _soon(embedder.embed(["a word"], "query"))
    except (PerdureError, OSError) as error:
        remedy = "check PERDURE_EMBEDDER and PERDURE_EMBEDDER_KEY, and that its server runs"
        yield Finding("embedder", "fault", str(error) or type(error).__name__, remedy)
        return
    model = embedder.model
    yield Finding("embedder", "ok", f"{model} gives {len(vector)} dimensions")
    for one in namespaces:
        moved = "~" in one.name  # by reindex: its model is known to be another
        if not moved and (one.model, one.dimension) != (model, len(vector)):
            message = f"namespace {one.name} was filled by {one.model}, and this is {model}"
            yield Finding(
                "model",
                "fault",
                message,
                "set PERDURE_EMBEDDER as it was, then move it: perdure reindex --model NEW",
            )


async def _soon(wait: Awaitable[Any]) -> Any:
    try:
        return await asyncio.wait_for(wait, _PATIENCE)
    except TimeoutError:
        raise OSError(f"no answer within {_PATIENCE:g} s") from None
