"""Looks for what does not fit together in a job store, by nothing but the port's primitives."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

from perdure.core.transfer import MARK
from perdure.core.value_transfer import pages
from perdure.domain.job import Entry, Job
from perdure.domain.query import JobFilter, Stats
from perdure.domain.record import Record
from perdure.domain.state import Event, JobState
from perdure.ports.job_store import JobStore
from perdure.ports.key_value import KeyValueStore

PAGE = 500
LATE = timedelta(minutes=5)
"""After so long somebody should have come for a job whose time it is."""

_ENDS = {
    JobState.COMPLETED: {Event.COMPLETED},
    JobState.PARTIAL: {Event.PARTLY_COMPLETED},
    JobState.FAILED: {Event.FAILED, Event.QUARANTINED},
    JobState.CANCELLED: {Event.CANCELLED, Event.MOVED},
}
_Counts = Counter[tuple[str, JobState]]


class Finding(Record):
    """One thing that does not fit.

    Attributes:
        what: its sort, for scripts: `counters`, `history`, `lease`, `question`, `stuck`, `overdue`, `key`, `copy`, `value`.
        job_id: None where it concerns no single job.
        message: what was expected, what is there. remedy: what to do.
    """

    what: str
    message: str
    remedy: str
    tenant: str | None = None
    job_id: str | None = None


async def check(
    store: JobStore, report: Callable[[int], None] = lambda _seen: None
) -> AsyncIterator[Finding]:
    """Walk all jobs of a store that may be in use.

    Args:
        report: told how many jobs were looked at.
    """
    before, now = await store.stats(None), await store.now()
    counted: _Counts = Counter()
    keys: dict[tuple[str, str], str] = {}
    after, seen = None, 0
    while page := await store.find(JobFilter(tenant=None), PAGE, after):
        for job in page:
            counted[job.kind, job.state] += 1
            for finding in (*_of_job(job, now), *_of_key(job, keys), *await _of_history(store, job)):
                yield finding
        after, seen = page[-1].id, seen + len(page)
        report(seen)
    for finding in (*_of_counters(before, counted, await store.stats(None)), *await _of_values(store.values)):
        yield finding


def _of_job(job: Job, now: datetime) -> list[Finding]:
    late = job.due_at is not None and job.due_at < now - LATE
    match job.state:
        case JobState.PENDING if job.kind == MARK:
            told = (
                "copy",
                f"the copy that began at {job.created_at:%Y-%m-%d %H:%M:%S} has not come to its end: "
                "jobs may be missing here that the source has already let go",
                f"unless it still runs, run it again: perdure store copy {job.payload['from']} {job.payload['to']}",
            )
        case JobState.PENDING if job.due_at is None:
            told = ("copy", "half copied, so that no worker takes it", "run the copy into this store again")
        case JobState.PENDING if late:
            told = (
                "stuck",
                f"due since {job.due_at:%Y-%m-%d %H:%M:%S} and not taken",
                f"start a worker that runs {job.kind!r}, or more of them",
            )
        case JobState.RUNNING if job.due_at is None or job.worker is None:
            told = ("lease", "running under no lease", "cancel it, then requeue it")
        case JobState.RUNNING | JobState.WAITING if late:
            told = (
                "overdue",
                f"{job.state} although its time ran out at {job.due_at:%Y-%m-%d %H:%M:%S}",
                "start a worker: every worker looks after such jobs",
            )
        case JobState.WAITING if job.question is None or job.question.answered_at is not None:
            told = ("question", "waiting for an answer that nobody asked for", "cancel it, then requeue it")
        case _:
            return []
    what, message, remedy = told
    return [_finding(job, what, message, remedy)]


def _of_key(job: Job, keys: dict[tuple[str, str], str]) -> list[Finding]:
    if job.idempotency_key is None:
        return []
    other = keys.setdefault((job.tenant, job.idempotency_key), job.id)
    if other == job.id:
        return []
    message = f"has the idempotency key {job.idempotency_key!r} that job {other} has, too"
    return [_finding(job, "key", message, "delete the one of them that is not wanted")]


async def _of_history(store: JobStore, job: Job) -> list[Finding]:
    """The last entry tells how a finished job came to its end. An unfinished job may have none, and changes as we look."""
    if not job.finished:
        return []
    entries = await store.history(job.tenant, job.id)
    if entries and entries[-1].event in _ENDS[job.state]:
        return []
    if (again := await store.get(job.tenant, job.id)) is None or again.version != job.version:
        return []
    last = _told(entries)
    remedy = (
        "if a copy into this store was interrupted, run it again; else keep it as it is: its record is right"
    )
    return [_finding(job, "history", f"{job.state}, but {last}", remedy)]


def _told(entries: list[Entry]) -> str:
    return f"its history ends with {entries[-1].event}" if entries else "it has no history"


def _of_counters(before: Stats, counted: _Counts, after: Stats) -> list[Finding]:
    """A counter that stood still while all jobs were walked must agree with them."""
    found = []
    for kind in sorted({*before.counts, *after.counts, *(kind for kind, _ in counted)}):
        for state in JobState:
            told, again = (stats.counts.get(kind, {}).get(state, 0) for stats in (before, after))
            # Expired jobs are counted until they are purged, and not walked.
            wrong = told < counted[kind, state] or (told > counted[kind, state] and not state.terminal)
            if told == again and wrong:
                message = f"{told} jobs of kind {kind!r} are counted as {state}; {counted[kind, state]} are"
                remedy = (
                    "check again when the store is at rest; if it stays, copy the store (perdure store copy)"
                )
                found.append(Finding(what="counters", message=message, remedy=remedy))
    return found


async def _of_values(values: KeyValueStore) -> list[Finding]:
    """What is told by a page must be told by its key, too."""
    found = []
    for space in await values.spaces():
        async for page in pages(values, space):
            there = await values.read(space, [value.key for value in page])
            lacking = [value for value in page if value.key not in there]
            again = {value.key async for part in pages(values, space) for value in part} if lacking else set()
            for value in lacking:
                if value.key in again and not await values.read(space, [value.key]):
                    message = f"the value {value.key!r} in {space!r} is listed, but not found by its key"
                    remedy = "write it again (an API key: make another one), or restore the database's backup"
                    found.append(Finding(what="value", message=message, remedy=remedy))
    return found


def _finding(job: Job, what: str, message: str, remedy: str) -> Finding:
    return Finding(what=what, message=message, remedy=remedy, tenant=job.tenant, job_id=job.id)
