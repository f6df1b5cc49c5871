"""New jobs are checked once, when they are made; a job tells what follows from its state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.domain.errors import InvalidInput, PerdureError
from perdure.domain.job import DEFAULT_TTL, Lease
from perdure.domain.state import TERMINAL, JobState
from perdure.testing.builders import make_id, make_job, make_stamp, new_job
from tests.unit.domain.samples import NOW, OPEN, job_in


def test_a_new_job_has_sensible_defaults() -> None:
    job = new_job()
    assert (job.tenant, job.priority, job.run_at, job.idempotency_key) == ("default", 0, None, None)
    assert (job.max_attempts, job.max_rescues, job.ttl) == (None, 3, DEFAULT_TTL)
    assert job.ttl == timedelta(hours=24)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"kind": "no blanks"}, "kind 'no blanks' is not valid"),
        ({"tenant": ""}, "tenant '' is not valid"),
        ({"payload": [1]}, "payload must be a JSON object, got a list"),
        ({"payload": {"a": [float("nan")]}}, "payload.a[0] is nan"),
        ({"idempotency_key": ""}, "idempotency_key must be a text that is not empty"),
        ({"user_id": "a\x00"}, "user_id holds a NUL character at 1"),
        ({"document_id": "x" * 1025}, "document_id has 1025 characters"),
        ({"created_by": "\ud800"}, "created_by holds a lone surrogate at 0"),
        ({"labels": {"": "x"}}, "a label's name must be a text that is not empty"),
        ({"labels": {"k" * 129: "x"}}, "a label's name has 129 characters"),
        ({"labels": {"team": ""}}, "label 'team' must be a text that is not empty"),
        ({"run_at": datetime(2031, 1, 1)}, "run_at 2031-01-01T00:00:00 has no time zone"),  # noqa: DTZ001  # on purpose
        ({"priority": 1001}, "priority is 1001; expected -1000 to 1000"),
        ({"priority": -1001}, "priority is -1001; expected -1000 to 1000"),
        ({"max_attempts": 0}, "max_attempts is 0; expected 1 to 1,000,000"),
        ({"max_rescues": -1}, "max_rescues is -1; expected 0 to 1,000,000"),
        ({"max_rescues": 2**64}, "max_rescues is 18446744073709551616; expected 0 to 1,000,000"),
        ({"unique_for": timedelta(1)}, "unique_for says how long an idempotency_key holds, and"),
        (
            {"unique_for": timedelta(0), "idempotency_key": "k"},
            "unique_for is 0:00:00; expected more than zero",
        ),
        (
            {"unique_for": timedelta(2), "idempotency_key": "k"},
            "unique_for is 2 days, 0:00:00; expected more than zero, and no more",
        ),
        ({"ttl": timedelta(0)}, "ttl is 0:00:00; expected more than zero, or None for ever"),
    ],
)
def test_a_bad_job_is_refused_with_the_field(over: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        new_job(**over)
    assert str(caught.value).startswith(message)


def test_a_refusal_is_a_value_error_and_one_of_ours() -> None:
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(InvalidInput, PerdureError)


@pytest.mark.parametrize("over", [{"priority": 1000}, {"ttl": None}, {"run_at": NOW}, {"labels": {"a": "b"}}])
def test_the_bounds_themselves_are_allowed(over: dict[str, Any]) -> None:
    [(field, value)] = over.items()
    assert getattr(new_job(**over), field) == value


@pytest.mark.parametrize("state", JobState)
def test_a_job_tells_what_follows_from_its_state(state: JobState) -> None:
    job = job_in(state)
    running, finished, waiting = state is JobState.RUNNING, state in TERMINAL, state is JobState.WAITING
    assert job.finished is finished
    assert job.lease == (Lease(worker="worker-1", epoch=4, expires_at=NOW) if running else None)
    assert job.question == (OPEN if waiting else None)
    assert job.expires_at == (NOW if finished else None)


def test_a_waiting_job_without_questions_has_none() -> None:
    assert job_in(JobState.WAITING, questions=()).question is None


def test_a_job_cannot_be_written_to() -> None:
    with pytest.raises(AttributeError):
        setattr(job_in(JobState.PENDING), "state", JobState.FAILED)  # noqa: B010  # a plain assignment would not pass the type checker


def test_builders_make_things_that_differ_only_by_their_ids() -> None:
    now = datetime(2031, 1, 1, tzinfo=UTC)
    one, two = make_job(now, priority=3), make_job(now, priority=3)
    assert one.id < two.id < make_id(now)
    assert replace(one, id=two.id) == two
    assert make_stamp(now).entry_id < make_stamp(now, "ann").entry_id
