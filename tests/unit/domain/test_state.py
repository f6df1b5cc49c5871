"""The table of legal moves has the shape that the promises rest on."""

from __future__ import annotations

import pytest

from perdure.domain.state import MOVES, TERMINAL, Event, JobState

UNFINISHED = frozenset(JobState) - TERMINAL


def leaving(state: JobState) -> dict[Event, JobState]:
    return {event: moves[state] for event, moves in MOVES.items() if state in moves}


def test_the_whole_table_as_people_draw_it() -> None:
    drawn = {f"{before} {event} {after}" for event, moves in MOVES.items() for before, after in moves.items()}
    assert drawn == {
        "pending claimed running",
        "running completed completed",
        "running partly_completed partial",
        "running retried pending",
        "running failed failed",
        "running released pending",
        "running rescued pending",
        "running quarantined failed",
        "failed revived running",
        "running asked waiting",
        "waiting answered pending",
        "waiting defaulted pending",
        "pending cancelled cancelled",
        "running cancelled cancelled",
        "waiting cancelled cancelled",
        "failed requeued pending",
        "partial requeued pending",
        "cancelled requeued pending",
        "pending edited pending",
        "running edited running",
        "waiting edited waiting",
        "pending moved cancelled",
        "waiting moved cancelled",
    }


def test_every_event_but_coming_in_is_a_move() -> None:
    assert set(MOVES) == set(Event) - {Event.ADDED}


def test_terminal_states_are_those_that_only_a_requeue_or_its_living_worker_leaves() -> None:
    exceptions = {Event.REQUEUED, Event.REVIVED}
    assert {state for state in JobState if set(leaving(state)) <= exceptions} == TERMINAL
    assert {state for state in JobState if state.terminal} == TERMINAL


def test_a_completed_job_stays_completed() -> None:
    assert leaving(JobState.COMPLETED) == {}


def test_only_a_claim_makes_a_job_run_and_only_its_own_worker_brings_it_back() -> None:
    entering = {
        event for event, moves in MOVES.items() for b, a in moves.items() if a is JobState.RUNNING is not b
    }
    assert entering == {Event.CLAIMED, Event.REVIVED}


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_every_unfinished_job_can_be_called_off_and_edited(state: JobState) -> None:
    assert leaving(state)[Event.CANCELLED] is JobState.CANCELLED
    assert leaving(state)[Event.EDITED] is state


def test_every_state_can_be_reached_and_left_for_an_end() -> None:
    reached, frontier = {JobState.PENDING}, {JobState.PENDING}
    while frontier:
        frontier = {after for state in frontier for after in leaving(state).values()} - reached
        reached |= frontier
    assert reached == set(JobState)


def test_the_table_cannot_be_written_to() -> None:
    with pytest.raises(TypeError):
        MOVES[Event.ADDED] = {}  # type: ignore[index]  # that is what is tried


@pytest.mark.parametrize("state", JobState)
def test_a_state_is_its_word(state: JobState) -> None:
    assert JobState(str(state)) is state
    assert f"{state}" == state.value == state.name.lower()
