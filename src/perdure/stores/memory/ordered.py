"""Lists that are kept sorted: by id, or by time."""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime
from typing import TypeAlias, TypeVar

from perdure.domain.job import Job

Due: TypeAlias = tuple[datetime, str]
"""(due_at, job id): what claims, leases and expiry are ordered by."""

Item = TypeVar("Item", str, Due, tuple[datetime, str, Job])


def until(times: list[Due], now: datetime, limit: int) -> list[str]:
    """The first ids whose time lies before now."""
    return [job_id for due_at, job_id in times[:limit] if due_at < now]


def discard(ordered: list[Item], item: Item) -> bool:
    """Take the item out of a sorted list, if it is there."""
    place = bisect_left(ordered, item)
    found = place < len(ordered) and ordered[place] == item
    if found:
        del ordered[place]
    return found
