"""The store itself: set-up, clock, abilities, what it can hold, its hints, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from perdure.domain import transition as move
from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Failure, Progress, Question
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND, make_id, make_job
from perdure.testing.jobs.base import (
    ALL,
    LEASE,
    JobStoreSuite,
    added,
    added_many,
    everything,
    history,
    ids,
    read,
    running,
    stamp,
    written,
)

ODD_TEXT = "Zoë 🦉 \u2028 \u202e שלום \\ \" ' ; -- %s {} \t\r\n \x01 \x7f ﷽ e\u0301"
ODD_VALUES: dict[str, Json] = {
    "text": ODD_TEXT,
    "numbers": [0, -1, 2**63 - 1, -(2**63), 2**53 + 1, 0.1, 1e300, 5e-324],
    "booleans": [True, False, None],
    "like times": ["2031-01-01T00:00:00Z", "2031-01-01", "P1D"],
    "empty": ["", [], {}, [[]], [{}]],
    "keys": {"": 1, " ": 2, ".": 3, "$set": 4, "a.b": 5, "0": 6, ODD_TEXT: 7},
}


def _json(value: Json) -> str:
    """What equality cannot tell apart: 1, 1.0 and True."""
    return json.dumps(value, sort_keys=True)


class LifeSuite(JobStoreSuite):
    """Everything that is not about one primitive."""

    async def test_its_abilities_are_the_promised_ones(self, store: JobStore) -> None:
        assert store.capabilities == self.capabilities

    async def test_another_handle_sees_what_was_written(self, store: JobStore, other: JobStore) -> None:
        job = await running(store)
        await asyncio.gather(store.setup(), other.setup(), store.setup())  # keeps what is there
        assert await read(other, job) == job
        assert await written(other, move.complete(job, {"n": 1}, await stamp(other)))
        assert [await read(store, job)] == await everything(other)
        assert await history(store, job) == await history(other, job)
        assert (await store.stats(None)).counts == (await other.stats(None)).counts

    async def test_its_clock_is_utc_near_ours_and_never_goes_back(self, store: JobStore) -> None:
        readings = [await store.now() for _ in range(5)]
        assert readings == sorted(readings)
        assert all(reading.utcoffset() == timedelta(0) for reading in readings)
        assert abs(readings[0] - datetime.now(UTC)) < timedelta(minutes=5)

    async def test_times_keep_their_microseconds_and_their_moment(self, store: JobStore) -> None:
        east = timezone(timedelta(hours=5, minutes=30))
        at = datetime(2031, 5, 4, 23, 59, 59, 999_999, tzinfo=east)
        past = datetime(1999, 12, 31, 23, 59, 59, 1, tzinfo=UTC)
        job = make_job(past, due_at=at, ttl=timedelta(days=400, microseconds=3))
        await store.add([job])
        stored = await read(store, job)
        # Two times are equal when they are the same moment, in whatever zone; a naive one equals none of them.
        assert stored == job
        assert stored.created_at.utcoffset() == timedelta(0)
        assert stored.ttl == timedelta(days=400, microseconds=3)

    async def test_odd_large_and_deep_values_come_back_as_they_were(self, store: JobStore) -> None:
        deep: Json = "bottom"
        for level in range(60):
            deep = [deep] if level % 2 else {"down": deep}
        job = make_job(
            await store.now(),
            tenant="a.b:c@d/e-f_0",
            payload={**ODD_VALUES, "large": "ä" * 450_000, "deep": deep},
            labels={ODD_TEXT[:20]: ODD_TEXT, "a.b": "$x"},
            idempotency_key=ODD_TEXT,
            user_id=ODD_TEXT,
            document_id=ODD_TEXT,
            created_by=ODD_TEXT,
        )
        await store.add([job])
        stored = await read(store, job)
        assert stored == job
        assert _json(stored.payload) == _json(job.payload)
        assert await store.count(JobFilter(tenant=job.tenant, user_id=ODD_TEXT, document_id=ODD_TEXT)) == 1

    async def test_texts_differ_by_case_and_by_composition(self, store: JobStore) -> None:
        now = await store.now()
        keys = ["key", "Key", "key ", "k\u00e9y", "ke\u0301y"]
        jobs = [make_job(now, idempotency_key=key, user_id=key) for key in keys]
        assert await store.add(jobs) == jobs
        for job in jobs:
            assert ids(await everything(store, JobFilter(tenant=None, user_id=job.user_id))) == [job.id]

    async def test_any_json_is_a_checkpoint_and_a_result(self, store: JobStore) -> None:
        values: list[Json] = [None, False, 0, "", [], {}, {"a": None}, ODD_VALUES]
        for value in values:
            job = await running(store)
            assert await written(store, move.save(job, await store.now(), checkpoint=value))
            stored = await read(store, job)
            assert _json(stored.checkpoint) == _json(value)
            assert await written(store, move.complete(stored, value, await stamp(store)))
            assert _json((await read(store, job)).result) == _json(value)

    async def test_progress_questions_and_failures_come_back_whole(self, store: JobStore) -> None:
        job = await running(store)
        progress = Progress(fraction=1 / 3, message=ODD_TEXT, counts={"a.b": 2**40, ODD_TEXT: 0})
        assert await written(store, move.save(job, await store.now(), progress=progress))
        at = await stamp(store, ODD_TEXT)
        question = Question(
            key="k", prompt=ODD_TEXT, asked_at=at.at, choices=("yes", ODD_TEXT, "no"), default=ODD_TEXT
        )
        assert await written(store, move.ask(await read(store, job), question, at))
        stored = await read(store, job)
        assert stored.progress == progress
        assert stored.questions == (question,)
        assert type(stored.questions[0].choices) is tuple
        assert await written(store, move.answer(stored, ODD_TEXT, await stamp(store, ODD_TEXT)))
        [again] = await store.claim("w", [KIND], 1, LEASE)
        failure = Failure(type="E", message=ODD_TEXT, fatal=True, detail="x" * 4000)
        assert await written(store, move.fail(again, failure, LEASE, await stamp(store)))
        assert (await read(store, job)).failure == failure
        assert [entry.actor for entry in await history(store, job)] == [ODD_TEXT, ODD_TEXT, "tester"]

    async def test_a_change_and_a_new_job_are_hinted_at(self, store: JobStore, other: JobStore) -> None:
        if not self.capabilities.change_feed:
            return  # polling must do there, and nothing is promised
        job = await added(store)
        new: set[str] = set()

        async def change() -> None:
            current = await read(store, job)
            assert await written(store, move.edit(current, await stamp(store), priority=current.version))

        async def add() -> None:
            new.add((await added(store)).id)

        await _hinted(other, {job.id}, change, self.patience)
        await _hinted(other, new, add, self.patience)

    async def test_its_changes_end_when_it_closes(self, store: JobStore) -> None:
        async def listen() -> None:
            async for _ in store.changes():
                pass

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.01)
        await added_many(store, 3)
        await store.close()
        async with asyncio.timeout(self.patience):
            await listening

    async def test_after_its_end_every_call_says_so(self, store: JobStore) -> None:
        job = await running(store)
        cancelled = move.cancel(job, await stamp(store))
        new = make_job(job.created_at)
        await store.close()
        await store.close()
        calls: list[Callable[[], Awaitable[object]]] = [
            store.now,
            lambda: store.add([new]),
            lambda: store.get("default", job.id),
            lambda: store.find(ALL, 1),
            lambda: store.count(ALL),
            lambda: store.stats(None),
            lambda: store.claim("w", [KIND], 1, LEASE),
            lambda: store.extend("w", {make_id(job.created_at): 1}, LEASE),
            lambda: store.apply([cancelled]),
            lambda: store.expired(1),
            lambda: store.history("default", job.id),
            lambda: store.delete("default", job.id),
            lambda: store.purge(1),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call()


async def _hinted(
    listener: JobStore, expected: set[str], change: Callable[[], Awaitable[None]], patience: float
) -> None:
    """Change something until a hint comes: one may be lost, and listening may take a moment to begin."""

    async def listen() -> None:
        async for hint in listener.changes():
            if hint.job_id is None or hint.job_id in expected:
                return

    async with asyncio.timeout(patience), asyncio.TaskGroup() as group:
        listening = group.create_task(listen())
        while not listening.done():
            await change()
            await asyncio.wait({listening}, timeout=0.05)
