"""Whole job stores: copy one into another, check one. No vectors and no model are opened for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

from msgspec.structs import replace

from perdure import bootstrap
from perdure.core.check import Finding, check
from perdure.core.jobs import JobService
from perdure.core.transfer import Transfer, TransferReport
from perdure.core.value_transfer import ValuesReport, ValueTransfer
from perdure.core.webhooks import all_subscriptions, begin
from perdure.domain.errors import InvalidInput, NotFound
from perdure.ingestion import carrier
from perdure.ports.blob_store import BlobStore
from perdure.settings import Settings

__all__ = ["Finding", "TransferReport", "ValuesReport", "check_jobs", "copy_jobs"]


def _unheard(_seen: int) -> None:
    """Nobody wants to know how many jobs were looked at."""


async def copy_jobs(
    source: str, target: str, *, dry_run: bool = False, report: Callable[[int], None] = _unheard
) -> TransferReport:
    """Let all jobs of one store go on in another, whoever uses either meanwhile.

    Content that waits for its job comes along where the target keeps some, and so do small values (API keys, subscriptions);
    chunks and vectors do not.

    Args:
        source, target: URLs.
        dry_run: only count; the target is not touched.
        report: told how many jobs were looked at.

    Raises:
        InvalidInput: an unknown URL, or the two are one.
        NotFound: there is no store at `source`.
        StoreUnavailable: either went away. Repeat the call: it goes on where it was.
    """
    if source == target:
        raise InvalidInput(f"{bootstrap.shown(source)} cannot be copied into itself; name another store")
    if not bootstrap.exists(source):
        raise NotFound(f"there is no store at {bootstrap.shown(source)} (seen from {os.getcwd()})")  # noqa: PTH109
    async with AsyncExitStack() as stack:
        jobs, blobs = await _opened(source, stack)
        if dry_run:
            stats = await jobs.stats(None)
            return TransferReport(copied=stats.total - stats.unfinished, moved=stats.unfinished)
        there, blobs_there = await _opened(target, stack)
        names = {"to": bootstrap.shown(target), "origin": bootstrap.shown(source)}
        # Who is to be told of jobs, and with what keys, is there before the first job is; what changes until the end, after it.
        await ValueTransfer(jobs.store.values, there.store.values, **names).run()
        if await all_subscriptions(there):
            await begin(there)
        carry = carrier(blobs, blobs_there)
        return await Transfer(jobs, there.store, **names, carry=carry, report=report).run()


async def check_jobs(url: str, *, report: Callable[[int], None] = _unheard) -> AsyncIterator[Finding]:
    """Tell what does not fit together in a job store, of all tenants; it may be in use.

    Args:
        report: told how many jobs were looked at.
    """
    async with AsyncExitStack() as stack:
        jobs, _blobs = await _opened(url, stack)
        async for finding in check(jobs.store, report):
            yield finding


async def _opened(url: str, stack: AsyncExitStack) -> tuple[JobService, BlobStore | None]:
    """The jobs at a URL, and the content that waits beside them; open until the stack unwinds."""
    settings = replace(Settings.from_environ(os.environ, store=url), cache_megabytes=0)
    jobs = await stack.enter_async_context(bootstrap.job_service(settings))
    if (blobs := bootstrap.blob_store(url)) is not None:
        stack.push_async_callback(blobs.close)
        await blobs.setup()
    return jobs, blobs
