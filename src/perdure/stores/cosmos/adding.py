"""New jobs: all of a call or none, and each once.

One job is one request, up to a hundred of one tenant are one transactional batch. What does not fit into one batch is written
under a token, and is there for everybody at the moment when one item says that the token is committed. An add that died
before that is aborted by whoever comes upon it: the item about a token can be created once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import uuid4

from azure.core.exceptions import AzureError

from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Job
from perdure.stores.cosmos.documents import MAX_ITEM, Document, document, once, size, text_of, to_job
from perdure.stores.cosmos.items import Items, together

BATCH: Final = 100
"""Operations in a transactional batch: the service's limit."""

BATCH_BYTES: Final = MAX_ITEM - 100_000
"""Of the items of a batch; a request has at most 2 MB."""

GRACE: Final = timedelta(seconds=45)
"""An add that is under way for longer has died: a call takes at most `store.PATIENCE`."""

TRIES: Final = 8
"""Each one more means that somebody added the same at the same time."""

_HOLDERS: Final = (
    "SELECT * FROM c WHERE c.type = 'job' AND c.tenantId = @tenant "
    "AND (c.id IN (@names) OR c.once IN (@names))"
)

_NEXT_ADD: Final = (
    "SELECT TOP 1 VALUE c.adding FROM c WHERE c.adding > @after AND c._ts < @old ORDER BY c.adding"
)


async def add(items: Items, new: Sequence[Job]) -> list[Job]:
    """Create those that are not there; for each the job that is."""
    firsts = _firsts(new)
    wanted = {(job.tenant, job.id): job for job in firsts}
    known: dict[tuple[str, str], Job] = {}
    for attempt in range(TRIES):
        fresh = [job for name, job in wanted.items() if name not in known]
        if await _create(items, fresh):
            return [known.get((job.tenant, job.id), job) for job in firsts]
        known = await _known(items, list(wanted.values()))
        await asyncio.sleep(0.01 * attempt)  # the other's job may not be everywhere yet
    raise StoreUnavailable("others are adding the same jobs; try again")


def _names(job: Job) -> list[tuple[str, str]]:
    """What is unique about a job: its id, and its key."""
    texts = [job.id] if job.idempotency_key is None else [job.id, once(job.idempotency_key)]
    return [(job.tenant, text) for text in texts]


def _firsts(new: Sequence[Job]) -> list[Job]:
    """For each job the first of the call that has its id or its key."""
    firsts: dict[tuple[str, str], Job] = {}
    same: list[Job] = []
    for job in new:
        first = next((firsts[name] for name in _names(job) if name in firsts), job)
        firsts.update((name, first) for name in _names(job) if first is job)
        same.append(first)
    return same


async def _create(items: Items, fresh: list[Job]) -> bool:
    """Create all; False where one is there already, and none was created."""
    parts = list(_parts([document(job) for job in fresh]))
    if len(parts) > 1:
        return await _create_in_parts(items, parts)
    if not parts:
        return True
    [part] = parts
    return await (items.create(part[0]) if len(part) == 1 else items.create_together(part))


def _parts(made: list[Document]) -> Iterator[list[Document]]:
    """Items that fit into a batch together: of one tenant, few enough, and not too large."""
    part: list[Document] = []
    room = 0
    for item in sorted(made, key=lambda item: str(item["tenantId"])):
        room -= size(item)
        if part and (room < 0 or len(part) == BATCH or part[0]["tenantId"] != item["tenantId"]):
            yield part
            part = []
        if not part:
            room = BATCH_BYTES - size(item)
        part.append(item)
    if part:
        yield part


async def _create_in_parts(items: Items, parts: list[list[Document]]) -> bool:
    token = str(uuid4())
    staged = [[{**item, "adding": token} for item in part] for part in parts]
    try:
        created = await together(items.create_together(part) for part in staged)
        if all(created) and await items.decide(token, "committed") == "committed":
            return True
    except AzureError:
        with suppress(AzureError):  # so that a repeat need not wait until it is found to be dead
            await undo(items, token)
        raise
    await undo(items, token)
    return False


async def undo(items: Items, token: str) -> None:
    """Abort an add and remove what it wrote, unless it is committed."""
    if await items.decide(token, "aborted") == "committed":
        return
    written = "SELECT c.id, c.tenantId, c._etag FROM c WHERE c.adding = @token"
    await together(items.delete(found) for found in await items.query(written, {"token": token}))


async def _known(items: Items, wanted: Sequence[Job]) -> dict[tuple[str, str], Job]:
    """Which of the wanted are there, under their id or their key. Expired ones, and those of dead adds, make way; those whose
    key has lapsed lose it.
    """
    ours = {(job.tenant, job.id) for job in wanted}
    holders: dict[tuple[str, str], Job] = {}
    for part in _parts(
        [{"tenantId": job.tenant, "names": [text for _, text in _names(job)]} for job in wanted]
    ):
        tenant, names = part[0]["tenantId"], [name for each in part for name in each["names"]]
        for found in await items.query(_HOLDERS, {"tenant": tenant, "names": names}, tenant):
            if (tenant, found["id"]) not in ours and to_job(found).lapsed(items.clock.now()):
                await items.replace(
                    document(to_job(found).unkeyed(), found["history"], claim=found["claim"]), found
                )
            elif await _stays(items, found):
                holders[tenant, found["id"]] = holders[tenant, found["once"]] = to_job(found)
    held = {job.id: [holders[name] for name in _names(job) if name in holders] for job in wanted}
    return {(job.tenant, job.id): held[job.id][0] for job in wanted if held[job.id]}


async def _stays(items: Items, found: Document) -> bool:
    """Whether the job that was found is there; if it is none any more it is removed."""
    now = items.clock.now()
    if found["expiresAt"] is not None and found["expiresAt"] <= text_of(now):
        await items.delete(found)
        return False
    if not found["adding"] or (outcome := await items.outcome(found["adding"])) == "committed":
        return True
    if outcome == "aborted" or found["_ts"] < (now - GRACE).timestamp():
        await undo(items, found["adding"])
    return False


async def sweep(items: Items, limit: int) -> None:
    """Look at up to `limit` adds whose jobs nobody has claimed yet, and remove what those left that died uncommitted."""
    old = int((items.clock.now() - GRACE).timestamp())
    token = ""
    for _ in range(limit):
        following = await items.query(_NEXT_ADD, {"after": token, "old": old})
        if not following:
            return
        [token] = following
        if await items.outcome(token) != "committed":
            await undo(items, token)
