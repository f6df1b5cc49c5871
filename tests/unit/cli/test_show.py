from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from perdure.cli import show
from perdure.cli.output import rendered
from perdure.domain import transition
from perdure.domain.job import Failure, Job, Progress, Question
from perdure.domain.query import Stats
from perdure.domain.state import JobState
from perdure.domain.timeline import timeline
from perdure.testing.builders import make_job, make_stamp

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
BOOM = Failure(type="Boom", message="it broke; mend it")


def vectorize(**over: object) -> Job:
    return make_job(NOW - timedelta(minutes=3), kind="vectorize", document_id="a.md", **over)


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({}, ""),
        ({"state": JobState.COMPLETED, "result": {"chunks_total": 12}}, "12 chunks"),
        ({"state": JobState.COMPLETED, "result": {"chunks_total": 12, "unchanged": True}}, "unchanged"),
        ({"state": JobState.COMPLETED, "result": {"superseded": True}}, "a newer version took over"),
        ({"state": JobState.COMPLETED, "result": "a text"}, ""),
        ({"state": JobState.FAILED, "failure": BOOM}, "it broke; mend it"),
        ({"state": JobState.PARTIAL, "failure": BOOM}, "it broke; mend it"),
        ({"failure": BOOM, "attempt": 1}, "attempt 1 of 3 failed: it broke; mend it"),
        ({"state": JobState.RUNNING}, ""),
        (
            {
                "state": JobState.RUNNING,
                "progress": Progress(fraction=0.4, message="embedding", counts={"chunks_stored": 1}),
            },
            "40%, embedding, 1 chunk",
        ),
        (
            {
                "state": JobState.WAITING,
                "questions": (Question(key="q", prompt="Publish it?", asked_at=NOW),),
            },
            "asks: Publish it?",
        ),
    ],
)
def test_how_a_job_stands(over: dict[str, object], expected: str) -> None:
    assert show.brief(vectorize(**over)) == expected


def test_a_list_has_a_line_for_each_job() -> None:
    job = vectorize(state=JobState.FAILED, failure=BOOM)
    header, line = rendered([show.job_table([job], NOW)])
    assert header.split() == ["ID", "STATE", "KIND", "DOCUMENT", "AGE", "HOW", "IT", "STANDS"]
    assert line.split() == [job.id, "failed", "vectorize", "a.md", "3", "min", *BOOM.message.split()]


def test_a_list_fits_the_terminal() -> None:
    job = vectorize(state=JobState.FAILED, failure=replace(BOOM, message="long " * 50))
    assert all(len(line) <= 100 for line in rendered([show.job_table([job], NOW)], 100))


def test_the_status_says_what_matters_in_a_few_lines() -> None:
    job = vectorize(state=JobState.RUNNING, attempt=1, max_attempts=5, rescues=2)
    job = replace(job, progress=Progress(fraction=0.5, counts={"chunks_total": 9, "chunks_stored": 4}))
    assert rendered(show.status_lines(job, NOW)) == [
        "running  vectorize  a.md  50%, 4 chunks",
        "chunks_stored 4  chunks_total 9",
        "1 of at most 5 attempts ended, rescued 2 of at most 3 times; last change 3 min ago",
    ]


def test_a_delayed_job_says_when_it_runs() -> None:
    job = vectorize(due_at=NOW + 12 * SECOND)
    assert rendered(show.status_lines(job, NOW))[-1].endswith("to run in 12 s")


def test_a_rescued_job_tells_its_story() -> None:
    lease = 30 * SECOND
    claimed = transition.claim(vectorize(), "host:1", lease, NOW)
    rescue = transition.rescue(claimed, make_stamp(NOW + lease, "host:2"))
    again = transition.claim(rescue.after, "host:2", lease, NOW + lease)
    done = transition.complete(again, {"chunks_total": 3}, make_stamp(NOW + lease + SECOND, "host:2"))
    assert rescue.entry is not None
    assert done.entry is not None
    lines = rendered([show.history_table(timeline(done.after, [rescue.entry, done.entry]))])
    told = [line.split(maxsplit=2)[2] for line in lines]
    assert told == [
        "added",
        "rescued    its worker host:1 died after 30 s; rescue 1, found by host:2",
        "completed  by host:2 after 1.0 s",
    ]


def test_a_failing_job_tells_why_and_when_it_goes_on() -> None:
    claimed = transition.claim(vectorize(), "w", 30 * SECOND, NOW)
    retry = transition.fail(claimed, BOOM, 4 * SECOND, make_stamp(NOW + SECOND, "w"))
    assert retry.entry is not None
    (line,) = rendered([show.history_table([retry.entry])])
    assert line.endswith("Boom it broke; mend it (by w after 1.0 s); again in 4.0 s")


def test_all_about_a_job_holds_nothing_that_steers_the_terminal() -> None:
    evil = "\x1b]0;owned\x07"
    job = vectorize(
        state=JobState.FAILED,
        failure=Failure(type="T", message=evil, detail=f"line 1\n{evil}"),
        user_id=evil,
        labels={evil: evil},
        payload={"a": evil},
        questions=(Question(key="q", prompt=evil, asked_at=NOW, choices=(evil,)),),
    )
    everything = "\n".join(rendered(show.job_lines(job, timeline(job, []), NOW)))
    assert "\x1b]" not in everything
    assert "\x07" not in everything
    assert "line 1" in everything


def test_the_record_of_a_job_says_how_long_it_took() -> None:
    job = vectorize(state=JobState.COMPLETED, started_at=NOW, completed_at=NOW + 2 * SECOND)
    lines = rendered(show.job_lines(job, [], NOW + 60 * SECOND))
    assert any(line.startswith("ended") and line.endswith("after 2.0 s") for line in lines)


def test_counts_by_kind_and_state() -> None:
    stats = Stats(
        counts={"vectorize": {JobState.FAILED: 1, JobState.COMPLETED: 1200}, "mail": {JobState.PENDING: 2}}
    )
    assert [line.split() for line in rendered([show.stats_table(stats)])] == [
        ["KIND", "PENDING", "COMPLETED", "FAILED", "TOTAL"],
        ["mail", "2", "0", "0", "2"],
        ["vectorize", "0", "1,200", "1", "1,201"],
        ["all", "2", "1,200", "1", "1,203"],
    ]
    assert show.stats_table(Stats(counts={})) == "no jobs"
