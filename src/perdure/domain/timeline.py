"""The whole story of a job, told from what the store keeps."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.domain.job import Entry, Job
from perdure.domain.state import Event, JobState


def timeline(job: Job, entries: Sequence[Entry]) -> list[Entry]:
    """Complete the stored entries by what the job itself tells: that it came in, and the run under way.

    Stores keep one entry for each ended run or outside action; the two others would double the writes
    of the hot path, and say nothing that the job does not.
    """
    whole = [came(job), *entries]
    if job.state is JobState.RUNNING and job.started_at is not None:
        whole.append(
            Entry(
                id=f"{job.id}/{job.epoch}",
                event=Event.CLAIMED,
                at=job.started_at,
                state=JobState.RUNNING,
                actor=job.worker or "",
                epoch=job.epoch,
                attempt=job.attempt,
                rescues=job.rescues,
                started_at=job.started_at,
            )
        )
    return whole


def story(job: Job, entries: Sequence[Entry]) -> list[Entry]:
    """The timeline with the beginning of each run, each entry under an id that never changes."""
    whole: dict[str, Entry] = {}
    for entry in timeline(job, entries):
        if entry.started_at is not None and entry.event is not Event.CLAIMED:
            whole.setdefault(f"{job.id}/{entry.epoch}", claimed(job.id, entry))
        whole.setdefault(entry.id, entry)
    return list(whole.values())


def came(job: Job) -> Entry:
    """That the job came in."""
    return Entry(
        id=job.id,
        event=Event.ADDED,
        at=job.created_at,
        state=JobState.PENDING,
        actor=job.created_by or "",
        epoch=0,
        attempt=0,
        rescues=0,
    )


def claimed(job_id: str, end: Entry) -> Entry:
    """That the run began which `end` ended. Its worker is not known where somebody else ended it."""
    return Entry(
        id=f"{job_id}/{end.epoch}",
        event=Event.CLAIMED,
        at=end.started_at or end.at,
        state=JobState.RUNNING,
        actor=str(end.detail.get("worker") or end.actor),
        epoch=end.epoch,
        attempt=max(0, end.attempt - 1) if end.event in _COUNTED else end.attempt,
        rescues=max(0, end.rescues - 1) if end.event in _RESCUED else end.rescues,
        started_at=end.started_at,
    )


_COUNTED = frozenset({Event.COMPLETED, Event.PARTLY_COMPLETED, Event.FAILED, Event.RETRIED})
_RESCUED = frozenset({Event.RESCUED, Event.QUARANTINED})
