"""A plot of recall against latency, as an SVG of its own: no library draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 420, 70, 50, 20, 60
COLOURS: Final = ("#1b6ca8", "#66b2e0", "#c8511b", "#f0a35e")
TICKS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


class Point(NamedTuple):
    """One setting of an index: median latency in ms, recall of 0 to 1, and the setting."""

    latency: float
    recall: float
    label: str


def svg(title: str, series: Mapping[str, Sequence[Point]]) -> str:
    """Draw each series as a line over latency (logarithmic) and recall."""
    points = [point for line in series.values() for point in line]
    floor = math.floor(min(point.recall for point in points) * 20) / 20
    low, high = (math.log(end) for end in (min(p[0] for p in points) / 1.2, max(p[0] for p in points) * 1.2))

    def x(latency: float) -> float:
        return LEFT + (math.log(latency) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(recall: float) -> float:
        return HEIGHT - BOTTOM - (recall - floor) / (1.0 - floor) * (HEIGHT - TOP - BOTTOM)

    def text(at: tuple[float, float], words: str, anchor: str = "middle", size: int = 12) -> str:
        return (
            f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}" font-size="{size}">{words}</text>'
        )

    def line(start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> str:
        ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
        return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'

    parts = [text((WIDTH / 2, 24), title, size=15)]
    for tick in (tick for tick in TICKS if low <= math.log(tick) <= high):
        parts.append(line((x(tick), TOP), (x(tick), HEIGHT - BOTTOM), "#dddddd", 1))
        parts.append(text((x(tick), HEIGHT - BOTTOM + 18), f"{tick:g}"))
    for step in range(round((1 - floor) * 20) + 1):
        recall = floor + step / 20
        parts.append(line((LEFT, y(recall)), (WIDTH - RIGHT, y(recall)), "#dddddd", 1))
        parts.append(text((LEFT - 8, y(recall) + 4), f"{recall:.2f}", "end"))
    parts.append(text((WIDTH / 2, HEIGHT - 18), "median latency in ms (logarithmic); recall@10 upwards"))
    for number, (name, settings) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        for one, other in pairwise(settings):
            parts.append(line((x(one[0]), y(one[1])), (x(other[0]), y(other[1])), colour, 2))
        for point in settings:
            place = (x(point.latency), y(point.recall))
            parts.append(f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="3.5" fill="{colour}"/>')
            parts.append(text((place[0], place[1] + 16), point.label, size=9))
        key = (WIDTH - RIGHT - 130, HEIGHT - BOTTOM - 78 + 18 * number)
        parts.append(line(key, (key[0] + 24, key[1]), colour, 2))
        parts.append(text((key[0] + 30, key[1] + 4), name, "start"))
    body = "\n".join(parts)
    box = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif">\n{ground}\n{body}\n</svg>\n'
    )
