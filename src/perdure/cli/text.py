"""Plain text for terminals and pipes: safe characters, times, numbers. Pure functions."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

# Controls could move the cursor or rewrite what the reader sees: C0, C1, and the marks that turn the writing direction.
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without anything that could steer a terminal: documents and file names come from anywhere."""
    return _CONTROLS.sub(lambda found: " " if found[0].isspace() else "\ufffd", text)


def duration(length: timedelta | float) -> str:
    """How long, for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`, `4 d 3 h`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def age(then: datetime, now: datetime) -> str:
    """How long ago, in one unit: `5 s`, `3 min`, `2 h`, `4 d`."""
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def moment(then: datetime) -> str:
    """A time on the reader's own clock, to the second."""
    return then.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 file`, `2,000 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
