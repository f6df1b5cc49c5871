"""Jobs, histories and counts for people. Pure functions of what they show."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Final

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from perdure import wire
from perdure.cli.text import age, counted, duration, moment, printable
from perdure.cli.tracking import count
from perdure.domain.job import Entry, Job
from perdure.domain.log import JobEvent
from perdure.domain.query import Stats
from perdure.domain.record import Json
from perdure.domain.state import Event, JobState

_LONGEST: Final = 200
"""How many characters of a value are shown."""

_STYLES: Final[dict[str, str]] = {
    JobState.PENDING: "bright_black",
    JobState.RUNNING: "blue",
    JobState.WAITING: "yellow",
    JobState.COMPLETED: "green",
    JobState.PARTIAL: "yellow",
    JobState.FAILED: "red",
    JobState.CANCELLED: "bright_black",
    Event.PARTLY_COMPLETED: "yellow",
    Event.RETRIED: "yellow",
    Event.RESCUED: "yellow",
    Event.ASKED: "yellow",
    Event.QUARANTINED: "red",
    Event.REVIVED: "yellow",
}


def table(*titles: str, right: Collection[str] = (), wrap: Collection[str] = ()) -> Table:
    """An empty table; of its columns those in `right` hold numbers, those in `wrap` give way in a narrow terminal."""
    columns = (
        Column(
            title,
            justify="right" if title in right else "left",
            no_wrap=title not in wrap,
            overflow="fold",
        )
        for title in titles
    )
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def _coloured(name: str, padded: int = 0) -> Text:
    """A state or an event in its colour."""
    return Text(name.replace("_", " ").ljust(padded), _STYLES.get(name, ""))


def job_table(jobs: Sequence[Job], now: datetime) -> Table:
    """A row for each job."""
    titles = ("ID", "STATE", "KIND", "DOCUMENT", "AGE", "HOW IT STANDS")
    found = table(*titles, right=["AGE"], wrap=["DOCUMENT", "HOW IT STANDS"])
    for job in jobs:
        document, stands = printable(job.document_id or ""), printable(brief(job))
        found.add_row(job.id, _coloured(job.state), job.kind, document, age(job.created_at, now), stands)
    return found


def brief(job: Job) -> str:
    """How a job stands, in a few words."""
    told = wire.counts(job)
    match job.state:
        case JobState.WAITING if job.question is not None:
            return f"asks: {job.question.prompt}"
        case JobState.FAILED | JobState.PARTIAL if job.failure is not None:
            return job.failure.message
        case JobState.PENDING if job.failure is not None:
            return f"attempt {job.attempt} of {job.max_attempts} failed: {job.failure.message}"
        case JobState.COMPLETED if told.get("unchanged"):
            return "unchanged"
        case JobState.COMPLETED if told.get("superseded"):
            return "a newer version took over"
        case JobState.COMPLETED if chunks := count(job, "chunks_total"):
            return counted(chunks, "chunk")
        case JobState.RUNNING:
            return _progress(job)
        case _:
            return ""


def _progress(job: Job) -> str:
    if job.progress is None:
        return ""
    share = "" if job.progress.fraction is None else f"{job.progress.fraction:.0%}"
    stored = count(job, "chunks_stored")
    parts = (share, job.progress.message, counted(stored, "chunk") if stored else "")
    return ", ".join(part for part in parts if part)


def status_lines(job: Job, now: datetime) -> list[RenderableType]:
    """How a job stands, in short: a line, and more only where there is more to say."""
    about = (printable(part) for part in ("", job.kind, job.document_id or "", brief(job)))
    lines: list[RenderableType] = [Text.assemble(_coloured(job.state), "  ".join(about).rstrip())]
    numbers = {name: count(job, name) for name in wire.counts(job) if name.startswith("chunks_")}
    if numbers:
        lines.append("  ".join(f"{name} {number:,}" for name, number in sorted(numbers.items())))
    lines.append(f"{_runs(job)}; {_when(job, now)}")
    return lines


def _runs(job: Job) -> str:
    rescued = f", rescued {job.rescues} of at most {job.max_rescues} times" if job.rescues else ""
    return f"{job.attempt} of at most {counted(job.max_attempts, 'attempt')} ended{rescued}"


def _when(job: Job, now: datetime) -> str:
    if job.completed_at is not None:
        return f"ended {age(job.completed_at, now)} ago"
    if job.state is JobState.PENDING and job.due_at is not None and job.due_at > now:
        return f"to run in {duration(job.due_at - now)}"
    return f"last change {age(job.updated_at, now)} ago"


def watch_line(job: Job) -> Text:
    """How a job stands now, for a list that grows with each change."""
    state = _coloured(job.state, padded=len("completed"))
    return Text.assemble(f"{moment(job.updated_at)}  ", state, f"  {printable(brief(job))}")


def job_lines(job: Job, history: Sequence[Entry], now: datetime) -> list[RenderableType]:
    """All about a job."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, value in _facts(job, now):
        facts.add_row(Text(name, "bold"), Text(printable(value)) if isinstance(value, str) else value)
    detail = job.failure.detail if job.failure else ""
    told = ["", *(f"  {printable(row)}" for row in detail.splitlines())] if detail else []
    return [facts, *told, "", Text("history", "bold"), history_table(history)]


def _facts(job: Job, now: datetime) -> Iterator[tuple[str, str | Text]]:
    yield "job", job.id
    yield "state", _coloured(job.state)
    yield "kind", job.kind
    for name, text in (("document", job.document_id), ("user", job.user_id)):
        if text:
            yield name, text
    yield "added", f"{moment(job.created_at)} ({age(job.created_at, now)} ago)"
    if job.started_at is not None:
        yield "started", moment(job.started_at)
    if job.completed_at is not None:
        took = f" after {duration(job.completed_at - job.started_at)}" if job.started_at else ""
        yield "ended", f"{moment(job.completed_at)}{took}"
    yield "runs", _runs(job)
    for name, text in (("worker", job.worker), ("progress", _progress(job))):
        if text:
            yield name, text
    for question in job.questions:
        given = "no answer yet" if question.answered_at is None else json.dumps(question.answer)
        choices = f" ({' / '.join(question.choices)})" if question.choices else ""
        yield "question", f"{question.prompt}{choices}: {given}"
    if job.failure is not None:
        yield "failure", Text(printable(f"{job.failure.type}: {job.failure.message}"), "red")
    if job.expires_at is not None:
        yield "expires", moment(job.expires_at)
    for name, value in (
        ("labels", dict[str, Json](job.labels)),
        ("payload", job.payload),
        ("result", job.result),
    ):
        yield from _block(name, value)


def _block(name: str, value: Json) -> Iterator[tuple[str, str]]:
    """An object as a row for each key, another value in one; long ones are clipped: `--json` gives the whole."""
    if isinstance(value, dict):
        for index, (key, item) in enumerate(value.items()):
            yield "" if index else name, f"{key}: {_clipped(item)}"
    elif value:
        yield name, _clipped(value)


def _said(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _clipped(value: Json) -> str:
    text = _said(value)
    return text if len(text) < _LONGEST else f"{text[: _LONGEST - 2]}…"


def history_table(history: Sequence[Entry]) -> Table:
    """A row for each entry: when, what, and what there is to know about it."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    for entry in history:
        rows.add_row("", moment(entry.at), _coloured(entry.event), printable(_story(entry)))
    return rows


def event_line(event: JobEvent) -> Text:
    """One thing that happened to a job: when, to which, what."""
    entry = event.entry
    return Text.assemble(
        f"{moment(entry.at)}  {event.job_id}  {event.kind}  ",
        _coloured(entry.event, 9),
        f"  {printable(_story(entry))}",
    )


def _story(entry: Entry) -> str:
    """What happened, in a few words; an event without an own story tells its details as they are."""
    detail = entry.detail
    ran = f" after {duration(entry.at - entry.started_at)}" if entry.started_at else ""
    match entry.event:
        case Event.ADDED:
            return f"by {entry.actor}" if entry.actor else ""
        case Event.CLAIMED:
            return f"by {entry.actor}" + (f" (epoch {entry.epoch})" if entry.epoch else "")
        case Event.COMPLETED:
            return f"by {entry.actor}{ran}"
        case Event.RESCUED | Event.QUARANTINED:
            return (
                f"its worker {detail.get('worker')} died{ran}; rescue {entry.rescues}, found by {entry.actor}"
            )
        case Event.RETRIED | Event.FAILED | Event.PARTLY_COMPLETED:
            again = f"; again in {duration(delay)}" if isinstance(delay := detail.get("delay"), float) else ""
            return f"{detail.get('error', '')} {detail.get('message', '')} (by {entry.actor}{ran}){again}".strip()
        case _:
            told = "; ".join(f"{name}: {_said(value)}" for name, value in detail.items())
            return f"by {entry.actor}{ran}{'; ' if told else ''}{told}"


def stats_table(stats: Stats) -> RenderableType:
    """Counts by kind and state; states that occur nowhere are left out."""
    states = [state for state, number in stats.by_state.items() if number]
    if not states:
        return "no jobs"
    titles = [*(state.upper() for state in states), "TOTAL"]
    rows = dict(sorted(stats.counts.items()))
    if len(rows) > 1:
        rows["all"] = stats.by_state
    found = table("KIND", *titles, right=titles)
    for kind, counts in rows.items():
        found.add_row(kind, *(f"{counts.get(state, 0):,}" for state in states), f"{sum(counts.values()):,}")
    return found
