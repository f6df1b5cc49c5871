"""Job stores that each break one promise: `JobStoreContract` must catch every one of them.

They are the memory store with one method done wrong, each a mistake that a real backend makes easily.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from msgspec.structs import replace

from perdure.domain import transition
from perdure.domain.job import Entry, Job
from perdure.domain.log import LogPage
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.domain.state import Event, JobState
from perdure.domain.terms import PLAIN, Limit, Slots, Terms
from perdure.domain.transition import EDIT_FIELDS, Transition
from perdure.stores.memory import MemoryJobStore as Right
from perdure.stores.memory.values import MemoryValues


class WrongStore(Right):
    """The memory store with one thing done wrong.

    Attributes:
        caught_by: a test of the contract that fails on it.
    """

    caught_by: ClassVar[str]


WRONG_STORES: list[type[WrongStore]] = []
"""All of them, each named after its mistake."""


def wrong(method: str, caught_by: str) -> Callable[[Any], None]:
    """Make a wrong store of a function that takes the place of this method."""

    def register(mistake: Any) -> None:
        body = {method: mistake, "caught_by": caught_by, "__doc__": mistake.__doc__}
        WRONG_STORES.append(type(mistake.__name__, (WrongStore,), body))

    return register


# --- who may write to a job, and for how long -------------------------------------------------


@wrong("_holds", "test_a_worker_that_lost_its_job_writes_nothing")
def unfenced(store: Right, move: Transition, job: Job) -> bool:
    """Lets whoever once held a running job write to it: the epoch is not compared."""
    return Right._holds(store, replace(move, epoch=move.epoch and job.epoch), job)


@wrong("_holds", "test_a_worker_that_lost_its_job_writes_nothing")
def fenced_by_epoch_alone(store: Right, move: Transition, job: Job) -> bool:
    """Compares the epoch but not the state: a cancelled job still takes its worker's result."""
    return job.version == move.version if move.epoch is None else job.epoch == move.epoch


@wrong("_holds", "test_a_decision_on_an_old_reading_is_refused")
def unversioned(store: Right, move: Transition, job: Job) -> bool:
    """Writes decisions that were taken on an old reading."""
    return move.version is not None or Right._holds(store, move, job)


@wrong("claim", "test_claims_at_once_get_different_jobs")
async def racy_claim(
    store: Right, worker: str, kinds: Sequence[str], limit: int, lease: timedelta
) -> list[Job]:
    """Reads what is pending, then writes the claim: between the two another worker reads the same."""
    seen = await store.find(JobFilter(tenant=None, states=(JobState.PENDING,), kinds=tuple(kinds)), limit)
    await asyncio.sleep(0)
    return [store._write(transition.claim(job, worker, lease, store._moment())) for job in seen]


@wrong("claim", "test_a_claimed_job_changes_as_the_domain_says")
async def callers_clock(store: Right, *asked: Any) -> list[Job]:
    """Reckons leases from the worker's clock, which is an hour off."""
    hour = timedelta(hours=1)
    jobs = await Right.claim(store, *asked)
    return [store._write(replace(job, due_at=job.due_at and job.due_at + hour)) for job in jobs]


@wrong("claim", "test_not_before_it_is_due_and_keeping_no_other_waiting")
async def eager_claim(store: Right, *asked: Any) -> list[Job]:
    """Hands out jobs before they are due."""
    store._queue.next(frozenset(), store._moment() + timedelta(days=1))
    return await Right.claim(store, *asked)


@wrong("claim", "test_tenants_take_turns")
async def greedy_tenant(
    store: Right, worker: str, kinds: Sequence[str], limit: int, lease: timedelta
) -> list[Job]:
    """Serves strictly by age: a tenant with many jobs keeps all others waiting."""
    now = store._moment()
    pending = [job for job in store._jobs.values() if job.state is JobState.PENDING and job.kind in kinds]
    oldest = sorted(pending, key=lambda job: (-job.priority, job.due_at or now, job.id))[:limit]
    return [store._write(transition.claim(job, worker, lease, now)) for job in oldest]


# --- on which terms -----------------------------------------------------------------------------


@wrong("claim", "test_no_more_of_a_kind_run_than_its_limit")
async def unlimited(
    store: Right, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
) -> list[Job]:
    """Heeds no limits."""
    return await Right.claim(store, worker, kinds, limit, lease, Terms(shares=terms.shares))


@wrong("_slots", "test_no_more_of_a_kind_run_than_its_limit")
def limited_by_call(store: Right, limits: Mapping[str, Limit]) -> Slots:
    """Counts what a call takes, and not what runs already."""
    return Slots(limits, {})


@wrong("_slots", "test_no_more_of_a_tenant_run_than_its_limit")
def limited_as_a_whole(store: Right, limits: Mapping[str, Limit]) -> Slots:
    """Knows how many of a kind run, but not whose they are."""
    running = {(kind, ""): store._counts[None][kind, JobState.RUNNING] for kind in limits}
    return Slots(limits, running)


@wrong("_slots", "test_a_lease_that_ran_out_holds_its_place_until_it_is_rescued")
def limited_by_leases(store: Right, limits: Mapping[str, Limit]) -> Slots:
    """Takes the place of a job away whose lease is over, though its worker may only be slow."""
    alive = [job for job in store._jobs.values() if job.lease and job.lease.expires_at >= store._moment()]
    return Slots(limits, Counter((job.kind, job.tenant) for job in alive))


@wrong("claim", "test_claims_at_once_never_exceed_a_limit")
async def racy_limit(store: Right, *asked: Any) -> list[Job]:
    """Counts what runs, then claims: between the two another worker counts the same."""
    seen = Right._slots(store, asked[4].of(asked[1]))
    await asyncio.sleep(0)
    now, taken = store._moment(), list[Job]()
    while len(taken) < asked[2] and (job_id := store._queue.next(frozenset(asked[1]), now, slots=seen)):
        taken.append(store._write(transition.claim(store._jobs[job_id], asked[0], asked[3], now)))
    return taken


@wrong("claim", "test_a_tenant_at_its_limit_keeps_no_other_waiting")
async def waiting_for_a_lane(store: Right, *asked: Any) -> list[Job]:
    """Stops at the first job that may not be taken."""
    now, taken = store._moment(), list[Job]()
    slots = store._slots(asked[4].of(asked[1]))
    while len(taken) < asked[2] and (job_id := store._queue.next(frozenset(asked[1]), now)):
        job = store._jobs[job_id]
        if not slots.take(job.kind, job.tenant):
            break
        taken.append(store._write(transition.claim(job, asked[0], asked[3], now)))
    return taken


@wrong("claim", "test_tenants_get_jobs_by_their_shares")
async def equal_shares(
    store: Right, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
) -> list[Job]:
    """Heeds no shares."""
    return await Right.claim(store, worker, kinds, limit, lease, Terms(limits=terms.limits))


@wrong("extend", "test_one_call_extends_all_and_tells_what_was_lost")
async def reviving_heartbeat(
    store: Right, worker: str, epochs: Mapping[str, int], lease: timedelta
) -> set[str]:
    """Extends a lease that was lost: it compares neither worker nor epoch."""
    held = {job_id: job for job_id in epochs if (job := store._jobs.get(job_id))}
    for job_id, job in held.items():
        await Right.extend(store, job.worker or worker, {job_id: job.epoch}, lease)
    return epochs.keys() - held.keys()


@wrong("extend", "test_a_lease_that_ran_out_but_was_not_taken_is_extended")
async def strict_heartbeat(
    store: Right, worker: str, epochs: Mapping[str, int], lease: timedelta
) -> set[str]:
    """Gives a worker up whose lease ran out, though nobody took the job."""
    late = {job.id for job in await store.expired(len(store._jobs))} & epochs.keys()
    alive = {job_id: epoch for job_id, epoch in epochs.items() if job_id not in late}
    return late | await Right.extend(store, worker, alive, lease)


@wrong("_merged", "test_a_progress_report_does_not_shorten_a_lease")
def shortening_report(store: Right, move: Transition, job: Job) -> Job:
    """Writes the lease's end back as the worker last read it, with each progress report."""
    return replace(Right._merged(store, move, job), due_at=move.after.due_at)


@wrong("_merged", "test_a_job_given_up_too_early_runs_on_under_a_new_lease")
def revived_without_lease(store: Right, move: Transition, job: Job) -> Job:
    """Leaves the time alone whenever a job runs after the write: one that was given up keeps its expiry as its lease."""
    running = move.after.state is JobState.RUNNING
    return replace(Right._merged(store, move, job), due_at=job.due_at if running else move.after.due_at)


@wrong("_write", "test_a_job_given_up_too_early_expires_no_more")
def revived_to_expire(store: Right, job: Job) -> Job:
    """Does not take a job that was given up out of those that expire when it runs again."""
    before = store._jobs.get(job.id)
    written = Right._write(store, job)
    if before is not None and before.finished and before.due_at and job.state is JobState.RUNNING:
        insort(store._expiring, (before.due_at, job.id))
    return written


@wrong("expired", "test_expired_gives_the_longest_overdue_first")
async def expired_by_age(store: Right, limit: int) -> list[Job]:
    """Gives overdue jobs in the order of their ids, so that the longest overdue may wait for ever."""
    return sorted(await Right.expired(store, len(store._jobs)), key=lambda job: job.id)[:limit]


# --- saying a thing twice, and batches ----------------------------------------------------------


@wrong("_known", "test_the_same_idempotency_key_gives_the_job_that_is_there")
def keyless(store: Right, job: Job, now: datetime) -> Job | None:
    """Does not look at idempotency keys."""
    return store._jobs.get(job.id)


@wrong("_known", "test_adding_an_id_again_gives_the_job_that_is_there")
def overwriting_add(store: Right, job: Job, now: datetime) -> Job | None:
    """Writes a job that is added again over the one that is there and perhaps running."""
    if job.id in store._jobs:
        store._remove(store._jobs[job.id])
    return Right._known(store, job, now)


@wrong("_known", "test_an_expired_job_frees_its_idempotency_key")
def key_for_ever(store: Right, job: Job, now: datetime) -> Job | None:
    """Lets an expired job hold its idempotency key until it is purged."""
    holder = store._keys.get((job.tenant, job.idempotency_key or ""))
    return store._jobs[holder] if holder else Right._known(store, job, now)


@wrong("_known", "test_a_key_holds_for_its_time_and_then_makes_a_new_job")
def key_without_end(store: Right, job: Job, now: datetime) -> Job | None:
    """Lets a key hold as long as the record lives, whatever its job says."""
    holder = store._jobs.get(store._keys.get((job.tenant, job.idempotency_key or ""), ""))
    return holder if holder and not holder.finished else Right._known(store, job, now)


@wrong("_known", "test_a_key_holds_for_its_time_and_then_makes_a_new_job")
def lapsed_for_itself(store: Right, job: Job, now: datetime) -> Job | None:
    """Takes a job that is added again after its key has lapsed for another one."""
    known = store._jobs.get(job.id)
    if known and known.lapsed(now):
        store._write(known.unkeyed())
    return Right._known(store, job, now)


@wrong("add", "test_the_same_key_from_many_at_once_is_one_job")
async def racy_key(store: Right, jobs: Sequence[Job]) -> list[Job]:
    """Looks for the idempotency key, then writes: between the two another caller looks."""
    known = [store._known(job, store._moment()) for job in jobs]
    await asyncio.sleep(0)
    return [old or store._insert(job) for old, job in zip(known, jobs, strict=True)]


@wrong("add", "test_readers_see_all_of_a_call_or_none")
async def piecemeal_add(store: Right, jobs: Sequence[Job]) -> list[Job]:
    """Writes a call's jobs one by one."""
    stored = []
    for job in jobs:
        stored += await Right.add(store, [job])
        await asyncio.sleep(0)
    return stored


def _said_before(store: Right, move: Transition) -> bool:
    return move.entry is not None and move.entry.id in store._entries.get(move.after.id, {})


@wrong("_apply", "test_a_repeat_stands_and_changes_nothing")
def repeat_refused(store: Right, move: Transition) -> bool:
    """Takes the repeat of a write whose answer was lost for a conflict."""
    return not _said_before(store, move) and Right._apply(store, move)


@wrong("_apply", "test_a_repeat_stands_and_changes_nothing")
def repeat_counted(store: Right, move: Transition) -> bool:
    """Writes a repeat once more."""
    if _said_before(store, move):
        store._write(store._merged(move, store._jobs[move.after.id]))
    return Right._apply(store, move)


@wrong("apply", "test_neither_conflict_nor_repeat_keeps_another_of_the_call_back")
async def all_or_none_apply(store: Right, transitions: Sequence[Transition]) -> list[bool]:
    """Gives up a batch at its first conflict."""
    answers: list[bool] = []
    for move in transitions:
        answers += await Right.apply(store, [move]) if all(answers) else [False]
    return answers


# --- what is written, who may see it, and pages of it -------------------------------------------


@wrong("_merged", "test_a_worker_does_not_undo_an_edit")
def undone_edit(store: Right, move: Transition, job: Job) -> Job:
    """Writes the whole job with a worker's report, also what was edited since the worker read it."""
    edited = {name: getattr(move.after, name) for name in EDIT_FIELDS}
    return replace(Right._merged(store, move, job), **edited)


@wrong("_merged", "test_a_job_is_put_off_and_another_brought_forward")
def deaf_to_times(store: Right, move: Transition, job: Job) -> Job:
    """Leaves the time alone whenever the state stays, also that of a pending job."""
    after = Right._merged(store, move, job)
    return replace(after, due_at=job.due_at) if after.state is job.state else after


@wrong("_holds", "test_a_report_from_outside_leaves_no_entry_and_undoes_nothing")
def entries_alone_guarded(store: Right, move: Transition, job: Job) -> bool:
    """Compares the version only where there is a history entry to write."""
    return move.entry is None or Right._holds(store, move, job)


@wrong("history", "test_history_is_in_the_order_of_writing")
async def forgetful_history(store: Right, tenant: str, job_id: str) -> list[Entry]:
    """Forgets the entries of retries."""
    entries = await Right.history(store, tenant, job_id)
    return [entry for entry in entries if entry.event is not Event.RETRIED]


@wrong("_apply", "test_after_a_random_walk_all_is_as_the_domain_says")
def miscounted_rescue(store: Right, move: Transition) -> bool:
    """Forgets to move a job's count when it is rescued."""
    seen = _said_before(store, move)
    stands = Right._apply(store, move)
    if stands and not seen and move.entry is not None and move.entry.event is Event.RESCUED:
        store._counts[move.after.tenant][move.after.kind, JobState.RUNNING] += 1
    return stands


@wrong("get", "test_what_the_caller_does_to_a_job_later_does_not_change_it")
async def shared_memory(store: Right, tenant: str, job_id: str) -> Job | None:
    """Gives out the very objects that it keeps."""
    return store._visible(tenant, job_id)


@wrong("get", "test_get_and_history_keep_to_their_tenant")
async def leaking_get(store: Right, tenant: str, job_id: str) -> Job | None:
    """Finds a job by its id alone, whoever asks."""
    job = store._jobs.get(job_id)
    return job and await Right.get(store, job.tenant, job_id)


@wrong("find", "test_find_and_count_keep_to_their_tenant")
async def leaking_find(store: Right, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
    """Lists every tenant's jobs, whoever asks."""
    return await Right.find(store, replace(query, tenant=None), limit, after)


@wrong("delete", "test_delete_removes_a_job_in_any_state_for_its_tenant")
async def leaking_delete(store: Right, tenant: str, job_id: str) -> bool:
    """Deletes a job by its id alone, whoever asks."""
    job = store._jobs.get(job_id)
    return job is not None and await Right.delete(store, job.tenant, job_id)


@wrong("find", "test_pages_neither_repeat_nor_skip_while_jobs_are_added")
async def off_by_one_page(store: Right, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
    """Begins a page with the last job of the page before."""
    return await Right.find(store, query, limit, after and after + "~")


# --- what goes, and the end ---------------------------------------------------------------------


@wrong("_visible", "test_an_expired_job_is_hidden_everywhere")
def shows_expired(store: Right, tenant: str, job_id: str) -> Job | None:
    """Shows expired jobs until they are purged."""
    job = store._jobs.get(job_id)
    return job if job and job.tenant == tenant else None


@wrong("purge", "test_purge_never_takes_an_unfinished_job")
async def purges_unfinished(store: Right, limit: int) -> int:
    """Purges by time alone: a running job whose lease ran out is gone."""
    late = await store.expired(limit)
    for job in late:
        store._remove(job)
    return len(late) + await Right.purge(store, limit)


@wrong("_hint", "test_a_change_and_a_new_job_are_hinted_at")
def deaf(store: Right, job: Job) -> None:
    """Gives no hints."""


@wrong("entries", "test_the_log_is_read_in_pages_and_from_another_handle")
async def forgetful_log(store: Right, after: str | None, limit: int) -> LogPage:
    """Goes on at the end of the log, whatever it gave."""
    page = await Right.entries(store, after, limit)
    return replace(page, next=str(store._logged))


@wrong("delete", "test_what_comes_after_a_removed_end_is_not_missed")
async def shrinking_log(store: Right, tenant: str, job_id: str) -> bool:
    """Counts the lines of its log by those that are left."""
    done = await Right.delete(store, tenant, job_id)
    store._logged -= done
    return done


class _Unguarded(MemoryValues):
    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        found = (await self.read(space, [key])).get(key)
        return await super().write(space, key, value, expect=found.version if found else 0)


@wrong("__init__", "test_a_value_is_put_read_changed_and_removed")
def unguarded_values(store: Right, *given: Any) -> None:
    """Puts values without comparing versions."""
    Right.__init__(store, *given)
    store.values = _Unguarded(store._moment)


class _EmptySpaces(MemoryValues):
    async def spaces(self) -> list[str]:
        self._check()
        return sorted(self._spaces)


@wrong("__init__", "test_the_spaces_with_a_value_are_told")
def empty_spaces(store: Right, *given: Any) -> None:
    """Names spaces in which there was a value once."""
    Right.__init__(store, *given)
    store.values = _EmptySpaces(store._moment)


@wrong("close", "test_after_its_end_every_call_says_so")
async def undead(store: Right) -> None:
    """Answers after it was closed."""
