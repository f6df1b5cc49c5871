"""Jobs that run elsewhere: they come in running, and may be given up although their work goes on."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from perdure.domain import transition as move
from perdure.domain.job import Job
from perdure.domain.state import JobState
from perdure.domain.transition import Transition
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND, make_job
from perdure.testing.jobs.base import (
    BRIEF,
    LEASE,
    MOMENT,
    JobStoreSuite,
    history,
    ids,
    read,
    stamp,
    written,
)

TRACKER = "tracker-1"
HOUR = timedelta(hours=1)


async def come_in(store: JobStore, lease: timedelta = LEASE, ttl: timedelta | None = HOUR) -> Job:
    """Add a job that runs already."""
    now = await store.now()
    new = make_job(now, max_attempts=1, max_rescues=0, ttl=ttl, labels={"team": "a"})
    job = move.claim(new, TRACKER, lease, now)
    assert await store.add([job]) == [job]
    return job


async def given_up_and_revived(store: JobStore, job: Job, lease: timedelta = LEASE) -> list[Transition]:
    """The two decisions, of which the second follows upon the first."""
    died = move.rescue(job, await stamp(store, "maintenance"))
    return [died, move.revive(died.after, TRACKER, lease, await stamp(store, TRACKER))]


class TrackSuite(JobStoreSuite):
    """What a tracker asks of a store."""

    async def test_a_job_may_come_in_running(self, store: JobStore) -> None:
        job, brief = await come_in(store), await come_in(store, BRIEF)
        assert await store.claim("worker-1", [KIND], 5, LEASE) == []
        assert await read(store, job) == job
        assert (await store.stats(job.tenant)).counts == {KIND: {JobState.RUNNING: 2}}
        await self.advance(store, MOMENT)
        assert ids(await store.expired(5)) == [brief.id]
        epochs = {job.id: 1, brief.id: 1}
        assert await store.extend("worker-1", epochs, LEASE) == epochs.keys()
        assert await store.extend(TRACKER, epochs, LEASE) == set()
        assert await store.expired(5) == []
        assert await written(store, move.complete(job, {"n": 1}, await stamp(store)))
        assert await store.add([job]) == [await read(store, job)], "said again, it is the job that is there"
        assert (await store.stats(job.tenant)).counts == {KIND: {JobState.RUNNING: 1, JobState.COMPLETED: 1}}

    async def test_a_job_given_up_too_early_runs_on_under_a_new_lease(self, store: JobStore) -> None:
        for ttl in (HOUR, None):
            job = await come_in(store, ttl=ttl)
            died, revived = await given_up_and_revived(store, job)
            assert await written(store, died)
            assert await written(store, revived)
            assert await written(store, revived), "said again, it counts once"
            stored = await read(store, job)
            assert stored == revived.after
            assert [entry.event for entry in await history(store, job)] == ["quarantined", "revived"]
            assert await store.extend(TRACKER, {job.id: job.epoch}, LEASE) == set()
            done = move.complete(job, {"n": 1}, await stamp(store))
            assert await written(store, done)
            assert (await read(store, job)).state is JobState.COMPLETED
            assert not await written(store, replace(revived, entry=None)), "it was decided on an old reading"
            assert await store.delete(job.tenant, job.id)
        assert (await store.stats(None)).total == 0

    async def test_a_job_given_up_too_early_expires_no_more(self, store: JobStore) -> None:
        """Given up and revived in one call, since it might be gone in between."""
        job = await come_in(store, ttl=timedelta(seconds=2.0))
        assert await store.apply(await given_up_and_revived(store, job)) == [True, True]
        await self.advance(store, 2.0 + MOMENT)
        assert await store.purge(5) == 0
        assert (await read(store, job)).state is JobState.RUNNING
        assert (await store.stats(None)).counts == {KIND: {JobState.RUNNING: 1}}

    async def test_a_revived_job_can_be_taken_for_dead_again(self, store: JobStore) -> None:
        job = await come_in(store)
        assert await store.apply(await given_up_and_revived(store, job, BRIEF)) == [True, True]
        await self.advance(store, MOMENT)
        assert ids(await store.expired(5)) == [job.id]
        died = move.rescue(await read(store, job), await stamp(store))
        assert await written(store, died)
        assert await store.expired(5) == []
        assert not await written(store, move.complete(job, 1, await stamp(store)))

    async def test_only_one_of_two_decisions_about_a_job_given_up_stands(self, store: JobStore) -> None:
        job = await come_in(store)
        died, revived = await given_up_and_revived(store, job)
        assert await written(store, died)
        requeued = move.requeue(died.after, await stamp(store))
        assert await store.apply([requeued, revived]) == [True, False]
        assert (await read(store, job)).state is JobState.PENDING
