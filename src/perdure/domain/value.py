"""Small durable values beside the jobs, each under a key in a space."""

from __future__ import annotations

from typing import Final

import msgspec

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput
from perdure.domain.record import Json, Record

MAX_KEY: Final = 500
"""Characters of a key."""
MAX_VALUE: Final = 1_000_000
"""Bytes of a value as JSON."""

STAYING: Final = ".desk"
"""What the name of a space ends with whose values mean something in their store alone: who leads, how far its log was read."""


class Value(Record):
    """What is kept under a key.

    Attributes:
        version: a positive number that every write changes; no two writes of one key have the same.
    """

    key: str
    value: Json
    version: int


def encoded(space: str, key: str, value: Json) -> str | None:
    """Check what is to be written; the value as JSON, None where it is to go.

    Raises:
        InvalidInput: a name, or the value, does not fit.
    """
    check.name(space, "space")
    check.text(key, "key", MAX_KEY)
    if value is None:
        return None
    check.json_value(value, f"the value of {key!r}")
    text = msgspec.json.encode(value)
    if len(text) > MAX_VALUE:
        raise InvalidInput(f"the value of {key!r} has {len(text):,} bytes; at most {MAX_VALUE:,} are allowed")
    return text.decode()


def decoded(key: str, text: str | bytes, version: int) -> Value:
    """The reverse of `encoded`."""
    return Value(key=key, value=msgspec.json.decode(text), version=version)
