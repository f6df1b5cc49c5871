"""The one gate where the driver's errors become ours, each with its remedy. No message holds the URL's password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import exceptions as redis

from perdure.domain.errors import StoreCorrupt, StoreError, StoreUnavailable

_REFUSALS: Final[dict[str, tuple[type[StoreError], str]]] = {
    "NOAUTH": (StoreError, "wants a password; put it into the URL: redis://user:password@host"),
    "WRONGPASS": (StoreError, "refused the user or password; correct them in the URL"),
    "NOPERM": (
        StoreError,
        "does not allow this user what the store needs; allow it +@all on its keys and channel",
    ),
    "LOADING": (StoreUnavailable, "is reading its data after a start; try again soon"),
    "BUSY": (StoreUnavailable, "is busy with a long script; try again soon"),
    "READONLY": (StoreUnavailable, "is a read-only replica; name the primary, or use redis+sentinel://"),
    "MASTERDOWN": (StoreUnavailable, "has lost its primary; wait for the failover, or mend it"),
    "NOREPLICAS": (StoreUnavailable, "has too few replicas (min-replicas-to-write); bring them back"),
    "CLUSTERDOWN": (StoreUnavailable, "is a cluster with slots that nobody serves; mend it"),
    "TRYAGAIN": (StoreUnavailable, "is moving the store's slot to another node; try again soon"),
    "OOM": (StoreUnavailable, "has used up its maxmemory; raise it, or purge jobs. Nothing was written"),
    "MISCONF": (StoreUnavailable, "cannot write its disk; free some space there. Nothing was written"),
    "MOVED": (StoreError, "is part of a cluster; write redis+cluster:// into the URL"),
    "WRONGTYPE": (StoreCorrupt, "holds something else under the store's keys; choose another ?prefix="),
    "NOPROTO": (StoreError, "is too old; Perdure needs Redis 7.0 or Valkey"),
}
"""the first word of a refusal → what it means for the server that is named before it"""

_MEANINGS: Final[tuple[tuple[type[Exception], str], ...]] = (
    # The driver cuts the first word off those that it has a class for.
    (redis.AuthenticationError, "WRONGPASS"),
    (redis.AuthorizationError, "NOPERM"),
    (redis.NoPermissionError, "NOPERM"),
    (redis.BusyLoadingError, "LOADING"),
    (redis.ReadOnlyError, "READONLY"),
    (redis.OutOfMemoryError, "OOM"),
    (redis.MasterDownError, "MASTERDOWN"),
    (redis.ClusterDownError, "CLUSTERDOWN"),
    (redis.TryAgainError, "TRYAGAIN"),
    (redis.AskError, "MOVED"),
)


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Let nothing of the driver out of the block; `server` names it without its password."""
    try:
        yield
    except (redis.RedisError, redis.RedisClusterException, OSError) as error:
        raise translate(error, server) from error


def translate(error: Exception, server: str) -> StoreError:
    """Say in our words what happened, and what to do about it."""
    text = str(error)
    word = next((word for kind, word in _MEANINGS if isinstance(error, kind)), text.partition(" ")[0])
    if word == "WRONGPASS" and ("required" in text or "already authenticated" in text):
        word = "NOAUTH"
    if word in _REFUSALS:
        kind, meaning = _REFUSALS[word]
        return kind(f"{server} {meaning}")
    match error:
        case redis.TimeoutError():
            return StoreUnavailable(f"{server} did not answer in time; what was asked may have been done")
        case redis.ConnectionError() | redis.RedisClusterException() | OSError():
            return StoreUnavailable(
                f"{server} cannot be reached ({text}); is it running, and is the address right?"
            )
        case _ if "DB index" in text:
            return StoreError(
                f"{server} has no such database number; use /0, or raise the server's `databases`"
            )
        case _:
            return StoreError(f"{server} refused a command: {text}")
