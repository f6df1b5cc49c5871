"""Times and spans as whole microseconds, as databases keep them that have no exact type of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def micros_of(span: timedelta) -> int:
    """A span in microseconds."""
    return span // _MICROSECOND


@lru_cache(maxsize=1024)  # the times of one batch are few
def moment(microseconds: int) -> datetime:
    """The reverse of `micros`, in UTC."""
    return _EPOCH + timedelta(0, 0, microseconds)
