"""What no single step shows: long random walks that the domain is the model for, and many who pull at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta

import pytest
from msgspec.structs import replace

from perdure.domain import transition as move
from perdure.domain.job import Entry, Failure, Job, Progress, Question
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from perdure.domain.transition import Transition
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND, make_job
from perdure.testing.jobs.base import LEASE, JobStoreSuite, added_many, everything, history, ids, read, stamp

TENANTS, KINDS = ("acme", "bolt"), ("work", "report")
FAILURE = Failure(type="ValueError", message="torn")


class Walk:
    """Does one random thing after another, and keeps what should then be in the store."""

    def __init__(self, store: JobStore, seed: int) -> None:
        self.store = store
        self.chance = random.Random(seed)
        self.jobs: dict[str, Job] = {}
        self.histories: dict[str, list[Entry]] = {}
        self.stale: list[Transition] = []
        """Transitions that were written before: saying them again must change nothing."""

    async def run(self, steps: int) -> None:
        """Take that many steps."""
        actions = (self.add, self.claim, self.extend, self.work, self.interfere, self.repeat, self.delete)
        for action in self.chance.choices(actions, (3, 4, 2, 8, 3, 2, 1), k=steps):
            await action()

    async def add(self) -> None:
        """Some new jobs, some of them known by their id or key."""
        now = await self.store.now()
        jobs = [
            make_job(
                now,
                tenant=self.chance.choice(TENANTS),
                kind=self.chance.choice(KINDS),
                priority=self.chance.randint(-1, 1),
                max_rescues=1,
                ttl=None,
            )
            for _ in range(self.chance.randint(1, 3))
        ]
        known = self._pick()
        assert await self.store.add([*jobs, *known]) == [*jobs, *known]
        for job in jobs:
            self.jobs[job.id], self.histories[job.id] = job, []

    async def claim(self) -> None:
        """Claim a few, of one kind or both."""
        kinds = self.chance.sample(KINDS, self.chance.randint(1, 2))
        for job in await self.store.claim(self._worker(), kinds, self.chance.randint(1, 3), LEASE):
            before = self.jobs[job.id]
            assert job.started_at is not None
            assert job.worker is not None
            assert job == move.claim(before, job.worker, LEASE, job.started_at)
            self.jobs[job.id] = job

    async def extend(self) -> None:
        """Beat for everything a worker holds, and for what it does not hold."""
        worker = self._worker()
        lost = {
            job.id for job in self.jobs.values() if job.state is not JobState.RUNNING or job.worker != worker
        }
        epochs = {job.id: job.epoch for job in self.jobs.values()}
        assert await self.store.extend(worker, epochs, 2 * LEASE) == lost
        for job in [self.jobs[job_id] for job_id in epochs.keys() - lost]:
            stored = await read(self.store, job)
            assert stored == replace(job, due_at=stored.due_at, version=job.version + 1)
            self.jobs[job.id] = stored

    async def work(self) -> None:
        """What a worker says about one of its jobs."""
        for job in self._pick(JobState.RUNNING):
            at = await stamp(self.store)
            question = Question(key="k", prompt="p", asked_at=at.at, default="no")
            moves = [
                move.save(job, at.at, progress=Progress(counts={"n": job.version}), checkpoint=1),
                move.complete(job, {"n": 1}, at),
                move.complete(job, None, at, failure=FAILURE),
                move.fail(job, FAILURE, timedelta(0), at),
                move.release(job, at),
                move.ask(job, question, at),
            ]
            await self._apply(self.chance.choice(moves))

    async def interfere(self) -> None:
        """What anybody else says about a job: what the table allows, and sometimes from an old reading."""
        for job in self._pick():
            at = await stamp(self.store)
            moves = [move.requeue(job, at)] if job.state in {JobState.FAILED, JobState.CANCELLED} else []
            if not job.finished:
                moves += [move.cancel(job, at), move.edit(job, at, priority=self.chance.randint(-2, 2))]
            if job.state is JobState.RUNNING:
                moves += [move.rescue(job, at)] * 2
            if job.failure is not None and job.failure.type == move.WORKER_DIED and job.worker is not None:
                moves += [move.revive(job, job.worker, LEASE, at)] * 2
            if job.state is JobState.WAITING:
                moves += [move.answer(job, "yes", at), move.default(job, at)]
            if moves:
                await self._apply(self.chance.choice(moves))

    async def repeat(self) -> None:
        """Say something again whose answer was lost."""
        again = self.chance.sample(self.stale, min(2, len(self.stale)))
        stands = [move.after.id in self.jobs for move in again]
        assert await self.store.apply(again) == stands

    async def delete(self) -> None:
        """Remove a job."""
        for job in self._pick():
            assert await self.store.delete(job.tenant, job.id)
            del self.jobs[job.id], self.histories[job.id]

    async def _apply(self, transition: Transition) -> None:
        if transition.version is not None and self.chance.random() < 0.2:
            late = replace(transition, version=transition.version - 1)
            assert await self.store.apply([late]) == [False]
        assert await self.store.apply([transition]) == [True]
        job = transition.after
        self.jobs[job.id] = replace(job, version=self.jobs[job.id].version + 1)
        if transition.entry is not None:
            self.histories[job.id].append(transition.entry)
            self.stale.append(transition)

    def _pick(self, state: JobState | None = None) -> list[Job]:
        jobs = [job for job in self.jobs.values() if state is None or job.state is state]
        return [self.chance.choice(jobs)] if jobs else []

    def _worker(self) -> str:
        return f"worker-{self.chance.randint(1, 2)}"

    async def compare(self) -> None:
        """The store must hold exactly what the walk left, and its counts must be a recount."""
        assert await everything(self.store) == sorted(
            self.jobs.values(), key=lambda job: job.id, reverse=True
        )
        for tenant in (*TENANTS, None):
            mine = [job for job in self.jobs.values() if tenant in (None, job.tenant)]
            recount = Counter((job.kind, job.state) for job in mine)
            stats = await self.store.stats(tenant)
            counted = {(kind, state): n for kind, by in stats.counts.items() for state, n in by.items()}
            assert counted == recount
            assert await self.store.count(JobFilter(tenant=tenant)) == stats.total == len(mine)
        for job in self.jobs.values():
            assert await self.store.history(job.tenant, job.id) == self.histories[job.id]


class WalkSuite(JobStoreSuite):
    """Any sequence of calls, not only those that somebody thought of."""

    @pytest.mark.parametrize("seed", range(2))
    async def test_after_a_random_walk_all_is_as_the_domain_says(self, store: JobStore, seed: int) -> None:
        walk = Walk(store, seed)
        for _ in range(4):
            await walk.run(50)
            await walk.compare()


ENDS = {Event.COMPLETED, Event.CANCELLED}


async def _work(store: JobStore, name: str, chance: random.Random) -> list[str]:
    """Claim and complete until nothing is left; the ids whose completion was accepted."""
    accepted: list[str] = []
    for _ in range(1000):
        jobs = await store.claim(name, [KIND], chance.randint(1, 4), LEASE)
        if not jobs and not (await store.stats(None)).unfinished:
            break
        lost = await store.extend(name, {job.id: job.epoch for job in jobs}, LEASE)
        done = [move.complete(job, name, await stamp(store, name)) for job in jobs]
        stands = await store.apply(done)
        accepted += [job.id for job, stood in zip(jobs, stands, strict=True) if stood]
        assert not any(stood and job.id in lost for job, stood in zip(jobs, stands, strict=True))
        await asyncio.sleep(0)
    return accepted


async def _meddle(store: JobStore, chance: random.Random) -> list[str]:
    """Take jobs from workers that are alive, and call some off; the ids whose cancelling was accepted."""
    cancelled: list[str] = []
    while jobs := [job for job in await everything(store) if not job.finished]:
        job = chance.choice(jobs)
        taken = job.state is JobState.RUNNING and chance.random() < 0.7
        at = await stamp(store, "meddler")
        [stood] = await store.apply([move.rescue(job, at) if taken else move.cancel(job, at)])
        if stood and not taken:
            cancelled.append(job.id)
        await asyncio.sleep(0)
    return cancelled


class RaceSuite(JobStoreSuite):
    """What no single step shows."""

    @pytest.mark.parametrize("meddled", [False, True])
    async def test_each_job_comes_to_one_end_whoever_pulls_at_it(
        self, store: JobStore, other: JobStore, meddled: bool
    ) -> None:
        tenants = ("acme", "bolt")
        jobs = [job for name in tenants for job in await added_many(store, 40, tenant=name, max_rescues=1000)]
        pulls = [
            _work(handle, f"worker-{n}", random.Random(n)) for n, handle in enumerate([store, other] * 2)
        ]
        if meddled:
            pulls.append(_meddle(other, random.Random(9)))
        async with asyncio.timeout(240):
            ended = await asyncio.gather(*pulls)
        assert sorted(job_id for accepted in ended for job_id in accepted) == sorted(ids(jobs))
        for job in await everything(store):
            ends = [entry for entry in await history(store, job) if entry.event in ENDS]
            assert [entry.state for entry in ends] == [job.state]
            assert meddled or (job.epoch, job.attempt, job.state) == (1, 1, JobState.COMPLETED)
        for tenant in tenants:
            assert ((await store.stats(tenant)).total, (await store.stats(tenant)).unfinished) == (40, 0)

    async def test_a_lease_is_extended_or_taken_but_not_both(self, store: JobStore, other: JobStore) -> None:
        await added_many(store, 20)
        jobs = await store.claim("worker-1", [KIND], 20, timedelta(milliseconds=1))
        await self.advance(store, 0.05)
        overdue = await other.expired(20)
        rescues = [move.rescue(job, await stamp(store)) for job in overdue]
        taken, lost = await asyncio.gather(
            other.apply(rescues), store.extend("worker-1", {job.id: job.epoch for job in jobs}, LEASE)
        )
        assert lost == {job.id for job, stood in zip(overdue, taken, strict=True) if stood}
