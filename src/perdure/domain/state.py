"""The states of a job, and the table of legal moves. Both are spelled here once."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobState(StrEnum):
    """Where a job is in its life; the last four are terminal."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether a job in this state has come to its end."""
        return self in TERMINAL


UNFINISHED: Final = (JobState.PENDING, JobState.RUNNING, JobState.WAITING)
TERMINAL: Final = frozenset({JobState.COMPLETED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED})
"""The states in which a job stays until it is requeued by hand, deleted, or expires, or its worker turns out to live."""


class Event(StrEnum):
    """What can happen to a job; each entry of a job's history names one."""

    ADDED = "added"
    """it came in"""
    CLAIMED = "claimed"
    """a worker took it"""
    COMPLETED = "completed"
    """the handler ended well"""
    PARTLY_COMPLETED = "partly_completed"
    """the handler ended well but for some parts that failed for good"""
    RETRIED = "retried"
    """the handler failed and will run again after a delay"""
    FAILED = "failed"
    """the handler failed for the last time, or fatally"""
    RELEASED = "released"
    """the worker gave it back unfinished, without fault (a drain)"""
    RESCUED = "rescued"
    """its worker died; another may take it"""
    QUARANTINED = "quarantined"
    """its workers died too often"""
    REVIVED = "revived"
    """its worker was taken for dead and given up, but lives, and goes on with it"""
    ASKED = "asked"
    """the handler put a question to a human"""
    ANSWERED = "answered"
    """somebody answered"""
    DEFAULTED = "defaulted"
    """nobody answered in time: the default stands"""
    CANCELLED = "cancelled"
    """somebody called it off"""
    REQUEUED = "requeued"
    """somebody sent it round again"""
    MOVED = "moved"
    """it went on in another store; what is left here is a record of that"""
    EDITED = "edited"
    """somebody changed what may be changed by hand"""


MOVES: Final = MappingProxyType(
    {
        Event.CLAIMED: {JobState.PENDING: JobState.RUNNING},
        Event.COMPLETED: {JobState.RUNNING: JobState.COMPLETED},
        Event.PARTLY_COMPLETED: {JobState.RUNNING: JobState.PARTIAL},
        Event.RETRIED: {JobState.RUNNING: JobState.PENDING},
        Event.FAILED: {JobState.RUNNING: JobState.FAILED},
        Event.RELEASED: {JobState.RUNNING: JobState.PENDING},
        Event.RESCUED: {JobState.RUNNING: JobState.PENDING},
        Event.QUARANTINED: {JobState.RUNNING: JobState.FAILED},
        Event.REVIVED: {JobState.FAILED: JobState.RUNNING},
        Event.ASKED: {JobState.RUNNING: JobState.WAITING},
        Event.ANSWERED: {JobState.WAITING: JobState.PENDING},
        Event.DEFAULTED: {JobState.WAITING: JobState.PENDING},
        Event.CANCELLED: dict.fromkeys(UNFINISHED, JobState.CANCELLED),
        Event.REQUEUED: dict.fromkeys(
            (JobState.FAILED, JobState.PARTIAL, JobState.CANCELLED), JobState.PENDING
        ),
        Event.MOVED: dict.fromkeys((JobState.PENDING, JobState.WAITING), JobState.CANCELLED),
        Event.EDITED: {state: state for state in UNFINISHED},
    }
)
"""event → {state before: state after}. What is not in the table is illegal."""
