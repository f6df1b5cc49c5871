"""Jobs in every state, and everything that can happen to them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from types import ModuleType
from typing import Final

from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.domain.job import Failure, Job, Progress, Question
from perdure.domain.state import TERMINAL, Event, JobState
from perdure.domain.transition import Stamp, Transition

BORN: Final = datetime(2031, 5, 4, 12, tzinfo=UTC)
NOW: Final = BORN + timedelta(hours=3)
STAMP: Final = Stamp(at=NOW, actor="ann", entry_id="0198c0de-7a3e-7abc-8def-0123456789ab")
DELAY: Final = timedelta(seconds=42)
ERROR: Final = Failure(type="ValueError", message="page 7 is torn")
FATAL: Final = replace(ERROR, fatal=True)
DIED: Final = Failure(type="WorkerDied", message="gone", fatal=True)
OPEN: Final = Question(
    key="go", prompt="Go?", asked_at=BORN, choices=("yes", "no"), default="no", deadline=NOW + DELAY
)
GIVEN: Final = replace(OPEN, key="first", answer="yes", answered_by="ben", answered_at=BORN)


def job_in(state: JobState, **over: object) -> Job:
    """A job as it may be found in that state; `over` sets its fields."""
    claimed = state is not JobState.PENDING
    job = Job(
        id="0198c0de-7a3e-7abc-8def-000000000001",
        tenant="acme",
        kind="work",
        state=state,
        due_at=NOW,
        created_at=BORN,
        updated_at=BORN,
        epoch=4,
        version=17,
        attempt=1,
        max_attempts=5,
        rescues=1,
        max_rescues=3,
        worker="worker-1" if claimed else None,
        started_at=BORN if claimed else None,
        completed_at=BORN if state in TERMINAL else None,
        checkpoint={"page": 3},
        progress=Progress(fraction=0.5),
        questions=(GIVEN, OPEN) if state in {JobState.WAITING, JobState.CANCELLED} else (GIVEN,),
        labels={"team": "a"},
    )
    return replace(job, **over)


def jobs() -> st.SearchStrategy[Job]:
    """Jobs of any state, with any counts."""
    small = st.integers(0, 5)
    return st.builds(
        job_in,
        st.sampled_from(JobState),
        epoch=st.integers(1, 2**40),
        version=st.integers(1, 2**40),
        attempt=small,
        max_attempts=st.integers(1, 6),
        rescues=small,
        max_rescues=small,
        ttl=st.none() | st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=999)),
        priority=st.integers(-1000, 1000),
    )


EXAMPLES: Final = [
    job_in(state, attempt=attempt, max_attempts=3, rescues=rescues, max_rescues=2, ttl=ttl)
    for state, attempt, rescues, ttl in product(JobState, (0, 1, 2), (0, 1, 2), (None, timedelta(hours=1)))
]
"""Enough jobs to tell a wrong transition from a right one."""


def act(domain: ModuleType, event: Event, job: Job) -> Transition:
    """Let the event happen to the job."""
    question = replace(OPEN, asked_at=NOW)
    actions: dict[Event, Callable[[], Transition]] = {
        Event.COMPLETED: lambda: domain.complete(job, {"n": 1}, STAMP),
        Event.PARTLY_COMPLETED: lambda: domain.complete(job, {"n": 1}, STAMP, failure=ERROR),
        Event.RETRIED: lambda: domain.fail(replace(job, max_attempts=job.attempt + 2), ERROR, DELAY, STAMP),
        Event.FAILED: lambda: domain.fail(replace(job, max_attempts=job.attempt + 1), ERROR, DELAY, STAMP),
        Event.RELEASED: lambda: domain.release(job, STAMP, delay=DELAY),
        Event.RESCUED: lambda: domain.rescue(replace(job, max_rescues=job.rescues + 1), STAMP),
        Event.QUARANTINED: lambda: domain.rescue(replace(job, max_rescues=job.rescues), STAMP),
        Event.REVIVED: lambda: domain.revive(replace(job, failure=DIED), "worker-1", DELAY, STAMP),
        Event.ASKED: lambda: domain.ask(job, question, STAMP),
        Event.ANSWERED: lambda: domain.answer(job, "yes", STAMP),
        Event.DEFAULTED: lambda: domain.default(job, STAMP),
        Event.CANCELLED: lambda: domain.cancel(job, STAMP, reason="enough"),
        Event.MOVED: lambda: domain.move_away(job, STAMP, "elsewhere"),
        Event.REQUEUED: lambda: domain.requeue(job, STAMP),
        Event.EDITED: lambda: domain.edit(job, STAMP, priority=7, labels={"team": "b"}),
    }
    return actions[event]()
