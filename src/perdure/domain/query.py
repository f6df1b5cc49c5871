"""How jobs are asked for: filters, keyset pages, counts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput
from perdure.domain.job import Job
from perdure.domain.record import Record
from perdure.domain.state import TERMINAL, JobState


class JobFilter(Record):
    """Which jobs to list or count. Every field narrows; an empty tuple or None does not.

    Attributes:
        tenant: whose jobs; None means every tenant's and is for operators only.
        created_from: inclusive; created_before: exclusive; both aware.
        oldest_first: list them in the order in which they came in; else newest first. Counts take no notice.

    Raises:
        InvalidInput: on construction, naming the field.
    """

    tenant: str | None
    states: tuple[JobState, ...] = ()
    kinds: tuple[str, ...] = ()
    user_id: str | None = None
    document_id: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    oldest_first: bool = False

    def __post_init__(self) -> None:
        for what, value in (("user_id", self.user_id), ("document_id", self.document_id)):
            if value is not None:
                check.text(value, what)
        for what, moment in (("created_from", self.created_from), ("created_before", self.created_before)):
            if moment is not None:
                check.aware(moment, what)

    def matches(self, job: Job) -> bool:
        """Whether `job` is one of those asked for: what every store's query must agree with."""
        return (
            (self.tenant is None or job.tenant == self.tenant)
            and (not self.states or job.state in self.states)
            and (not self.kinds or job.kind in self.kinds)
            and (self.user_id is None or job.user_id == self.user_id)
            and (self.document_id is None or job.document_id == self.document_id)
            and (self.created_from is None or job.created_at >= self.created_from)
            and (self.created_before is None or job.created_at < self.created_before)
        )

    def seal(self, job_id: str) -> str:
        """A cursor for strangers: behind this job, in this list of this tenant alone."""
        place = UUID(job_id).bytes
        return base64.urlsafe_b64encode(place + self._mark(place)).decode()

    def unseal(self, cursor: str) -> str:
        """The job id in a cursor of this very list.

        Raises:
            InvalidInput: it is none.
        """
        try:
            raw = base64.urlsafe_b64decode(cursor)
        except ValueError:
            raw = b""
        if len(raw) != 24 or raw[16:] != self._mark(raw[:16]):
            raise InvalidInput(
                f"cursor {cursor[:40]!r} is not one of this list: give `next_cursor` as it came, with the same filters"
            )
        return str(UUID(bytes=raw[:16]))

    def _mark(self, place: bytes) -> bytes:
        """No secret: a list shows its own tenant's jobs alone, wherever it begins. It finds mistakes."""
        return hashlib.sha256(place + msgspec.json.encode(self)).digest()[:8]


class Page(Record):
    """Some jobs, in the order that was asked for.

    Attributes:
        next: give it as `after` to get the page that follows; None at the end.
    """

    jobs: tuple[Job, ...]
    next: str | None = None


class Stats(Record):
    """Counts of a tenant's jobs (or of everybody's).

    Attributes:
        counts: kind → state → number; zeros are left out.
    """

    counts: Mapping[str, Mapping[JobState, int]]

    @property
    def by_state(self) -> dict[JobState, int]:
        """The numbers of all kinds together, every state named."""
        totals = dict.fromkeys(JobState, 0)
        for states in self.counts.values():
            for state, number in states.items():
                totals[state] += number
        return totals

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return sum(self.by_state.values())

    @property
    def unfinished(self) -> int:
        """How many have not come to their end."""
        return sum(number for state, number in self.by_state.items() if state not in TERMINAL)
