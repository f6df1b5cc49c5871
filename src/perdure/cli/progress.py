"""How a batch comes along: a bar on a terminal, a line now and then elsewhere. All of it on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from perdure.cli.output import say
from perdure.cli.text import counted, duration
from perdure.cli.tracking import Tally

Show = Callable[[Tally], None]

_EVERY: Final = 5.0
"""Seconds between two plain lines."""
_SPAN: Final = 30.0
"""Seconds over which the pace is measured."""


@contextmanager
def shown(*, quiet: bool) -> Iterator[Show]:
    """Give what shows a tally; the display is cleared away in the end.

    Args:
        quiet: say nothing where stderr is no terminal.
    """
    if sys.stderr.isatty():
        with _bar() as show:
            yield show
    elif quiet:
        yield lambda _tally: None
    else:
        yield plain_lines(say, time.monotonic)


@contextmanager
def counter(what: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Give what shows a growing number of things, e.g. `jobs looked at`, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _number: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda number: progress.update(task, completed=number)


class Pace:
    """How fast a batch comes along, measured over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, float]] = deque()

    def facts(self, tally: Tally, now: float, *, left: bool = False) -> str:
        """Where the batch stands, e.g. `120 of 500 documents, 1,920 chunks, 64.2 chunks/s`; with the time `left`."""
        self._seen.append((now, tally.chunks, tally.fraction))
        while now - self._seen[0][0] > _SPAN:
            self._seen.popleft()
        since, chunks, fraction = self._seen[0]
        told = f"{tally.done:,} of {counted(tally.total, 'document')}, {counted(tally.chunks, 'chunk')}"
        if now - since >= 1 and tally.chunks > chunks:
            told += f", {(tally.chunks - chunks) / (now - since):,.1f} chunks/s"
        if left and now - since >= 1 and tally.fraction > fraction:
            told += f", {duration((1 - tally.fraction) * (now - since) / (tally.fraction - fraction))} left"
        return told


def plain_lines(speak: Callable[[str], None], clock: Callable[[], float]) -> Show:
    """Say where a batch stands, at most every few seconds, and only if something moved."""
    pace, said_at, said = Pace(), clock(), (-1, -1)

    def show(tally: Tally) -> None:
        nonlocal said_at, said
        now, stands = clock(), (tally.done, tally.chunks)
        line = pace.facts(tally, now, left=True)
        said = stands if said == (-1, -1) else said
        if now - said_at >= _EVERY and stands != said and tally.done < tally.total:
            speak(line)
            said_at, said = now, stands

    return show


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    pace = Pace()
    # Transient: the summary that follows says all that counts. Log lines come above the bar.
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("looking for documents", total=None)
        yield lambda tally: progress.update(
            task, total=1.0, completed=tally.fraction, description=pace.facts(tally, time.monotonic())
        )
