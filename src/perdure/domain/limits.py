"""How much of a provider may be used in any length of time, and how much was.

What was used is counted by slices of time, `SLICES` to a window. A slice counts until a whole window has passed since its end and
`SPARE` slices more: so no window holds more than its limit, wherever it begins, even where a process acts a little later than it
was allowed to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import Final, Literal, NamedTuple

import msgspec

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record

SLICES: Final = 200
SPARE: Final = 4
BURST: Final = 8
"""An eighth of a limit, at most, goes in a tenth of its window: else all would go at once, and then nothing for long."""
_LIMIT: Final = re.compile(r"(\d+)([rt])p(\d*)([smhd])")
_WINDOWS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Cost(NamedTuple):
    """What calls take; below zero, what they give back."""

    requests: int
    tokens: int


class Move(NamedTuple):
    """A cost, and when: seconds of the store's clock."""

    at: float
    cost: Cost


class Limit(Record):
    """At most `count` of something in any `seconds`."""

    what: Literal["requests", "tokens"]
    count: int
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds <= 0:
            raise InvalidInput(f"{self} is no limit; expected 1 or more, and a time of more than 0 s")

    def __str__(self) -> str:
        return f"{self.count:,} {self.what} in {self.seconds:g} s"

    @property
    def key(self) -> str:
        """Names what is counted, whatever the limit is: workers that were told another one still see it."""
        return f"{self.what}/{self.seconds:g}"

    def place(self, at: float) -> int:
        """The slice of a moment."""
        return int(at * SLICES / self.seconds)

    def windows(self) -> Iterator[tuple[int, int]]:
        """How much may be used in how many slices."""
        yield self.count, SLICES + SPARE
        yield ceil(self.count / BURST), SLICES // 10 + SPARE


class Book(Record):
    """What was used: for each limit's `key`, how much in which slice.

    Attributes:
        last: names the write that made it, so that its writer knows it again.
    """

    used: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)
    last: str = ""

    def time(self, limits: Sequence[Limit], now: float) -> float:
        """The latest time that is known: some processes read the clock a little late. (One far ahead was wrong.)"""
        told = (place * limit.seconds / SLICES for limit in limits for place in self.used.get(limit.key, {}))
        longest = max((limit.seconds for limit in limits), default=0.0)
        return max((at for at in told if now < at < now + longest), default=now)

    def noted(self, limits: Iterable[Limit], moves: Iterable[Move], now: float, last: str) -> Book:
        """Give the book with these moves, and without what counts no more."""
        moves, used = tuple(moves), {}
        for limit in limits:
            slices = dict(self.used.get(limit.key, {}))
            for at, cost in moves:
                place = limit.place(at)
                slices[place] = max(0, slices.get(place, 0) + getattr(cost, limit.what))
            used[limit.key] = {
                place: count
                for place, count in slices.items()
                if count and abs(limit.place(now) - place) < SLICES + SPARE
            }
        return Book(used=used, last=last)

    def calls(self, limits: Iterable[Limit], each: Cost, most: int, now: float) -> int:
        """How many calls, up to `most`, may be made now. One that is larger than a limit may be made alone."""
        for limit, one, allowed, length in _bounds(limits, each):
            left = allowed - sum(count for _, count in self._live(limit, length, now))
            if left < min(one, allowed):
                return 0
            most = min(most, max(1, left // one))
        return most

    def wait(self, limits: Iterable[Limit], each: Cost, now: float) -> float:
        """Seconds until one call may be made."""
        until = now
        for limit, one, allowed, length in _bounds(limits, each):
            live = sorted(self._live(limit, length, now))
            excess = sum(count for _, count in live) + min(one, allowed) - allowed
            for place, count in live:
                if excess <= 0:
                    break
                excess -= count
                until = max(until, (place + length) * limit.seconds / SLICES)
        return until - now

    def _live(self, limit: Limit, length: int, now: float) -> Iterator[tuple[int, int]]:
        newest = limit.place(now)
        return (use for use in self.used.get(limit.key, {}).items() if use[0] > newest - length)


def _bounds(limits: Iterable[Limit], each: Cost) -> Iterator[tuple[Limit, int, int, int]]:
    for limit in limits:
        if one := getattr(each, limit.what):
            for allowed, length in limit.windows():
                yield limit, one, allowed, length


def parse_limits(text: str, what: str) -> dict[str, tuple[Limit, ...]]:
    """Read limits, e.g. ``openai=600rpm,1000000tpm; ollama=5rps``: `r`equests or `t`okens per `s`, `m`, `h` or `d`
    (``rp10s``: in ten seconds).

    Args:
        what: names the setting, for errors.

    Raises:
        InvalidInput: it cannot be read.
    """
    found: dict[str, tuple[Limit, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, told = part.partition("=")
        read = [_LIMIT.fullmatch(limit.strip()) for limit in told.split(",")]
        if not name.strip() or not all(read):
            raise InvalidInput(
                f"{what} says {part!r}; expected NAME=LIMIT,LIMIT; … with limits as 600rpm, 1000000tpm, 10rps or 5000rpd"
            )
        found[name.strip()] = tuple(
            Limit(
                what="requests" if match[2] == "r" else "tokens",
                count=int(match[1]),
                seconds=int(match[3] or 1) * _WINDOWS[match[4]],
            )
            for match in read
            if match
        )
    return found
