"""Jobs and stamps for tests: everything has a default, ids are the same in every run of a process."""

from __future__ import annotations

from datetime import datetime
from itertools import count
from typing import Any

from msgspec.structs import replace

from perdure.domain.ids import uuid7
from perdure.domain.job import Job, NewJob
from perdure.domain.state import JobState
from perdure.domain.transition import Stamp

KIND = "work"
"""The kind of a job that names none."""

_serial = count(1)


def make_id(now: datetime) -> str:
    """Build a UUIDv7 greater than every one made before of the same or an earlier time."""
    return uuid7(now, next(_serial))


def new_job(**over: Any) -> NewJob:
    """Describe a job as a caller would; `over` sets fields of `NewJob`."""
    return NewJob(**{"kind": KIND, **over})


def make_job(now: datetime, **over: Any) -> Job:
    """Build a pending job that came in at `now` and may be claimed at once; `over` sets fields of `Job`."""
    job = Job(
        id=make_id(now),
        tenant="default",
        kind=KIND,
        state=JobState.PENDING,
        due_at=now,
        created_at=now,
        updated_at=now,
        max_attempts=3,
    )
    return replace(job, **over)


def make_stamp(now: datetime, actor: str = "tester") -> Stamp:
    """Build a stamp with an entry id of its own."""
    return Stamp(at=now, actor=actor, entry_id=make_id(now))
