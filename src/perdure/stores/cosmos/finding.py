"""Jobs by filter, counts, and hints of changes. A tenant's queries name it in their text, too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from perdure.domain.job import Job
from perdure.domain.query import JobFilter, Stats
from perdure.domain.state import JobState
from perdure.ports.job_store import Change
from perdure.stores.cosmos.documents import Document, text_of, to_job
from perdure.stores.cosmos.items import Items, together

HINTS: Final = 500
"""Changed jobs that one look names; where there are more it says that something changed."""

OVER: Final = (
    "SELECT TOP @limit c.id, c.tenantId, c._etag FROM c WHERE c.type = 'job' AND c.expiresAt <= @now"
)

_OVERDUE: Final = (
    "SELECT TOP @limit c.id, c.job, c.version, c.dueAt FROM c WHERE c.type = 'job' "
    "AND c.status IN (@states) AND c.dueAt < @now ORDER BY c.dueAt"
)
_NEXT_TENANT: Final = (
    "SELECT TOP 1 VALUE c.tenantId FROM c WHERE c.type = 'job' AND c.tenantId > @after ORDER BY c.tenantId"
)
_FIRST_DUE: Final = (
    "SELECT TOP 1 VALUE c.dueAt FROM c WHERE c.tenantId = @tenant AND c.type = 'job' AND c.status = 'pending' "
    "AND c.dueAt <= @now ORDER BY c.dueAt"
)
_WRITTEN: Final = "SELECT TOP @limit c.id, c.tenantId, c._ts, c._etag FROM c WHERE c.type = 'job' AND c._ts >= @since ORDER BY c._ts DESC"


def _condition(items: Items, query: JobFilter, after: str | None = None) -> tuple[str, Document]:
    """What a filter asks for, without what has expired."""
    wanted: dict[str, tuple[str, object]] = {
        "tenant": ("c.tenantId = @tenant", query.tenant),
        "states": ("c.status IN (@states)", [state.value for state in query.states]),
        "kinds": ("c.kind IN (@kinds)", list(query.kinds)),
        "user": ("c.userId = @user", query.user_id),
        "document": ("c.shardId = @document", query.document_id),
        "since": ("c.createdAt >= @since", query.created_from and text_of(query.created_from)),
        "before": ("c.createdAt < @before", query.created_before and text_of(query.created_before)),
        "after": (f"c.id {'>' if query.oldest_first else '<'} @after", after),
    }
    asked = {
        name: (text, value) for name, (text, value) in wanted.items() if value is not None and value != []
    }
    texts = ["c.type = 'job'", *(text for text, _ in asked.values())]
    texts += ["(IS_NULL(c.expiresAt) OR c.expiresAt > @now)", "NOT ARRAY_CONTAINS(@hidden, c.adding)"]
    values = {name: value for name, (_, value) in asked.items()}
    return " AND ".join(texts), {**values, "now": text_of(items.clock.now())}


async def find(items: Items, query: JobFilter, limit: int, after: str | None) -> list[Job]:
    """A page, by id."""
    order = "c.id" if query.oldest_first else "c.id DESC"
    where, values = _condition(items, query, after)
    text = (
        f"SELECT TOP @limit c.id, c.job, c.version, c.dueAt, c.adding FROM c WHERE {where} ORDER BY {order}"  # noqa: S608 - fixed texts
    )
    return [to_job(row) for row in await items.visible(text, {**values, "limit": limit}, query.tenant)]


async def count(items: Items, query: JobFilter) -> int:
    """How many match: one short row of each, so that it is seen which belong to an add that is under way."""
    where, values = _condition(items, query)
    text = f"SELECT c.adding FROM c WHERE {where}"  # noqa: S608 - fixed texts
    return len(await items.visible(text, values, query.tenant))


async def stats(items: Items, tenant: str | None) -> Stats:
    """Count anew, lane by lane, by the index: counters beside the jobs would be wrong after each removal by the service."""
    where = "c.type = 'job'" if tenant is None else "c.type = 'job' AND c.tenantId = @tenant"
    following = f"SELECT TOP 1 VALUE c.lane FROM c WHERE {where} AND c.lane > @after ORDER BY c.lane"  # noqa: S608 - fixed
    number = f"SELECT VALUE COUNT(1) FROM c WHERE {where} AND c.lane = @lane"  # noqa: S608 - fixed texts
    values: Document = {} if tenant is None else {"tenant": tenant}
    lanes = [""]
    while found := await items.query(following, {**values, "after": lanes[-1]}, tenant):
        lanes += found
    numbers = await together(items.query(number, {**values, "lane": lane}, tenant) for lane in lanes[1:])
    counts: defaultdict[str, dict[JobState, int]] = defaultdict(dict)
    for lane, rows in zip(lanes[1:], numbers, strict=True):
        kind, _, state = lane.partition("!")
        if sum(rows):
            counts[kind][JobState(state)] = sum(rows)
    return Stats(counts=dict(counts))


async def tenants(items: Items, limit: int, after: str) -> dict[str, datetime | None]:
    """Who has jobs, name by name, and since when the first of each has been due."""
    names = [after]
    while len(names) <= limit and (found := await items.query(_NEXT_TENANT, {"after": names[-1]})):
        names += found
    now = text_of(items.clock.now())
    heads = await together(items.query(_FIRST_DUE, {"tenant": name, "now": now}, name) for name in names[1:])
    return {
        name: datetime.fromisoformat(head[0]) if head else None
        for name, head in zip(names[1:], heads, strict=True)
    }


async def expired(items: Items, limit: int) -> list[Job]:
    """Running and waiting jobs whose time ran out, longest overdue first."""
    states = [JobState.RUNNING.value, JobState.WAITING.value]
    found = await items.query(_OVERDUE, {"limit": limit, "states": states, "now": text_of(items.clock.now())})
    return [to_job(row) for row in found]


class Feed:
    """What was written since the last look, by the items' `_ts`: seconds, so each second is looked at until it is over, and
    what was seen of it is remembered.
    """

    def __init__(self) -> None:
        self._since: int | None = None
        self._seen: set[str] = set()

    async def poll(self, items: Items) -> list[Change]:
        """Hints; a deleted job gives none."""
        if self._since is None:
            self._since = int(items.clock.now().timestamp()) - 1
        rows = await items.query(_WRITTEN, {"limit": HINTS, "since": self._since})
        fresh = [row for row in rows if row["_etag"] not in self._seen]
        self._since = max([self._since, *(row["_ts"] - 1 for row in rows)])
        self._seen = {row["_etag"] for row in rows if row["_ts"] >= self._since}
        return [Change()] if len(fresh) == HINTS else list(_changes(fresh))


def _changes(rows: Iterable[Document]) -> Iterable[Change]:
    for job_id, tenant in {row["id"]: row["tenantId"] for row in rows}.items():
        yield Change(tenant=tenant, job_id=job_id)
