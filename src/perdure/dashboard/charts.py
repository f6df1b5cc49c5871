"""Where the lines and bars of the charts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from perdure.telemetry.recent import Minute

WIDTH, HEIGHT = 600, 120
STEP: Final = WIDTH // 60


class Bar(NamedTuple):
    """A minute: how high its bar is, and which part of that failed."""

    x: int
    height: float
    failed: float


class Chart(NamedTuple):
    """What is drawn.

    Attributes:
        peak: what the full height stands for. lines: points of each.
    """

    peak: float
    bars: tuple[Bar, ...] = ()
    lines: tuple[str, ...] = ()


def throughput(minutes: Sequence[Minute]) -> Chart:
    """Jobs that ended in each minute."""
    peak = max(minute.ended for minute in minutes)
    scale = HEIGHT / (peak or 1)
    bars = [
        Bar(place * STEP, minute.ended * scale, minute.failed * scale) for place, minute in enumerate(minutes)
    ]
    return Chart(peak, bars=tuple(bars))


def latency(minutes: Sequence[Minute]) -> Chart:
    """How long half, and 95%, of the runs took at most."""
    lines = [
        [
            (place, seconds)
            for place, minute in enumerate(minutes)
            if (seconds := minute.quantile(part)) is not None
        ]
        for part in (0.5, 0.95)
    ]
    peak = max((seconds for line in lines for _, seconds in line), default=0.0)
    scale = HEIGHT / (peak or 1)
    drawn = [
        " ".join(_step(place * STEP, HEIGHT - seconds * scale) for place, seconds in line) for line in lines
    ]
    return Chart(peak, lines=tuple(drawn))


def _step(x: int, y: float) -> str:
    return f"{x},{y:.1f} {x + STEP - 2},{y:.1f}"
