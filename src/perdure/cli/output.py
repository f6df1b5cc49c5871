"""What is written: data to stdout, as JSON for programs or lines for people; anything else to stderr, a line each."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import click

from perdure.cli.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDE: Final = 100_000
"""Columns of a pipe: nothing is wrapped there."""


def say(line: str) -> None:
    """Say one line on stderr."""
    click.echo(f"perdure: {printable(line)}", err=True)


def write_json(value: Any, *, indent: bool) -> None:
    """Write one JSON document, or, not indented, one line of NDJSON, at once: somebody may be waiting for it."""
    import msgspec

    encoded = msgspec.json.encode(value)
    # Bytes: JSON is UTF-8 whatever the locale says.
    sys.stdout.buffer.write((msgspec.json.format(encoded, indent=2) if indent else encoded) + b"\n")
    sys.stdout.flush()


def write(parts: Iterable[RenderableType]) -> None:
    """Write for people: as wide as the terminal, with colours where it shows them."""
    for line in rendered(parts, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        click.echo(line)


def rendered(parts: Iterable[RenderableType], columns: int | None = None) -> list[str]:
    """The lines that are written in so many columns; None: in a pipe."""
    from rich.console import Console

    console = Console(width=columns or _WIDE, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return [line.rstrip() for line in captured.get().splitlines()]


class _Lines(logging.Handler):
    """Log records as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class _Objects(_Lines):
    """Log records as JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def show_log(level: int = logging.WARNING, form: str = "%(message)s", *, style: str = "text") -> None:
    """Let Perdure's log records of this level and above be said. A second call replaces the first.

    Args:
        style: as the setting `log`; of JSON the form says nothing.
    """
    logger = logging.getLogger("perdure")
    if style == "json":
        from perdure.telemetry.logs import json_formatter, name_job

        handler: logging.Handler = _Objects()
        handler.setFormatter(json_formatter())
        handler.addFilter(name_job)
    else:
        handler = _Lines()
        handler.setFormatter(logging.Formatter(form))
    logger.handlers = [*(one for one in logger.handlers if not isinstance(one, _Lines)), handler]
    logger.setLevel(level)
    logger.propagate = False
