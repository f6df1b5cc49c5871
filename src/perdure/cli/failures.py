"""Errors as one line with the remedy, and the exit code that a script can act on."""

from __future__ import annotations

import os
import traceback

import click

from perdure.cli.output import say
from perdure.domain.errors import (
    DocumentError,
    InvalidInput,
    ModelMismatch,
    NotFound,
    PerdureError,
    StoreError,
)

OK = 0
UNSUCCESSFUL = 1
BAD_INPUT = 2
NOT_FOUND = 3
STORE_TROUBLE = 4
INTERNAL = 70
"""EX_SOFTWARE of sysexits.h: a bug of ours."""
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (NotFound, NOT_FOUND),
    (StoreError, STORE_TROUBLE),
    (InvalidInput, BAD_INPUT),
    (DocumentError, BAD_INPUT),
    (ModelMismatch, BAD_INPUT),
    (PerdureError, UNSUCCESSFUL),
)


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    error = _innermost(error)
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED
    return next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL)


def report(error: BaseException) -> int:
    """Say on stderr what went wrong and what to do; return the exit code. With PERDURE_DEBUG, where it went wrong."""
    if os.environ.get("PERDURE_DEBUG"):
        traceback.print_exception(error)
    say(_line(_innermost(error)))
    return exit_code(error)


def _innermost(error: BaseException) -> BaseException:
    """The first error of a group: what the worker's tasks raise comes wrapped."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _line(error: BaseException) -> str:
    match error:
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "perdure"
            return f"{error.format_message()} (see '{where} --help')"
        case click.ClickException():
            return error.format_message()
        case KeyboardInterrupt() | click.Abort():
            return "interrupted"
        case PerdureError():
            return str(error) or (type(error).__doc__ or "").partition("\n")[0]
        case _:
            return f"a bug in Perdure: {type(error).__name__}: {error} (PERDURE_DEBUG=1 shows where)"
