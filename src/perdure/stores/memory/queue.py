"""Which pending job is next."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from datetime import datetime

from perdure.domain.job import Job
from perdure.domain.terms import PLAIN, Slots, Terms
from perdure.stores.memory.ordered import Due, discard


class Queue:
    """Pending jobs by priority, tenant and kind; each lane in the order of `due_at`, then id.

    The order of a priority's tenants is their turn: whoever was served goes to the end.
    """

    def __init__(self) -> None:
        self._later: list[tuple[datetime, str, Job]] = []
        """Jobs that were not due when last looked at."""
        self._lanes: dict[int, dict[str, dict[str, list[Due]]]] = {}
        """priority → tenant → kind → jobs that are due; no empty ones, so that only work is looked at."""
        self._had = Counter[tuple[int, str]]()
        """(priority, tenant) → jobs served in a turn that is not over."""

    def add(self, job: Job, due_at: datetime) -> None:
        """Take in a pending job."""
        insort(self._later, (due_at, job.id, job))

    def discard(self, job: Job, due_at: datetime) -> None:
        """Take a job out, wherever it is."""
        if discard(self._later, (due_at, job.id, job)):
            return
        tenants = self._lanes[job.priority]
        kinds = tenants[job.tenant]
        discard(kinds[job.kind], (due_at, job.id))
        if not kinds[job.kind]:
            del kinds[job.kind]
        if not kinds:
            del tenants[job.tenant]
        if not tenants:
            del self._lanes[job.priority]

    def next(
        self, kinds: frozenset[str], now: datetime, terms: Terms = PLAIN, slots: Slots | None = None
    ) -> str | None:
        """The id of the job to claim, for which a slot is taken. Discard it before asking again."""
        self._advance(now)
        slots = slots or Slots({}, {})
        for priority in sorted(self._lanes, reverse=True):
            for tenant, lanes in self._lanes[priority].items():
                heads = [
                    (*lane[0], kind)
                    for kind, lane in lanes.items()
                    if kind in kinds and slots.left(kind, tenant)
                ]
                if heads:
                    _, job_id, kind = min(heads)
                    slots.take(kind, tenant)
                    self._served(priority, tenant, terms)
                    return job_id
        return None

    def oldest(self, now: datetime) -> dict[str, datetime]:
        """Since when the first job of each tenant that has one in line has been due."""
        self._advance(now)
        oldest: dict[str, datetime] = {}
        for tenants in self._lanes.values():
            for tenant, lanes in tenants.items():
                heads = [lane[0][0] for lane in lanes.values()]
                oldest[tenant] = min([*heads, *([oldest[tenant]] if tenant in oldest else [])])
        return oldest

    def _served(self, priority: int, tenant: str, terms: Terms) -> None:
        """Once its turn is over, a tenant goes to the end."""
        self._had[priority, tenant] += 1
        if self._had[priority, tenant] >= terms.weight(tenant):
            del self._had[priority, tenant]
            tenants = self._lanes[priority]
            tenants[tenant] = tenants.pop(tenant)

    def _advance(self, now: datetime) -> None:
        """Put what has become due into its lane."""
        due = bisect_right(self._later, now, key=lambda item: item[0])
        for due_at, job_id, job in self._later[:due]:
            lanes = self._lanes.setdefault(job.priority, {}).setdefault(job.tenant, {})
            insort(lanes.setdefault(job.kind, []), (due_at, job_id))
        del self._later[:due]
