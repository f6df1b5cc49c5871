"""Where jobs live. Few primitives: a store compares and sets; it never decides.

What holds for every call:

* A job that a call returns is as it was at one moment, whole.
* A write that returned is on the store's durable medium. A write that raised `StoreUnavailable` may or
  may not have gone through; *repeating any call with the same arguments is safe* and ends in the same state.
* Times are compared on the store's clock (`now`), never on the caller's.
* Vendor errors are translated at one gate per adapter: nothing but `PerdureError` comes out.
* Calls are safe from many tasks of one event loop, and (with `multi_process`) from many processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from perdure.domain.job import Entry, Job
from perdure.domain.log import LogPage
from perdure.domain.query import JobFilter, Stats
from perdure.domain.record import Record
from perdure.domain.terms import PLAIN, Terms
from perdure.domain.transition import Transition
from perdure.ports.key_value import KeyValueStore


class Capabilities(Record):
    """What a store can do beyond the contract. Ask about abilities, never about brands.

    Attributes:
        durable: jobs survive the process, and a crash of the machine.
        multi_process: several processes may share the store.
        change_feed: `changes` yields hints from other processes too.
        native_ttl: expired jobs vanish without `purge`.
        constant_stats: `stats` costs the same at any number of jobs.
        transactions: `apply` writes a whole batch in one step; otherwise each transition by itself.
        joins: jobs can be added inside a transaction of the caller's: it is a `JoiningJobStore`.
        behind: seconds by which `now` may be late where the store tells its time in whole seconds; it is never early.
    """

    durable: bool
    multi_process: bool
    change_feed: bool
    native_ttl: bool
    constant_stats: bool
    transactions: bool
    joins: bool = False
    behind: float = 0.0


class Change(Record):
    """A hint that a job changed; read the job to know how.

    Attributes:
        job_id: None where the store only knows that something may have changed.
    """

    tenant: str | None = None
    job_id: str | None = None


class JobStore(Protocol):
    """The contract. Everything here is tested by `perdure.testing.JobStoreContract`."""

    @property
    def capabilities(self) -> Capabilities:
        """The store's abilities; constant."""
        ...

    @property
    def values(self) -> KeyValueStore:
        """Small values in the same place."""
        ...

    async def setup(self) -> None:
        """Create or migrate what the store needs. Many replicas may call it at once.

        Raises:
            SchemaMismatch: the schema is newer than this Perdure.
            StoreCorrupt: what lies there is not a Perdure store.
        """
        ...

    async def close(self) -> None:
        """Free what the store holds. Calls after it raise `StoreUnavailable`. May be called twice."""
        ...

    async def now(self) -> datetime:
        """The store's clock: aware, UTC."""
        ...

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        """Write new jobs, all or none; durable on return.

        Returns:
            One job for each given, in order: the given one, or the one that is there already under the same
            id, or under the same (tenant, idempotency_key), unchanged. Two of one call with the same
            key are one job. An expired job holds its key no longer than it can be read; one that has `lapsed` loses it to
            a new job with that key, and is `unkeyed` from then on.
        """
        ...

    async def get(self, tenant: str, job_id: str) -> Job | None:
        """The job; None if there is none, it is another tenant's, or it has expired."""
        ...

    async def find(self, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
        """Up to `limit` jobs that match, newest id first or as the filter says, expired ones hidden.

        Args:
            after: only jobs that follow this id in that order: the last id of the page before. A page costs
                the same wherever it lies, and jobs added meanwhile neither repeat nor skip any.
        """
        ...

    async def count(self, query: JobFilter) -> int:
        """How many jobs match, expired ones hidden. Costs what the matching jobs cost; for totals see `stats`."""
        ...

    async def stats(self, tenant: str | None) -> Stats:
        """Counts by kind and state, kept as jobs move; None: of all tenants together.

        Expired jobs count until they are purged.
        """
        ...

    async def tenants(self, limit: int, after: str = "") -> dict[str, datetime | None]:
        """Up to `limit` tenants that have jobs, by name, ascending; only names greater than `after`. One whose jobs are gone
        may be told for a while.

        Returns:
            For each, since when the one of its pending jobs that may be claimed has been due that has waited longest;
            None: none is due. Costs what the tenants cost, not what their jobs do.
        """
        ...

    async def claim(
        self, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
    ) -> list[Job]:
        """Take up to `limit` eligible jobs for `worker`, atomically: no two calls get the same job.

        Eligible: `pending`, of one of `kinds`, ``due_at <= now``. Which first: higher priority; within a
        priority the tenants in turn (one tenant's many jobs do not keep another's few waiting longer than
        two rounds); within a tenant by `due_at`, then id.

        On `terms`: a tenant gets as many jobs in its turn as its share is. And no job is taken while as many of its kind, or
        of its kind and tenant, run as may: whoever else claims at the same moment, and however a job came to run. A job runs
        until its state says otherwise, so that one whose lease is over still takes up its place until it is rescued. A kind or
        tenant at its limit keeps no other waiting, of lower priority neither.

        Each job changes as `perdure.domain.transition.claim` says: `running`, epoch + 1, version + 1,
        ``due_at = now + lease``, `started_at` and `updated_at` = now. Fewer than `limit` does not mean that none are left.
        """
        ...

    async def extend(self, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
        """Heartbeat for all of a worker's jobs (id → epoch) in one call: ``due_at = now + lease``, version + 1.

        Returns:
            The ids that this worker no longer owns: not running, or under another epoch or worker, or gone.
            A lease that ran out but was not yet taken away is extended.
        """
        ...

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        """Write each transition if its guard holds, with its history entry and the counters, in one step.

        The guard is ``state = running and epoch = t.epoch``, or ``version = t.version``. Where it holds, the fields in
        `RUN_FIELDS` become those of `after` (with a version guard `EDIT_FIELDS` too), and version grows by 1.
        Only `due_at` of a job that stays running is left as it is: `extend` alone moves a lease, and a progress report
        made from an older reading must not shorten it.
        Two transitions of one call for the same job are taken in order.

        Returns:
            For each, in order, whether it stands: written now, or written before (its entry's id is in the
            job's history). False is a conflict: nothing was changed; read again and decide again.
        """
        ...

    async def expired(self, limit: int) -> list[Job]:
        """Up to `limit` unfinished jobs whose time ran out, longest overdue first: running ones whose lease,
        and waiting ones whose deadline, lies before the store's now.
        """
        ...

    async def history(self, tenant: str, job_id: str) -> list[Entry]:
        """The entries that `apply` wrote, oldest first; empty where `get` gives None."""
        ...

    async def entries(self, after: str | None, limit: int) -> LogPage:
        """About `limit` entries that `apply` wrote, of all tenants, in the order in which the writes were made durable.

        None is missing, however late its write was; one may come again, under its id. Entries of jobs that were removed are
        left out.

        Args:
            after: the `next` of the page before; None: give no entries, only where the log ends now.

        Raises:
            CursorLost: what followed `after` is not kept any more; begin again with None.
        """
        ...

    async def delete(self, tenant: str, job_id: str) -> bool:
        """Remove a job in any state with its history and its counts. Whether there was one."""
        ...

    async def purge(self, limit: int) -> int:
        """Remove up to `limit` expired jobs with their history; how many. Never an unfinished one."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """Hints that jobs changed, coalesced and perhaps lost: polling must suffice. Ends when the store closes.

        With `change_feed`, changes by other processes are hinted at within about a second.
        """
        ...


class JoiningJobStore(JobStore, Protocol):
    """What a store is, beyond a `JobStore`, whose capabilities say `joins`."""

    async def add(self, jobs: Sequence[Job], *, connection: object | None = None) -> list[Job]:
        """See `JobStore.add`.

        Args:
            connection: the caller's own, of the store's driver, to the store's database, with a transaction open. The
                jobs are part of that transaction: durable, and seen by anybody else, once it commits; never if it
                does not. An error leaves the transaction as it was before the call.

        Raises:
            InvalidInput: the connection does not fit.
            StoreUnavailable: it broke off; nothing of its transaction will be.
        """
        ...
