"""Which job is next, and who holds it."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import chain
from typing import Final, TypeAlias
from uuid import uuid4

from pymongo import UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern

from perdure.domain.moments import micros_of
from perdure.domain.state import JobState
from perdure.domain.terms import Slots, Terms, Turns
from perdure.stores.mongodb.documents import NOW_US, WHOLE, Document

Jobs: TypeAlias = AsyncCollection[Document]

Head: TypeAlias = tuple[int, str, str]
"""(due_us, job id, kind) of the first job of a tenant in a lane"""

TRIES: Final = 4
"""Looks at the queue in one claim, as long as others are quicker every time."""


class Queue:
    """The line of pending jobs. One index holds them by kind, priority, tenant and age, and is skipped through: a claim
    costs what the waiting tenants cost, not what the waiting jobs do.
    """

    def __init__(self) -> None:
        self._turns = Turns[str]()
        self._marked = set[str]()
        """Kinds that have a document for their limit."""
        self._one_at_a_time = asyncio.Lock()
        """Claims of one process would only take the same jobs from each other."""

    async def claim(
        self, jobs: Jobs, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms
    ) -> list[Document]:
        """Take up to `limit` jobs for `worker`, in the order of claiming."""
        async with self._one_at_a_time:
            limits = terms.of(kinds)
            for _ in range(TRIES):
                if limits:
                    taken, chosen = await self._by_limits(jobs, worker, kinds, limit, lease, terms)
                else:
                    chosen, now = await self._next(jobs, kinds, limit, terms, Slots({}, {}))
                    taken = await _take(jobs, chosen, worker, now, lease) if chosen else []
                if taken or not chosen:
                    return taken
        return []

    async def _by_limits(
        self, jobs: Jobs, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms
    ) -> tuple[list[Document], list[str]]:
        """In a transaction that begins with a write to a document of each limited kind: of two at once one is undone and
        done again, so that both see what the other took.
        """
        limits = terms.of(kinds)
        marks = jobs.database[f"{jobs.name}.limits"]
        token = uuid4().hex

        async def work(session: AsyncClientSession) -> tuple[list[Document], list[str]]:
            await marks.update_many(
                {"_id": {"$in": list(limits)}}, {"$set": {"last": token}}, session=session
            )
            slots = Slots(limits, await _running(jobs, list(limits), session))
            chosen, now = await self._next(jobs, kinds, limit, terms, slots)
            taken = await _take(jobs, chosen, worker, now, lease, session) if chosen else []
            return taken, chosen

        for kind in limits.keys() - self._marked:
            with suppress(DuplicateKeyError):
                await marks.insert_one({"_id": kind})
            self._marked.add(kind)
        async with jobs.database.client.start_session() as session:
            return await session.with_transaction(
                work, read_concern=ReadConcern("snapshot"), write_concern=jobs.write_concern
            )

    async def _next(
        self, jobs: Jobs, kinds: Sequence[str], limit: int, terms: Terms, slots: Slots
    ) -> tuple[list[str], int]:
        """The ids of the next jobs, priority by priority; and the server's time."""
        kinds = [kind for kind in kinds if slots.left(kind)]
        found = await asyncio.gather(
            *(jobs.distinct("priority", {"status": JobState.PENDING, "kind": kind}) for kind in kinds)
        )
        chosen, now = list[str](), 0
        for priority in sorted({priority for some in found for priority in some}, reverse=True):
            if len(chosen) < limit:
                level = Level(jobs, priority)
                await level.look(kinds, slots)
                chosen += await self._share(level, limit - len(chosen), terms, slots)
                now = max(now, level.now)
        return chosen, now

    async def _share(self, level: Level, room: int, terms: Terms, slots: Slots) -> list[str]:
        """Up to `room` jobs, in turn among the tenants, beginning after the one served last."""
        tenants = sorted(level.heads)
        if not tenants:
            return []
        last, begun = self._turns.last(level.priority, terms)
        begin = (bisect_left if begun else bisect_right)(tenants, last)
        served = (tenants[begin:] + tenants[:begin])[:room]
        portions = terms.portions(served, room)
        lines = await asyncio.gather(*(level.line(tenant, portions[tenant], slots) for tenant in served))
        return self._turns.deal(level.priority, dict(zip(served, lines, strict=True)), room, terms, slots)


class Level:
    """Jobs of one priority that are due."""

    def __init__(self, jobs: Jobs, priority: int) -> None:
        self._jobs = jobs
        self.priority = priority
        self.now = 0
        self.heads: defaultdict[str, list[Head]] = defaultdict(list)
        """tenant → the first job of each kind"""

    async def look(self, kinds: Sequence[str], slots: Slots) -> None:
        """Find the tenants who have jobs here, and may run one."""
        await asyncio.gather(*(self._look(kind, slots) for kind in kinds))

    async def _look(self, kind: str, slots: Slots) -> None:
        pipeline: list[Document] = [
            {"$match": {"status": JobState.PENDING, "kind": kind, "priority": self.priority}},
            {"$sort": {"tenant": 1, "due_us": 1, "_id": 1}},
            {"$group": {"_id": "$tenant", "due": {"$first": "$due_us"}, "job": {"$first": "$_id"}}},
            {"$set": {"now": NOW_US}},
            {"$match": {"due": {"$ne": None}, "$expr": {"$lte": ["$due", "$now"]}}},
        ]
        async for head in await self._jobs.aggregate(pipeline):
            if slots.left(kind, head["_id"]):
                self.heads[head["_id"]].append((head["due"], head["job"], kind))
            self.now = max(self.now, head["now"])

    async def line(self, tenant: str, limit: int, slots: Slots) -> list[tuple[str, str]]:
        """(kind, id) of a tenant's first jobs, `limit` of them or, of kinds with a limit, more."""
        heads = self.heads[tenant]
        if limit == 1:
            _due, job_id, kind = min(heads)
            return [(kind, job_id)]
        found = await asyncio.gather(
            *(self._lane(tenant, kind, min(limit, slots.left(kind, tenant))) for _due, _id, kind in heads)
        )
        return [(kind, job_id) for _due, job_id, kind in sorted(chain.from_iterable(found))[:limit]]

    async def _lane(self, tenant: str, kind: str, limit: int) -> list[Head]:
        due = {
            "status": JobState.PENDING,
            "kind": kind,
            "priority": self.priority,
            "tenant": tenant,
            "due_us": {"$lte": self.now},
        }
        found = self._jobs.find(due, {"_id": 1, "due_us": 1}).sort([("due_us", 1), ("_id", 1)]).limit(limit)
        return [(job["due_us"], job["_id"], kind) async for job in found]


async def _running(
    jobs: Jobs, kinds: Sequence[str], session: AsyncClientSession
) -> dict[tuple[str, str], int]:
    """(kind, tenant) → how many of these kinds run."""
    found = jobs.find(
        {"status": JobState.RUNNING, "kind": {"$in": list(kinds)}}, {"kind": 1, "tenant": 1}, session=session
    )
    return Counter([(job["kind"], job["tenant"]) async for job in found])


async def _take(
    jobs: Jobs,
    chosen: Sequence[str],
    worker: str,
    now: int,
    lease: timedelta,
    session: AsyncClientSession | None = None,
) -> list[Document]:
    """Those of the chosen that nobody else took first. Single updates in one command: the driver may repeat it when its
    answer is lost, and each counts once.
    """
    token = uuid4().hex
    mine = [
        {
            "$set": {
                "status": JobState.RUNNING.value,
                "worker": {"$literal": worker},
                "claim": token,
                "epoch": {"$add": ["$epoch", 1]},
                "version": {"$add": ["$version", 1]},
                "started_at": "$$NOW",
                "started_us": NOW_US,
                "updated_at": "$$NOW",
                "updated_us": NOW_US,
                **_until(lease),
            }
        }
    ]
    free = {"status": JobState.PENDING, "due_us": {"$lte": now}}
    updates = [UpdateOne({"_id": job_id, **free}, mine) for job_id in chosen]
    await jobs.bulk_write(updates, ordered=False, session=session)
    held = {"_id": {"$in": list(chosen)}, "claim": token, "status": JobState.RUNNING}
    won = jobs.find(held, WHOLE, session=session)
    taken = {job["_id"]: job async for job in won}
    return [taken[job_id] for job_id in chosen if job_id in taken]


async def extend(jobs: Jobs, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
    """Move the leases on; the ids that the worker no longer owns."""
    held = {"status": JobState.RUNNING, "worker": worker}
    later = [{"$set": {"version": {"$add": ["$version", 1]}, **_until(lease)}}]
    beats = [UpdateOne({"_id": job_id, "epoch": epoch, **held}, later) for job_id, epoch in epochs.items()]
    if (await jobs.bulk_write(beats, ordered=False)).matched_count == len(beats):
        return set()
    # A job that this worker holds now it held all the time since it claimed it: its beat was written.
    found = jobs.find({"_id": {"$in": list(epochs)}, **held}, {"epoch": 1})
    kept = {job["_id"] async for job in found if job["epoch"] == epochs[job["_id"]]}
    return set(epochs) - kept


def _until(lease: timedelta) -> Document:
    span = micros_of(lease)
    return {"due_at": {"$add": ["$$NOW", span // 1000]}, "due_us": {"$add": [NOW_US, span]}}
