from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from perdure.cli import report
from perdure.cli.files import FileSearch, Found, PassedOver, Problem
from perdure.cli.progress import Pace, plain_lines
from perdure.cli.tracking import Tally, Tracker
from perdure.domain.job import Failure, Job
from perdure.domain.state import JobState
from perdure.testing.builders import make_job

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def tally(**over: object) -> Tally:
    states = Counter({JobState.COMPLETED: 8, JobState.PARTIAL: 1, JobState.FAILED: 1})
    fields = {"total": 12, "done": 10, "states": states, "unchanged": 3, "chunks": 1500, "embedded": 1200}
    return Tally(**{**fields, **over})  # type: ignore[arg-type]  # fields of one's own choice


def test_the_summary_names_every_outcome_there_was() -> None:
    assert report.summary(tally(), rejected=2, seconds=12.34).plain == (
        "14 documents in 12 s: 8 completed (3 unchanged), 1 partial, 1 failed, 2 not finished, 2 rejected; "
        "1,500 chunks, 1,200 newly embedded"
    )


def test_the_summary_says_no_more_than_there_is() -> None:
    whole = Tally(total=1, done=1, states=Counter({JobState.COMPLETED: 1}), chunks=4, embedded=4)
    assert report.summary(whole, rejected=0, seconds=0.4).plain == (
        "1 document in 0.4 s: 1 completed; 4 chunks, 4 newly embedded"
    )


def test_an_interruption_says_what_is_left_and_how_it_goes_on() -> None:
    assert report.interruption(tally(), not_added=7) == (
        "stopped; 2 documents not finished, safe in the store: 'perdure worker' goes on with them; "
        "7 not added yet: the same command adds them"
    )
    assert "not added" not in report.interruption(tally(), not_added=0)


def failed(reason: str | None) -> Job:
    failure = None if reason is None else Failure(type="DocumentEmpty", message=reason)
    state = JobState.CANCELLED if reason is None else JobState.FAILED
    return make_job(NOW, kind="vectorize", state=state, failure=failure)


def test_each_failed_document_has_a_line_with_its_reason() -> None:
    jobs = [
        failed("0.txt: it is empty; write something"),
        failed(None),
        make_job(NOW, state=JobState.COMPLETED),
    ]
    files = {job.id: Found(Path(f"/d/{n}.txt"), f"{n}.txt", 1) for n, job in enumerate(jobs)}
    assert list(report.failures({job.id: job for job in jobs}, files)) == [
        "0.txt: failed: it is empty; write something",
        "1.txt: cancelled: called off",
    ]


async def test_the_json_document_holds_it_all() -> None:
    job = failed("it is empty")
    files = {job.id: Found(Path("/d/a.txt"), "a.txt", 1)}

    async def get(_job_id: str) -> Job:
        return job

    tracker = Tracker([job], {})
    await tracker.look(get)
    search = FileSearch(
        suffixes=[], problems=[Problem("b.txt", "gone")], passed_over=PassedOver(Counter({".png": 2}))
    )
    document = report.document(tracker, files, search, 1.23456)
    assert msgspec.to_builtins(document) == {
        "counts": {
            "documents": 2,
            "completed": 0,
            "partial": 0,
            "failed": 1,
            "cancelled": 0,
            "unchanged": 0,
            "unfinished": 0,
            "rejected": 1,
        },
        "chunks": {"total": 0, "embedded": 0},
        "seconds": 1.235,
        "documents": [
            {
                "document_id": "a.txt",
                "path": "/d/a.txt",
                "job_id": job.id,
                "status": "failed",
                "unchanged": False,
                "chunks": 0,
                "error": {"type": "DocumentEmpty", "message": "it is empty", "fatal": False},
            }
        ],
        "rejected": [{"path": "b.txt", "message": "gone"}],
        "passed_over": {"unknown": {".png": 2}, "hidden": 0, "outside": 0, "special": 0, "folders": 0},
    }


def test_progress_tells_what_is_done() -> None:
    pace = Pace()
    assert pace.facts(tally(), 0) == "10 of 12 documents, 1,500 chunks"
    assert Pace().facts(Tally(total=1), 0) == "0 of 1 document, 0 chunks"
    faster = tally(chunks=1700, fraction=0.5)
    told = pace.facts(faster, 10, left=True)
    assert told == "10 of 12 documents, 1,700 chunks, 20.0 chunks/s, 10 s left"
    assert "left" not in pace.facts(faster, 100, left=True), "what was long ago tells nothing of now"


def test_plain_lines_come_now_and_then_and_only_when_something_moved() -> None:
    said: list[str] = []
    clock = iter([0.0, 1.0, 6.0, 20.0, 21.0, 30.0])
    lines = plain_lines(said.append, lambda: next(clock))
    for done in (1, 2, 2, 3, 12):
        lines(tally(done=done))
    assert [line.partition(" of")[0] for line in said] == ["2", "3"]
