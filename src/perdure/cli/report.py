"""What `perdure ingest` says in the end, for people and for programs. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.text import Text

from perdure import wire
from perdure.cli.files import FileSearch, Found
from perdure.cli.text import counted, duration
from perdure.cli.tracking import Tally, Tracker, count, was_unchanged
from perdure.domain.job import Job
from perdure.domain.state import JobState

_STYLES = {"completed": "green", "partial": "yellow", "failed": "red", "rejected": "red"}


def summary(tally: Tally, rejected: int, seconds: float) -> Text:
    """One line, e.g. `482 documents in 12 s: 480 completed (12 unchanged), 2 failed; 7,512 chunks, 7,000 newly embedded`."""
    numbers = {
        **{state.value: tally.states[state] for state in JobState if state.terminal},
        "deleted meanwhile": tally.gone,
        "not finished": tally.total - tally.done,
        "rejected": rejected,
    }
    said = [Text(f"{number:,} {name}", _STYLES.get(name, "")) for name, number in numbers.items() if number]
    if tally.unchanged:
        said[0] = Text.assemble(said[0], f" ({tally.unchanged:,} unchanged)")
    return Text.assemble(
        f"{counted(tally.total + rejected, 'document')} in {duration(seconds)}: ",
        Text(", ").join(said),
        f"; {counted(tally.chunks, 'chunk')}, {tally.embedded:,} newly embedded",
    )


def failures(jobs: Mapping[str, Job], files: Mapping[str, Found]) -> Iterator[str]:
    """A line for each document that did not make it whole: which, how it ended, and why."""
    for job_id, job in jobs.items():
        if job.finished and job.state is not JobState.COMPLETED:
            file = files[job_id]
            # The message of the worker names the file too.
            reason = job.failure.message.removeprefix(f"{file.path.name}: ") if job.failure else "called off"
            yield f"{file.document_id}: {job.state}: {reason}"


def interruption(tally: Tally, not_added: int) -> str:
    """What is left after Ctrl-C, and how it goes on."""
    left = tally.total - tally.done
    queued = (
        f"{counted(left, 'document')} not finished, safe in the store: 'perdure worker' goes on with them"
    )
    rest = f"{not_added:,} not added yet: the same command adds them"
    return "stopped; " + "; ".join(part for part, number in ((queued, left), (rest, not_added)) if number)


def document(
    tracker: Tracker, files: Mapping[str, Found], found: FileSearch, seconds: float
) -> dict[str, Any]:
    """All of it, as JSON; `files`: job id → its file."""
    tally = tracker.tally()
    return {
        "counts": {
            "documents": tally.total + len(found.problems),
            **{state.value: tally.states[state] for state in JobState if state.terminal},
            "unchanged": tally.unchanged,
            "unfinished": tally.total - tally.done,
            "rejected": len(found.problems),
        },
        "chunks": {"total": tally.chunks, "embedded": tally.embedded},
        "seconds": round(seconds, 3),
        "documents": [_line(job, files[job_id]) for job_id, job in tracker.jobs.items()],
        "rejected": [asdict(problem) for problem in found.problems],
        "passed_over": vars(found.passed_over),
    }


def _line(job: Job, file: Found) -> dict[str, Any]:
    return {
        "document_id": file.document_id,
        "path": str(file.path),
        "job_id": job.id,
        "status": job.state,
        "unchanged": was_unchanged(job),
        "chunks": count(job, "chunks_total"),
        "error": wire.JobLine.of(job).failure,
    }
