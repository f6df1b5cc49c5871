"""Transitions: each one update of one document, its guard in the filter, its history entry in the same step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pymongo import UpdateOne

from perdure.domain.state import JobState
from perdure.domain.transition import Transition
from perdure.stores.mongodb.claiming import Jobs
from perdure.stores.mongodb.documents import Document, edit_fields, entry_document, run_fields

HISTORY_KEPT: Final = 1000
"""Entries of one job; the oldest go first, so that a job that goes round for years never outgrows its document."""

_SEEN: Final = {"status": 1, "epoch": 1, "history.id": 1}


async def apply(jobs: Jobs, moves: Sequence[Transition]) -> list[bool]:
    """Write each transition whose guard holds; for each whether it stands."""
    result = await jobs.bulk_write([_operation(move) for move in moves], ordered=True)
    if result.matched_count == len(moves):
        return [True] * len(moves)
    found = jobs.find({"_id": {"$in": [move.after.id for move in moves]}}, _SEEN)
    return _outcomes(moves, {job["_id"]: job async for job in found})


def _operation(move: Transition) -> UpdateOne:
    if move.version is None:
        guard = {"status": JobState.RUNNING.value, "epoch": move.epoch}
        fields = run_fields(move.after)
    else:
        guard = {"version": move.version}
        fields = {**run_fields(move.after, move.before), **edit_fields(move.after)}
    update: Document = {"$set": fields, "$inc": {"version": 1}}
    if move.entry is not None:
        update["$push"] = {"history": {"$each": [entry_document(move.entry)], "$slice": -HISTORY_KEPT}}
    return UpdateOne({"_id": move.after.id, **guard}, update)


def _outcomes(moves: Sequence[Transition], found: Mapping[str, Document]) -> list[bool]:
    """Which of them stand, told by the documents after the writes: a bulk only tells how many.

    An entry is in the history, or it is not. A report without one stands where its run goes on (it held the job before,
    too), or where something stands that the same run said after it.
    """
    outcomes: list[bool] = []
    heard: set[tuple[str, int | None]] = set()
    for move in reversed(moves):
        job, run = found.get(move.after.id), (move.after.id, move.epoch)
        if job is None:
            stands = False
        elif move.entry is not None:
            stands = any(entry["id"] == move.entry.id for entry in job["history"])
        else:
            stands = run in heard or (job["status"], job["epoch"]) == (JobState.RUNNING, move.epoch)
        if stands and move.epoch is not None:
            heard.add(run)
        outcomes.append(stands)
    return outcomes[::-1]
