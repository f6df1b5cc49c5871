"""Tracking alone: a job store and nothing else, for programs that neither ingest nor work off jobs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from perdure import bootstrap
from perdure.core.jobs import JobService
from perdure.core.tracking import Tracked, Tracker
from perdure.settings import Settings

__all__ = ["Tracked", "Tracker", "tracker"]


def make_tracker(jobs: JobService, settings: Settings, **options: Any) -> Tracker:
    """A tracker with these settings; `options` of `Tracker` win."""
    lease = timedelta(seconds=settings.lease_seconds)
    return Tracker(jobs, **({"lease": lease, "ttl": settings.job_ttl} | options))


@asynccontextmanager
async def tracker(store: str | None = None, **overrides: Any) -> AsyncIterator[Tracker]:
    """Keep records of work that this program does: ``async with perdure.tracker(url) as tracker``.

    It opens whether or not the store can be reached, and writes what it was told once it can. When the block is left, what
    still waits gets `perdure.core.tracking.DRAIN` seconds.

    Args:
        store: a URL; None: ``PERDURE_STORE``, else ``sqlite:///perdure.db``.
        overrides: fields of `Settings`, of which `lease_seconds` and `job_ttl_hours` count here.

    Raises:
        InvalidInput: an unknown URL or setting, or a driver that is not installed.
    """
    settings = replace(Settings.from_environ(os.environ, store=store, **overrides), cache_megabytes=0)
    jobs = JobService(bootstrap.job_store(settings))

    async def prepare() -> None:
        await jobs.store.setup()
        await jobs.start()

    made = make_tracker(jobs, settings, prepare=prepare, maintain=True)
    try:
        yield made
    finally:
        await made.aclose()
        await jobs.close()
        await jobs.store.close()
