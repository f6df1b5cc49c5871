"""The one gate where PostgreSQL's errors become ours, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from perdure.domain.errors import InvalidInput, PerdureError, SchemaMismatch, StoreError, StoreUnavailable

MAX_DETAIL: Final = 300
"""Characters of a driver's message that are passed on: it may quote a whole payload."""


class Collision(StoreUnavailable):
    """Two transactions stood in each other's way, and this one was undone: run it again."""


class Duplicate(StoreError):
    """What was to be inserted is there already."""


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Let nothing of asyncpg out of the block."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise translate(error, address) from error


def translate(error: Exception, address: str) -> PerdureError:
    """Say in our words what went wrong with the database at `address` (no password in it), and what to do."""
    said = " ".join(str(error).split()).rstrip(".")  # message, detail and hint have a line each
    reason = (said or type(error).__name__)[:MAX_DETAIL]
    for theirs, ours, text in _RULES:
        if isinstance(error, theirs):
            return ours(text.format(at=address, reason=reason))
    return StoreError(f"{address} refused a statement: {reason}")


_POOLER = "{at} is a pooler, or behind one ({reason}); add ?pooler=transaction to the store's URL"

_RULES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[PerdureError], str], ...]] = (
    (
        (
            asyncpg.SerializationError,
            asyncpg.DeadlockDetectedError,
            asyncpg.InvalidCachedStatementError,  # the schema changed under a transaction
        ),
        Collision,
        "{at} undid a transaction that collided with others ({reason}); try again",
    ),
    (
        asyncpg.LockNotAvailableError,
        StoreUnavailable,
        "{at}: others kept a table locked ({reason}); end their transactions, or try again at a quieter time",
    ),
    (asyncpg.UniqueViolationError, Duplicate, "{at} holds this already: {reason}"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        StoreError,
        "{at} refused the login ({reason}); check user and password in the store's URL",
    ),
    (
        asyncpg.InvalidCatalogNameError,
        StoreError,
        "{at}: {reason}; create it (`createdb`), or mend the name in the store's URL",
    ),
    (
        asyncpg.InsufficientPrivilegeError,
        StoreError,
        "{at}: {reason}; grant it to this user, or let an owner run `perdure store init`",
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        StoreUnavailable,
        "{at} is read-only, a replica perhaps; name the primary in the store's URL",
    ),
    (
        (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError),
        SchemaMismatch,
        "{at}: {reason}; run `perdure store init`",
    ),
    (
        (
            asyncpg.ProtocolViolationError,
            asyncpg.InvalidSQLStatementNameError,
            asyncpg.DuplicatePreparedStatementError,
        ),
        StoreError,
        _POOLER,
    ),
    (
        (asyncpg.DataError, asyncpg.ProgramLimitExceededError),
        InvalidInput,
        "PostgreSQL cannot hold a value: {reason}",
    ),
    (
        asyncpg.InsufficientResourcesError,
        StoreUnavailable,
        "{at} has run out: {reason}. Nothing was written; free some (disk, memory, connections), then try again",
    ),
    (
        (
            asyncpg.PostgresConnectionError,
            asyncpg.OperatorInterventionError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ),
        StoreUnavailable,
        "{at} broke off ({reason}); try again",
    ),
    (
        TimeoutError,
        StoreUnavailable,
        "{at} did not answer in time; check it and the way to it, then try again",
    ),
    (OSError, StoreUnavailable, "{at} cannot be reached ({reason}); check that it runs, and host and port"),
)
"""What asyncpg raises, what we raise for it, and how it reads; the first that fits."""
