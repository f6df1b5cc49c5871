"""The one gate where the driver's errors become ours, each with its remedy. None of them tells the key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from azure.core.exceptions import AzureError, HttpResponseError

from perdure.domain.errors import PerdureError, StoreError, StoreUnavailable
from perdure.stores.cosmos.documents import too_large

CONFLICT: Final = 409
CHANGED: Final = 412
MISSING: Final = 404
LOST: Final = 0
"""No answer: it went through or not. Whoever looks again will know."""

_FORBIDDEN: Final = 403
_PARTITION_FULL: Final = 1014
_NO_ENTRY: Final = frozenset({401, _FORBIDDEN})
_TOO_LARGE: Final = 413
_TOO_MANY: Final = 429
_PASSING: Final = frozenset({408, 410, 449, 500, 502, 503, 504})


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Let nothing of the driver out of the block; `shown` names the store in messages."""
    try:
        yield
    except AzureError as error:
        raise translate(error, shown) from error
    except TimeoutError as error:
        raise _away(f"no answer in time from {shown}") from error


def translate(error: AzureError, shown: str) -> PerdureError:
    """Say in our words what the driver says about the store at `shown`, and what to do about it."""
    status = error.status_code if isinstance(error, HttpResponseError) else None
    if status == _FORBIDDEN and getattr(error, "sub_status", None) == _PARTITION_FULL:
        # Not as of a store that is away: then the other tenants' writes would wait for this one's.
        return StoreError(
            f"{shown} has no room left for this tenant: a partition holds 20 GB at most; nothing was written. Purge or "
            "delete jobs, or spread the tenant over several (see the reference)"
        )
    if status in _NO_ENTRY:
        return StoreError(
            f"{shown} does not accept this key ({_brief(error)}); take the account's read-write key, and see that its "
            "firewall lets this machine in and that its clock is right (requests carry the time)"
        )
    if status == _TOO_LARGE:
        return too_large()
    if status == _TOO_MANY:
        return _away(
            f"{shown} is asked for more request units than it has, and had none left in time; raise its throughput, or "
            "ask less at once"
        )
    if status == MISSING:
        return StoreError(
            f"{shown} is gone ({_brief(error)}); call setup() again to make the database and container anew"
        )
    if status is None or status in _PASSING:
        return _away(f"{shown} did not answer as it should ({_brief(error)})")
    return StoreError(f"{shown} refused a request with {status}: {_brief(error)}")


def _away(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"{what}; what was asked may or may not have gone through, and is safe to repeat")


def _brief(error: AzureError) -> str:
    return " ".join(str(error.message).split())[:200]
