"""New jobs: all of a call or none, and each once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import BulkWriteError, DuplicateKeyError

from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.domain.job import Job
from perdure.stores.mongodb.claiming import Jobs
from perdure.stores.mongodb.documents import WHOLE, Document, document, to_job
from perdure.stores.mongodb.errors import is_duplicate

TRIES: Final = 8
"""Each one more means that somebody added the same at the same time."""


async def add(jobs: Jobs, new: Sequence[Job], now: Callable[[], Awaitable[int]]) -> list[Job]:
    """Insert those that are not there; for each the job that is.

    Args:
        now: asks for the server's time in microseconds, which only known jobs need.
    """
    firsts = _firsts(new)
    wanted = {job.id: document(job) for job in firsts}
    known: dict[str, Job] = {}
    for attempt in range(TRIES):
        if await _insert(jobs, [fields for job_id, fields in wanted.items() if job_id not in known]):
            return [known.get(job.id, job) for job in firsts]
        known = await _known(jobs, firsts, await now())
        await asyncio.sleep(0.005 * attempt)  # the other's job may not be everywhere yet
    raise StoreUnavailable("others keep adding the same jobs at the same time; try again")


def _firsts(new: Sequence[Job]) -> list[Job]:
    """For each job the first of the call that has its id or its key."""
    firsts: dict[object, Job] = {}
    same: list[Job] = []
    for job in new:
        names: list[object] = [job.id] if job.idempotency_key is None else [job.id, _key(job)]
        first = next((firsts[name] for name in names if name in firsts), job)
        firsts.update((name, first) for name in names if first is job)
        same.append(first)
    return same


def _key(job: Job) -> tuple[str, str | None]:
    return job.tenant, job.idempotency_key


async def _insert(jobs: Jobs, fresh: list[Document]) -> bool:
    """Insert all in one step; False where one is there already, and none was inserted."""
    try:
        if len(fresh) == 1:  # is one step without a transaction, too
            await jobs.insert_one(fresh[0])
        elif fresh:
            await _insert_together(jobs, fresh)
    except DuplicateKeyError:
        return False
    except BulkWriteError as error:
        if not is_duplicate(error):
            raise
        return False
    return True


async def _insert_together(jobs: Jobs, fresh: list[Document]) -> None:
    async def insert(session: AsyncClientSession) -> None:
        await jobs.insert_many(fresh, session=session)

    async with jobs.database.client.start_session() as session:
        await session.with_transaction(
            insert, read_concern=jobs.read_concern, write_concern=jobs.write_concern
        )


async def _known(jobs: Jobs, wanted: Sequence[Job], now: int) -> dict[str, Job]:
    """Which of the wanted are there, under their id or their key. Expired ones make way, lapsed ones lose their key."""
    ids = [job.id for job in wanted]
    keyed = [job for job in wanted if job.idempotency_key is not None]
    keys: list[Document] = [{"tenant": job.tenant, "idempotency_key": job.idempotency_key} for job in keyed]
    ways: list[Document] = [{"_id": {"$in": ids}}, *keys]
    await jobs.delete_many({"$or": ways, "expires_us": {"$lte": now}})
    if keys:
        lapsed = {"$or": keys, "_id": {"$nin": ids}, "unique_until_us": {"$lte": now}}
        await jobs.update_many(lapsed, {"$set": {"idempotency_key": None}, "$inc": {"version": 1}})
    by_id = {holder["_id"]: to_job(holder) async for holder in jobs.find({"$or": ways}, WHOLE)}
    by_key = {_key(job): job for job in by_id.values() if job.idempotency_key is not None}
    for job in wanted:
        if job.id in by_id and by_id[job.id].tenant != job.tenant:
            raise InvalidInput(f"the job id {job.id} is taken; give every job a new UUIDv7")
    holders = ((job, by_id.get(job.id) or by_key.get(_key(job))) for job in wanted)
    return {job.id: holder for job, holder in holders if holder is not None}
