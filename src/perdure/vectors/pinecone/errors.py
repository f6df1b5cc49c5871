"""The one gate where the SDK's errors become ours, each with its remedy. None of them tells the key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pinecone.errors.exceptions import (
    ApiError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
    RateLimitError,
)

from perdure.domain.errors import InvalidInput, PerdureError, StoreError, StoreUnavailable

_NO_ENTRY: Final = frozenset({401, 403})
_PASSING: Final = frozenset({408, 500, 502, 503, 504})


@contextmanager
def translated(host: str) -> Iterator[None]:
    """Let nothing of the SDK out of the block."""
    try:
        yield
    except PineconeError as error:
        raise _translate(error, host) from error


def _translate(error: PineconeError, host: str) -> PerdureError:
    if isinstance(error, RateLimitError):
        return _away(
            f"Pinecone asks for a pause again and again ({_brief(error)}); ask less at once, or raise its limits"
        )
    if isinstance(error, (PineconeConnectionError, PineconeTimeoutError)):
        return _away(
            f"no answer from the Pinecone index at {host} ({_brief(error)}); is this its host, as the console shows it?"
        )
    if not isinstance(error, ApiError):
        return InvalidInput(f"Pinecone's client does not take this: {_brief(error)}")
    if error.status_code in _NO_ENTRY:
        return StoreError(
            f"Pinecone does not accept this key ({_brief(error)}); set PINECONE_API_KEY to a key of the index's project that "
            "may read and write"
        )
    if error.status_code == 404:
        return StoreError(
            f"there is no Pinecone index at {host} ({_brief(error)}); take the host from the console, or make the index"
        )
    if error.status_code in _PASSING:
        return _away(f"Pinecone did not answer as it should ({error.status_code}: {_brief(error)})")
    return StoreError(f"Pinecone refused a request with {error.status_code}: {_brief(error)}")


def _away(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"{what}; what was asked may or may not have gone through, and is safe to repeat")


def _brief(error: PineconeError) -> str:
    return " ".join(str(error).split())[:200]
