"""Lists, counts and hints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

from pymongo.errors import ConnectionFailure, OperationFailure

from perdure.domain.moments import micros, moment
from perdure.domain.query import JobFilter, Stats
from perdure.domain.state import JobState
from perdure.ports.job_store import Change
from perdure.stores.mongodb.claiming import Jobs
from perdure.stores.mongodb.documents import NOW_US, Document
from perdure.stores.mongodb.errors import FEED_LOST

VISIBLE: Final[Document] = {"$expr": {"$gt": [{"$ifNull": ["$expires_us", 2**62]}, NOW_US]}}
"""Not expired, by the server's clock, although perhaps not removed yet."""

_STATES: Final = list(JobState)
_FEED: Final = [{"$project": {"operationType": 1, "documentKey": 1, "fullDocument.tenant": 1}}]
_PATIENCE_MS: Final = 1000


def condition(query: JobFilter, after: str | None = None) -> Document:
    """The filter for what matches. It always names the states, so that every page can walk an index that begins
    with the tenant: one that is asked for all states becomes a few walks, merged by id.
    """
    terms: dict[str, Any] = {"status": {"$in": list(query.states) or _STATES}}
    for name in ("tenant", "user_id", "document_id"):
        if (value := getattr(query, name)) is not None:
            terms[name] = value
    if query.kinds:
        terms["kind"] = {"$in": list(query.kinds)}
    born = {}
    if query.created_from is not None:
        born["$gte"] = micros(query.created_from)
    if query.created_before is not None:
        born["$lt"] = micros(query.created_before)
    if born:
        terms["created_us"] = born
    if after is not None:
        terms["_id"] = {"$gt" if query.oldest_first else "$lt": after}
    return {**terms, **VISIBLE}


async def stats(jobs: Jobs, tenant: str | None) -> Stats:
    """Count by the index that holds tenant, kind and state: no document is read, and no counter can be wrong."""
    pipeline: list[Document] = [
        {"$match": {} if tenant is None else {"tenant": tenant}},
        {"$group": {"_id": {"kind": "$kind", "status": "$status"}, "jobs": {"$sum": 1}}},
    ]
    counts: dict[str, dict[JobState, int]] = {}
    async for row in await jobs.aggregate(pipeline, hint="lane"):
        counts.setdefault(row["_id"]["kind"], {})[JobState(row["_id"]["status"])] = row["jobs"]
    return Stats(counts=counts)


async def tenants(jobs: Jobs, limit: int, after: str, now: int) -> dict[str, datetime | None]:
    """Who has jobs, and since when the first of each has been due; both by an index."""
    names: list[Document] = [
        {"$match": {"tenant": {"$gt": after}}},
        {"$group": {"_id": "$tenant"}},
        {"$sort": {"_id": 1}},
        {"$limit": limit},
    ]
    found = [row["_id"] async for row in await jobs.aggregate(names, hint="lane")]
    heads: list[Document] = [
        {"$match": {"status": JobState.PENDING, "tenant": {"$in": found}}},
        {"$group": {"_id": "$tenant", "due": {"$min": "$due_us"}}},
    ]
    due = {row["_id"]: row["due"] async for row in await jobs.aggregate(heads)}
    return {name: moment(due[name]) if (due.get(name) or now + 1) <= now else None for name in found}


class Feed:
    """The change stream. It goes on after the last change it told, also after the server was away."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._token: Any = None

    async def changes(self) -> AsyncIterator[Change]:
        """Yield hints; ends with the driver's error."""
        stream = await self._jobs.watch(_FEED, resume_after=self._token, max_await_time_ms=_PATIENCE_MS)
        async with stream:
            while True:
                event = await stream.try_next()
                self._token = stream.resume_token
                if event is not None:
                    told = event.get("fullDocument") or {}
                    job_id = (event.get("documentKey") or {}).get("_id")
                    yield Change(tenant=told.get("tenant"), job_id=job_id)

    def recovers(self, error: Exception) -> bool:
        """Whether `changes` may be called again after this error; what happened meanwhile may then be lost."""
        if isinstance(error, OperationFailure) and error.code in FEED_LOST:
            self._token = None
            return True
        return isinstance(error, ConnectionFailure)
