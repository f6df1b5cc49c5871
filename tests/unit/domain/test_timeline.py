"""A job's story: its coming in, the stored entries, and the run under way."""

from __future__ import annotations

from perdure.domain import transition
from perdure.domain.state import Event, JobState
from perdure.domain.timeline import timeline
from tests.unit.domain.samples import BORN, EXAMPLES, STAMP, job_in


def test_a_story_begins_with_the_jobs_coming_in() -> None:
    [added] = timeline(job_in(JobState.PENDING, created_by="ann"), [])
    assert (added.event, added.at, added.actor, added.state) == (
        Event.ADDED,
        BORN,
        "ann",
        JobState.PENDING,
    )
    assert (added.epoch, added.attempt, added.rescues) == (0, 0, 0)


def test_the_run_under_way_is_its_last_line() -> None:
    running = job_in(JobState.RUNNING)
    edited = transition.edit(running, STAMP, priority=3)
    assert edited.entry is not None
    story = timeline(running, [edited.entry])
    assert [line.event for line in story] == [Event.ADDED, Event.EDITED, Event.CLAIMED]
    assert (story[-1].actor, story[-1].at, story[-1].epoch) == ("worker-1", running.started_at, running.epoch)


def test_every_line_has_an_id_of_its_own() -> None:
    for job in EXAMPLES:
        story = timeline(job, [])
        assert len({line.id for line in story}) == len(story) == 1 + (job.state is JobState.RUNNING)
