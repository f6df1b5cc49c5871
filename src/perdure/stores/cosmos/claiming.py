"""Which job is next, who holds it, and what became of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import uuid4

from azure.core.exceptions import AzureError
from msgspec.structs import replace

from perdure.domain import transition
from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Job
from perdure.domain.state import JobState
from perdure.domain.terms import Slots, Terms, Turns
from perdure.domain.transition import EDIT_FIELDS, RUN_FIELDS, Transition
from perdure.stores.cosmos.documents import Document, document, entry_text, text_of, to_entry, to_job
from perdure.stores.cosmos.items import Items, together
from perdure.stores.cosmos.limits import Reservations

TRIES: Final = 4
"""Looks at the queue in one claim, as long as others are quicker every time."""

LOOKS: Final = 8
"""Queries for one claim that find tenants; those that are not reached have their turn at the next."""

_LINE: Final = (
    "SELECT TOP @limit c.id, c.tenantId, c.kind, c.epoch, c.line, c.adding FROM c WHERE c.line > @after AND c.line < @until "
    "AND c.dueAt <= @now AND c.kind IN (@kinds) AND NOT ARRAY_CONTAINS(@hidden, c.adding)"
)
_FULL: Final = " AND NOT ARRAY_CONTAINS(@full, CONCAT(c.kind, '!', c.tenantId))"


class Queue:
    """The line of pending jobs. One indexed text, `line`, orders them by priority, tenant and age, so that a query can begin
    after any tenant: a claim costs what the tenants that it serves cost, not what the waiting jobs do.
    """

    def __init__(self) -> None:
        self._turns = Turns[Document]()
        self._one_at_a_time = asyncio.Lock()
        """Claims of one process would only take the same jobs from each other."""

    async def claim(
        self, items: Items, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms
    ) -> list[Job]:
        """Take up to `limit` jobs for `worker`, in the order of claiming."""
        async with self._one_at_a_time:
            for _ in range(TRIES):
                places = await Reservations.look(items, terms.of(kinds))
                chosen = await self._next(items, list(kinds), limit, terms, places.slots)
                taken = await _take(items, await places.reserve(chosen), worker, lease)
                if taken or not chosen:
                    return taken
        return []

    async def _next(
        self, items: Items, kinds: list[str], limit: int, terms: Terms, slots: Slots
    ) -> list[Document]:
        """The next jobs, priority by priority."""
        chosen: list[Document] = []
        passed = ""
        while len(chosen) < limit and (free := [kind for kind in kinds if slots.left(kind)]):
            look = Look(items, free, limit - len(chosen), slots)
            heads = await look.between(passed, "~")
            if not heads:
                break
            priority = heads[0]["line"].partition("!")[0]
            chosen += await self._share(look, priority, terms, slots)
            passed = f"{priority}~"
        return chosen

    async def _share(self, look: Look, priority: str, terms: Terms, slots: Slots) -> list[Document]:
        """As many jobs as there is room for, in turn among the tenants, beginning after the one served last."""
        begin, end = f"{priority}!", f"{priority}~"
        last, begun = self._turns.last(int(priority), terms)
        middle = f"{priority}!{last}" if begun or not last else behind(priority, last)
        lines = await look.lines(middle, end)
        if len(lines) < look.room and last:
            lines |= {
                tenant: jobs
                for tenant, jobs in (await look.lines(begin, middle)).items()
                if tenant not in lines
            }
        dealing = {tenant: [(job["kind"], job) for job in jobs] for tenant, jobs in lines.items()}
        return self._turns.deal(int(priority), dealing, look.room, terms, slots)


class Look:
    """Jobs of some kinds that are due now and may run, as many as there is room for."""

    def __init__(self, items: Items, kinds: list[str], room: int, slots: Slots) -> None:
        self._items = items
        full = [f"{kind}!{tenant}" for kind, tenant in slots.full()]
        self._text = f"{_LINE}{_FULL if full else ''} ORDER BY c.line"
        self._values: Document = {
            "kinds": kinds,
            "now": text_of(items.clock.now()),
            "limit": room,
            "full": full,
        }
        self.room = room

    async def between(self, after: str, until: str) -> list[Document]:
        """The first of the line there."""
        return await self._items.visible(self._text, {**self._values, "after": after, "until": until})

    async def lines(self, after: str, until: str) -> dict[str, list[Document]]:
        """The first jobs of each tenant there."""
        lines: defaultdict[str, list[Document]] = defaultdict(list)
        for _ in range(LOOKS):
            found = await self.between(after, until)
            for job in found:
                lines[job["tenantId"]].append(job)
            if len(found) < self.room or len(lines) >= self.room:
                break
            after = behind(found[-1]["line"].partition("!")[0], found[-1]["tenantId"])
        return lines


def behind(priority: str, tenant: str) -> str:
    """What sorts behind all of a tenant's lines, and before any other's: ``"`` comes after ``!``, and is in no name."""
    return f'{priority}!{tenant}"'


async def _take(items: Items, chosen: Sequence[Document], worker: str, lease: timedelta) -> list[Job]:
    """Those of the chosen that nobody else took first."""
    results = await asyncio.gather(
        *(_take_one(items, head, worker, lease) for head in chosen), return_exceptions=True
    )
    taken = [result for result in results if isinstance(result, Job)]
    for result in results:
        # What was taken is handed out even so: nobody else would run it until its lease is over.
        if isinstance(result, BaseException) and not (
            taken and isinstance(result, AzureError | StoreUnavailable)
        ):
            raise result
    return taken


async def _take_one(items: Items, head: Document, worker: str, lease: timedelta) -> Job | None:
    token = str(uuid4())
    taken: Job | None = None

    def take(found: Document | None) -> Document | None:
        nonlocal taken
        taken = None
        if found is None:
            return None
        job = to_job(found)
        if found["claim"] == token:  # the answer to our own write got lost
            taken = job
            return None
        now = items.clock.now()
        if job.epoch != head["epoch"]:  # a place was reserved for another epoch
            return None
        if job.state is not JobState.PENDING or job.due_at is None or job.due_at > now:
            return None
        taken = transition.claim(job, worker, lease, now)
        return document(taken, found["history"], claim=token)

    await items.change(head["tenantId"], head["id"], take)
    return taken


async def extend(items: Items, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
    """Move the leases on; the ids that the worker no longer owns."""
    held = "SELECT c.id, c.tenantId, c.epoch FROM c WHERE c.type = 'job' AND c.worker = @worker AND c.status = 'running'"
    rows = await items.query(held, {"worker": worker})
    mine = [row for row in rows if epochs.get(row["id"]) == row["epoch"]]
    due = text_of(items.clock.now() + lease)
    steps: list[Document] = [
        {"op": "set", "path": "/dueAt", "value": due},
        {"op": "incr", "path": "/version", "value": 1},
    ]
    # An epoch is one claim by one worker, so it tells also that the worker is still the same.
    kept = await together(
        items.patch(row, steps, f"c.status = 'running' AND c.epoch = {int(row['epoch'])}") for row in mine
    )
    return set(epochs) - {row["id"] for row, extended in zip(mine, kept, strict=True) if extended}


async def apply(items: Items, moves: Sequence[Transition]) -> list[bool]:
    """Write each transition whose guard holds; for each whether it stands. All of one job are one write."""
    places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for place, move in enumerate(moves):
        places[move.after.tenant, move.after.id].append(place)
    outcomes = [False] * len(moves)

    async def settle(tenant: str, job_id: str, mine: list[int]) -> None:
        def decide(found: Document | None) -> Document | None:
            wanted, stand = _written(found, [moves[place] for place in mine])
            for place, stands in zip(mine, stand, strict=True):
                outcomes[place] = stands
            return wanted

        await items.change(tenant, job_id, decide)

    await together(settle(tenant, job_id, mine) for (tenant, job_id), mine in places.items())
    return outcomes


def _written(found: Document | None, moves: Sequence[Transition]) -> tuple[Document | None, list[bool]]:
    """The item after the moves, None where they leave it; and which of them stand."""
    if found is None:
        return None, [False] * len(moves)
    before = job = to_job(found)
    history = list(found["history"])
    seen = {to_entry(text).id for text in history}
    stand: list[bool] = []
    for place, move in enumerate(moves):
        if move.entry is None:
            # Said again, a report stands where something stands that the same run says after it.
            later = {other.entry.id for other in moves[place:] if other.entry and other.epoch == move.epoch}
            known = bool(later & seen)
        else:
            known = move.entry.id in seen
        stand.append(known or _holds(move, job))
        if known or not stand[place]:
            continue
        job = _after(job, move)
        if move.entry is not None:
            history.append(entry_text(move.entry))
            seen.add(move.entry.id)
    return (None if job is before else document(job, history, claim=found["claim"])), stand


def _holds(move: Transition, job: Job) -> bool:
    if move.version is None:
        return job.state is JobState.RUNNING and job.epoch == move.epoch
    return job.version == move.version


def _after(job: Job, move: Transition) -> Job:
    names = RUN_FIELDS if move.version is None else (*RUN_FIELDS, *EDIT_FIELDS)
    changed = {name: getattr(move.after, name) for name in names}
    if move.after.state is job.state is JobState.RUNNING:  # `extend` alone moves a lease
        changed["due_at"] = job.due_at
    return replace(job, version=job.version + 1, **changed)
