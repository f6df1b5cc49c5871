"""Every law of the transitions, on jobs of any state and any counts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings

from perdure.domain import transition
from perdure.domain.errors import IllegalTransition
from perdure.domain.job import Job
from perdure.domain.state import MOVES, Event, JobState
from tests.unit.domain.laws import LAWS
from tests.unit.domain.samples import DELAY, NOW, act, job_in, jobs


@given(job=jobs())
@settings(max_examples=60)
def test_laws(job: Job) -> None:
    for law in LAWS:
        law(transition, job)


@pytest.mark.parametrize("seed", range(20))
def test_a_life_is_a_path_through_the_table(seed: int) -> None:
    """Whatever happens to a job, its epoch only grows, at claims and nowhere else."""
    chance = random.Random(seed)
    job = job_in(JobState.PENDING, epoch=0, version=0, attempt=0, rescues=0)
    for _ in range(60):
        before = job
        event = chance.choice([event for event, moves in MOVES.items() if job.state in moves] or [None])
        if event is None:
            assert job.state is JobState.COMPLETED
            break
        if event is Event.CLAIMED:
            job = transition.claim(job, "worker-1", DELAY, NOW)
            assert job.epoch == before.epoch + 1
        else:
            job = act(transition, event, before).after
            assert job.epoch == before.epoch
        assert job.state is MOVES[event][before.state]
        if event is Event.MOVED:  # its life goes on in another store
            entry = act(transition, event, before).entry
            assert entry is not None
            job = transition.moved_in(job, entry)


def test_an_illegal_move_says_what_would_be_legal() -> None:
    with pytest.raises(IllegalTransition) as caught:
        act(transition, Event.REQUEUED, job_in(JobState.COMPLETED))
    assert str(caught.value).endswith(
        "is completed and cannot be requeued; that needs a job that is cancelled, failed, partial"
    )
