"""The one gate where the driver's errors become ours, each with its remedy. None of them tells a user or password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pymongo import errors as driver

from perdure.domain.errors import (
    InvalidInput,
    PerdureError,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
)

DUPLICATE: Final = 11000
FEED_LOST: Final = frozenset({280, 286})
"""ChangeStreamFatalError, ChangeStreamHistoryLost: the token leads nowhere any more."""

_NO_LOGIN: Final = frozenset({18, 8000})
_NO_RIGHT: Final = frozenset({13})
_TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420})
_DISK_FULL: Final = frozenset({14031})
_OTHER_INDEX: Final = frozenset({67, 85, 86})
_NO_PRIMARY: Final = frozenset({91, 189, 10107, 11600, 11602, 13435, 13436})
_CUT_SHORT: Final = frozenset({6, 7, 24, 50, 64, 89, 112, 202, 251, 262, 290, 9001})
"""Timeouts, lost connections, write conflicts: the same call may do well a little later."""


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Let nothing of pymongo out of the block; `shown` names the store in messages."""
    try:
        yield
    except driver.PyMongoError as error:
        raise translate(error, shown) from error


def translate(error: driver.PyMongoError, shown: str) -> PerdureError:
    """Say in our words what the driver says about the store at `shown`, and what to do about it."""
    match error:
        case driver.ServerSelectionTimeoutError():
            return StoreUnavailable(
                f"no server that takes writes answers at {shown} ({_brief(error)}); check that it runs, "
                "that the host and port are right, and that its replica set has a primary"
            )
        case driver.DocumentTooLarge():
            return too_large(shown)
        case driver.WTimeoutError() | driver.ExecutionTimeout() | driver.ConnectionFailure():
            return _away(error, shown)
        case driver.InvalidOperation():
            return StoreUnavailable(f"the job store {shown} is closed; open a new one")
        case driver.BulkWriteError() | driver.OperationFailure():
            return _refused(error, shown)
        case driver.ConfigurationError():
            return InvalidInput(f"{shown} cannot be reached as its URL says: {_brief(error)}")
        case _:
            return _away(error, shown) if error.timeout else StoreError(f"{shown}: {_brief(error)}")


def too_large(shown: str) -> InvalidInput:
    """A job does not fit into one document."""
    return InvalidInput(
        f"the job does not fit into {shown}: with its history a job is one document of MongoDB, of at most 16 MB; "
        "keep large results and checkpoints elsewhere and store where they are"
    )


def is_duplicate(error: driver.OperationFailure) -> bool:
    """Whether the only fault is that an id or key is there already."""
    codes = set(_codes(error))
    return bool(codes) and codes == {DUPLICATE}


def _refused(error: driver.OperationFailure, shown: str) -> PerdureError:
    codes = set(_codes(error))
    if codes & _TOO_LARGE:
        return too_large(shown)
    if codes & _NO_LOGIN:
        return StoreError(
            f"{shown} does not accept this user and password; correct them in the URL (see authSource)"
        )
    if codes & _NO_RIGHT:
        return StoreError(
            f"this user may not do that in {shown}; give it the role readWrite on that database, or put another user and "
            "password into the URL, or another database"
        )
    if codes & _OTHER_INDEX:
        return SchemaMismatch(
            f"{shown} has an index that differs from Perdure's ({_brief(error)}); drop it and start again"
        )
    if codes & _DISK_FULL:
        return StoreUnavailable(f"the disk of {shown} is full; nothing was written, free some space")
    if codes & (_NO_PRIMARY | _CUT_SHORT) or error.timeout or error.has_error_label("RetryableWriteError"):
        return _away(error, shown)
    return StoreError(f"{shown} refused a command: {_brief(error)}")


def _codes(error: driver.OperationFailure) -> Iterator[int]:
    """Every code in an error, those of the single writes of a bulk included."""
    details: Any = error.details or {}
    faults = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
    for fault in faults or [{"code": error.code}]:
        yield fault.get("code") or 0


def _away(error: driver.PyMongoError, shown: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{shown} did not answer in time, or has no primary now ({_brief(error)}); what was asked may or may not have "
        "gone through, and is safe to repeat"
    )


def _brief(error: driver.PyMongoError) -> str:
    """The first of what the driver says; the rest describes the whole topology or repeats the reply."""
    text = str(error).partition(", full error:")[0]
    return text.partition(", Timeout:")[0].partition(" (configured timeouts")[0]
