"""`claim`, `extend`, `expired`: who gets which job, in what order, and for how long, by the store's clock."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from perdure.domain import transition as move
from perdure.domain.job import Failure, Job, Progress, Question
from perdure.domain.state import JobState
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND, make_id, make_job
from perdure.testing.jobs.base import (
    BRIEF,
    LEASE,
    MOMENT,
    JobStoreSuite,
    added,
    added_many,
    claimed,
    history,
    ids,
    read,
    running,
    stamp,
    written,
)

HOUR = timedelta(hours=1)


async def _tenants(store: JobStore, limit: int) -> list[str]:
    return [job.tenant for job in await store.claim("w", [KIND], limit, LEASE)]


class ClaimSuite(JobStoreSuite):
    """Taking jobs to work on: the right ones, in the right order, each to one worker."""

    async def test_a_claimed_job_changes_as_the_domain_says(self, store: JobStore) -> None:
        job = await added(store, payload={"n": 1}, labels={"team": "a"}, priority=3)
        before = await store.now()
        taken = await claimed(store, "worker-9", timedelta(seconds=90))
        after = await store.now()
        assert taken.started_at is not None
        assert before <= taken.started_at <= after
        assert taken == move.claim(job, "worker-9", timedelta(seconds=90), taken.started_at)
        assert await read(store, job) == taken
        assert await history(store, job) == []

    async def test_a_job_that_ran_before_keeps_what_it_had(self, store: JobStore) -> None:
        job = await running(store)
        progress = Progress(fraction=0.5, counts={"n": 4})
        assert await written(
            store, move.save(job, await store.now(), progress=progress, checkpoint={"next": 5})
        )
        retried = move.fail(
            await read(store, job), Failure(type="E", message="m"), timedelta(0), await stamp(store)
        )
        assert await written(store, retried)
        before = await read(store, job)
        taken = await claimed(store, "worker-2")
        assert taken.started_at is not None
        assert taken == move.claim(before, "worker-2", LEASE, taken.started_at)
        assert (taken.epoch, taken.attempt, taken.checkpoint) == (2, 1, {"next": 5})

    async def test_only_pending_jobs_of_the_kinds_asked_for_and_at_most_the_limit(
        self, store: JobStore
    ) -> None:
        await running(store, kind="a")
        assert await written(store, move.cancel(await added(store, kind="a"), await stamp(store)))
        assert await store.claim("w", ["a"], 5, LEASE) == []
        for kind in ("a", "b", "c"):
            await added_many(store, 2, kind=kind)
        for kinds, limit in (([], 5), (["another"], 5), (["a", "b", "c"], 0)):
            assert await store.claim("w", kinds, limit, LEASE) == []
        claims = [await store.claim("w", ["a", "c"], 3, LEASE) for _ in range(3)]
        assert sorted(job.kind for claim in claims for job in claim) == ["a", "a", "c", "c"]
        assert [len(claim) for claim in claims] == [3, 1, 0]
        assert [job.kind for job in await store.claim("w", ["a", "b", "c"], 10, LEASE)] == ["b", "b"]

    async def test_higher_priority_first_also_an_edited_one(self, store: JobStore) -> None:
        jobs = [await added(store, priority=priority) for priority in (0, -5, 1000, 7, -1000)]
        assert await written(store, move.edit(jobs[0], await stamp(store), priority=8))
        await added_many(store, 3, tenant="acme", due_at=jobs[0].created_at - HOUR)
        await added(store, tenant="bolt", priority=7)
        taken = [job for _ in range(8) for job in await store.claim("w", [KIND], 1, LEASE)]
        assert [job.priority for job in taken] == [1000, 8, 7, 7, 0, 0, 0, -5], "before tenant and age"

    async def test_a_job_is_put_off_and_another_brought_forward(self, store: JobStore) -> None:
        now = await store.now()
        soon, later = await added(store), await added(store, due_at=now + HOUR)
        edits = [
            move.edit(soon, await stamp(store), run_at=now + HOUR),
            move.edit(later, await stamp(store), run_at=now - HOUR, ttl=None, max_attempts=9, max_rescues=0),
        ]
        assert await store.apply(edits) == [True, True]
        assert ids(await store.claim("w", [KIND], 5, LEASE)) == [later.id]
        assert await read(store, soon) == edits[0].after
        taken = await read(store, later)
        assert (taken.ttl, taken.max_attempts, taken.max_rescues) == (None, 9, 0)

    async def test_within_a_tenant_by_priority_then_due_time_then_id(self, store: JobStore) -> None:
        now = await store.now()
        jobs = [
            make_job(now, priority=priority, due_at=now - timedelta(seconds=ago))
            for priority, ago in ((0, 1), (5, 1), (0, 2), (5, 2), (5, 2))
        ]
        await store.add(jobs[::-1])
        claims = [await store.claim("w", [KIND], limit, LEASE) for limit in (1, 1, 2, 4)]
        assert [ids(claim) for claim in claims] == [
            [jobs[3].id],
            [jobs[4].id],
            [jobs[1].id, jobs[2].id],
            [jobs[0].id],
        ]

    async def test_not_before_it_is_due_and_keeping_no_other_waiting(self, store: JobStore) -> None:
        now = await store.now()
        await added(store, due_at=now + HOUR, priority=9)
        soon = await added(store, due_at=now + timedelta(seconds=2.0))
        assert await store.claim("w", [KIND], 5, LEASE) == []
        await self.advance(store, 2.0 + MOMENT)
        assert (await claimed(store)).id == soon.id

    @pytest.mark.parametrize("limit", [1, 2, 6])
    async def test_tenants_take_turns(self, store: JobStore, limit: int) -> None:
        await added_many(store, 40, tenant="big")
        await added_many(store, 2, tenant="small-1")
        await added_many(store, 2, tenant="small-2")
        order = [name for _ in range(18) for name in await _tenants(store, limit)]
        for tenant in ("small-1", "small-2"):
            places = [place for place, name in enumerate(order) if name == tenant]
            assert len(places) == 2, f"{tenant}'s two jobs were started {len(places)} times: {order}"
            assert places[0] < 6, (
                f"{tenant}'s first job waited longer than two rounds of three tenants: {order}"
            )
            assert places[1] < 9, f"{tenant}'s second job waited longer than its turn and one more: {order}"

    async def test_a_tenant_that_comes_late_gets_its_turn(self, store: JobStore) -> None:
        await added_many(store, 20, tenant="big", due_at=await store.now() - HOUR)
        await _tenants(store, 10)
        await added(store, tenant="late")
        assert "late" in [name for _ in range(4) for name in await _tenants(store, 1)]

    async def test_a_lease_that_ran_out_is_not_claimed_before_it_was_rescued(self, store: JobStore) -> None:
        taken = await running(store, lease=BRIEF)
        await self.advance(store, MOMENT)
        assert await store.claim("w", [KIND], 5, LEASE) == []
        assert await written(store, move.rescue(taken, await stamp(store)))
        again = await claimed(store, "worker-2")
        assert (again.id, again.epoch, again.worker, again.rescues) == (taken.id, 2, "worker-2", 1)

    async def test_claims_at_once_get_different_jobs(self, store: JobStore, other: JobStore) -> None:
        jobs = [*await added_many(store, 15, tenant="acme"), *await added_many(store, 15, tenant="bolt")]
        claims = await asyncio.gather(
            *((store, other)[n % 2].claim(f"worker-{n}", [KIND], 4, LEASE) for n in range(10))
        )
        rest = await store.claim("last", [KIND], 40, LEASE)
        taken = ids([job for claim in [*claims, rest] for job in claim])
        assert sorted(taken) == sorted(ids(jobs))
        for worker, claim in enumerate(claims):
            assert [job.worker for job in claim] == [f"worker-{worker}"] * len(claim)
        assert (await store.stats(None)).by_state[JobState.RUNNING] == 30


class LeaseSuite(JobStoreSuite):
    """Heartbeats, and what happens without them."""

    async def test_extend_moves_the_lease_on(self, store: JobStore) -> None:
        job = await running(store)
        before = await store.now()
        assert await store.extend("worker-1", {job.id: job.epoch}, 2 * LEASE) == set()
        after = await store.now()
        extended = await read(store, job)
        assert extended.due_at is not None
        assert before + 2 * LEASE <= extended.due_at <= after + 2 * LEASE
        assert extended == replace(job, due_at=extended.due_at, version=job.version + 1)
        assert await store.extend("worker-1", {}, LEASE) == set()

    async def test_one_call_extends_all_and_tells_what_was_lost(self, store: JobStore) -> None:
        await added_many(store, 5)
        held, stolen, ended, gone, old = await store.claim("worker-1", [KIND], 5, LEASE)
        assert await written(store, move.rescue(stolen, await stamp(store)))
        taken = await claimed(store, "worker-2")
        assert await written(store, move.complete(ended, None, await stamp(store)))
        assert await store.delete(gone.tenant, gone.id)
        unknown = make_id(await store.now())
        epochs = {job.id: job.epoch for job in (held, stolen, ended, gone)} | {old.id: 0, unknown: 1}
        lost = {stolen.id, ended.id, gone.id, old.id, unknown}
        assert await store.extend("worker-1", epochs, LEASE) == lost
        assert (await read(store, held)).version == held.version + 1
        assert await read(store, taken) == taken
        assert await read(store, old) == old

    async def test_only_its_worker_under_its_epoch_extends_it(self, store: JobStore) -> None:
        job = await running(store)
        assert await store.extend("worker-2", {job.id: job.epoch}, LEASE) == {job.id}
        assert await read(store, job) == job
        assert await written(store, move.rescue(job, await stamp(store)))
        again = await claimed(store, "worker-1")
        assert await store.extend("worker-1", {job.id: job.epoch}, LEASE) == {job.id}
        assert await store.extend("worker-1", {job.id: again.epoch}, LEASE) == set()

    async def test_a_lease_that_ran_out_but_was_not_taken_is_extended(self, store: JobStore) -> None:
        job = await running(store, lease=BRIEF)
        await self.advance(store, MOMENT)
        [seen] = await store.expired(5)
        assert await store.extend("worker-1", {job.id: job.epoch}, LEASE) == set()
        assert await store.expired(5) == []
        assert not await written(store, move.rescue(seen, await stamp(store))), "a heartbeat came in between"
        assert (await read(store, seen)).state is JobState.RUNNING

    async def test_a_progress_report_does_not_shorten_a_lease(self, store: JobStore) -> None:
        job = await running(store, lease=BRIEF)
        await self.advance(store, MOMENT)
        assert await store.extend("worker-1", {job.id: job.epoch}, LEASE) == set()
        extended = await read(store, job)
        assert await written(store, move.save(job, await store.now(), progress=Progress(fraction=0.5)))
        reported = await read(store, job)
        assert (reported.due_at, reported.progress) == (extended.due_at, Progress(fraction=0.5))
        assert await store.expired(5) == []

    async def test_expired_gives_leases_that_ran_out_whole(self, store: JobStore) -> None:
        job = await running(store, lease=BRIEF, payload={"n": 1})
        await added_many(store, 2)
        await store.claim("worker-2", [KIND], 1, LEASE)
        await self.advance(store, MOMENT)
        assert await store.expired(5) == [job]
        assert await store.expired(5) == [job]

    async def test_expired_gives_the_longest_overdue_first(self, store: JobStore) -> None:
        now = await store.now()
        hour, minute, day = [
            await self._asking(store, now - timedelta(minutes=minutes)) for minutes in (60, 1, 24 * 60)
        ]
        lease = await running(store, lease=BRIEF)
        await self.advance(store, MOMENT)
        assert ids(await store.expired(10)) == ids([day, hour, minute, lease])
        assert ids(await store.expired(2)) == ids([day, hour])

    async def test_expired_gives_only_what_is_overdue(self, store: JobStore) -> None:
        now = await store.now()
        overdue = await self._asking(store, now - timedelta(seconds=1))
        await self._asking(store, now + HOUR)
        assert (await read(store, await self._asking(store, None))).due_at is None
        ended = await added(store)
        assert await written(store, move.cancel(ended, await stamp(store, ago=timedelta(days=30))))
        await store.add([make_job(now - timedelta(days=30), kind="another")])
        assert ids(await store.expired(5)) == [overdue.id]
        settled = move.default(await read(store, overdue), await stamp(store))
        assert await written(store, settled)
        assert await store.expired(5) == []
        assert (await claimed(store)).id == overdue.id

    async def _asking(self, store: JobStore, deadline: datetime | None) -> Job:
        job = await running(store)
        question = Question(key="go", prompt="Go?", asked_at=await store.now(), deadline=deadline)
        assert await written(store, move.ask(job, question, await stamp(store)))
        return job
