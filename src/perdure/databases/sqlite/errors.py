"""The one gate where SQLite's errors become ours, each with its remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from perdure.domain.errors import StoreCorrupt, StoreError, StoreUnavailable


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Let nothing of apsw out of the block."""
    try:
        yield
    except apsw.Error as error:
        raise translate(error, path) from error


def translate(error: apsw.Error, path: str) -> StoreError:
    """Say in our words what SQLite says about the database at `path`, and what to do about it."""
    translation = _translate(error, path)
    translation.__cause__ = error
    return translation


def _translate(error: apsw.Error, path: str) -> StoreError:
    match error:
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return StoreUnavailable(
                f"{path} stayed in use by another process for too long; "
                "look for one that holds a transaction open (a database browser, a backup), then try again"
            )
        case apsw.FullError():
            return StoreUnavailable(
                f"{path} cannot grow: the disk is full. Nothing was written; free some space"
            )
        case apsw.IOError() | apsw.NoMemError():
            return StoreUnavailable(
                f"{path} cannot be read or written ({error}); "
                "check the disk, its quota and its mount, then try again"
            )
        case apsw.NotADBError() | apsw.FormatError():
            return StoreCorrupt(f"{path} is not an SQLite database; name another file, or move this one away")
        case apsw.CorruptError():
            return StoreCorrupt(
                f"{path} is damaged ({error}); restore it from a backup, or save what is left "
                f"with `sqlite3 {path} .recover`"
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return StoreError(
                f"{path} is read-only for this user ({error}); allow it to write the file and its folder "
                "(SQLite keeps two more files beside it)"
            )
        case apsw.CantOpenError():
            return _cannot_open(path)
        case _:
            return StoreError(f"SQLite refused a statement on {path}: {error}")


def _cannot_open(path: str) -> StoreError:
    """SQLite says only "unable to open"; find out why."""
    file = Path(path)
    try:
        if not file.parent.is_dir():
            return StoreError(
                f"{path} cannot be opened: the folder {file.parent} does not exist; create it first"
            )
        if file.is_dir():
            return StoreError(f"{path} is a folder; name a file, for example {file / 'perdure.db'}")
        allowed = os.access(file.parent, os.W_OK | os.X_OK) and (
            not file.exists() or os.access(file, os.R_OK | os.W_OK)
        )
    except PermissionError:  # a folder on the way there is closed to this user
        allowed = False
    if not allowed:
        return StoreError(
            f"{path} cannot be opened: this user may not read and write it; change its owner or mode"
        )
    return StoreUnavailable(
        f"{path} cannot be opened; too many open files perhaps (see `ulimit -n`), try again"
    )
