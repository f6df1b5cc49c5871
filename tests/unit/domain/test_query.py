"""Filters and counts of jobs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from perdure.domain.errors import InvalidInput
from perdure.domain.query import JobFilter, Stats
from perdure.domain.state import JobState
from tests.unit.domain.samples import BORN, job_in

SECOND = timedelta(seconds=1)
JOB = job_in(JobState.FAILED, kind="report", user_id="ann", document_id="d1")


@pytest.mark.parametrize(
    ("over", "matches"),
    [
        ({}, True),
        ({"tenant": None}, True),
        ({"tenant": "bolt"}, False),
        ({"states": (JobState.FAILED, JobState.RUNNING)}, True),
        ({"states": (JobState.RUNNING,)}, False),
        ({"kinds": ("work", "report")}, True),
        ({"kinds": ("work",)}, False),
        ({"user_id": "ann"}, True),
        ({"user_id": "ben"}, False),
        ({"document_id": "d1"}, True),
        ({"document_id": "d2"}, False),
        ({"created_from": BORN}, True),
        ({"created_from": BORN + SECOND}, False),
        ({"created_before": BORN}, False),
        ({"created_before": BORN + SECOND}, True),
        ({"user_id": "ann", "document_id": "d2"}, False),
    ],
)
def test_every_field_narrows(over: dict[str, Any], matches: bool) -> None:
    assert JobFilter(**{"tenant": "acme", **over}).matches(JOB) is matches


def test_a_job_without_the_field_is_not_asked_for_by_it() -> None:
    assert not JobFilter(tenant="acme", user_id="ann").matches(job_in(JobState.FAILED))


def test_stats_add_up() -> None:
    stats = Stats(
        counts={
            "work": {JobState.PENDING: 2, JobState.COMPLETED: 5},
            "report": {JobState.PENDING: 1, JobState.WAITING: 4},
        }
    )
    expected = dict.fromkeys(JobState, 0) | {
        JobState.PENDING: 3,
        JobState.COMPLETED: 5,
        JobState.WAITING: 4,
    }
    assert stats.by_state == expected
    assert (stats.total, stats.unfinished) == (12, 7)


def test_stats_of_nothing_are_zeros() -> None:
    assert Stats(counts={}).by_state == dict.fromkeys(JobState, 0)
    assert (Stats(counts={}).total, Stats(counts={}).unfinished) == (0, 0)


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"created_from": BORN.replace(tzinfo=None)}, "created_from .* has no time zone"),
        ({"created_before": BORN.replace(tzinfo=None)}, "created_before .* has no time zone"),
        ({"user_id": "ann\x00"}, "user_id holds a NUL"),
        ({"document_id": ""}, "document_id must be"),
    ],
)
def test_a_filter_that_no_database_can_answer_is_refused(over: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        JobFilter(tenant="acme", **over)
