"""Checks that inputs pass once, at the door; nothing behind it checks again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from perdure.domain.errors import InvalidInput, SchemaMismatch, StoreCorrupt

_JSON_TYPES: Final = "null, true/false, numbers, text, lists and objects with text keys"
MANY: Final = 1_000_000
"""More than any number of tries or slots needs to be; every database can hold it."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_SCALARS: Final = frozenset({str, int, float})
"""And no subclass of them, such as NumPy's: encoders do not know those."""
MAX_TEXT: Final = 1024
MAX_DEPTH: Final = 64
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def name(value: str, what: str) -> str:
    """Check a short name (tenant, kind, namespace): 1–128 of `A-Z a-z 0-9 . _ : @ / -`."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidInput(
            f"{what} {value!r} is not valid: expected 1 to 128 letters, digits or . _ : @ / -, "
            "beginning with a letter or digit"
        )
    return value


def text(value: str, what: str, limit: int = MAX_TEXT) -> str:
    """Check a free text: not empty, at most `limit` characters, no NUL (databases cannot hold it)."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{what} must be a text that is not empty, got {value!r}")
    if len(value) > limit:
        raise InvalidInput(f"{what} has {len(value)} characters; at most {limit} are allowed")
    if "\x00" in value:
        raise InvalidInput(f"{what} holds a NUL character at {value.index(chr(0))}; remove it")
    encodable(value, what)
    return value


def priority(value: int) -> int:
    """Check a priority: -1000 to 1000."""
    if not -1000 <= value <= 1000:
        raise InvalidInput(f"priority is {value}; expected -1000 to 1000")
    return value


def at_least(value: int, least: int, what: str) -> int:
    """Check a whole number: `least` to `MANY`."""
    if not least <= value <= MANY:
        raise InvalidInput(f"{what} is {value}; expected {least} to {MANY:,}")
    return value


def ttl(value: timedelta | None) -> timedelta | None:
    """Check how long a record is kept: more than zero, or None for ever."""
    if value is not None and value <= timedelta(0):
        raise InvalidInput(f"ttl is {value}; expected more than zero, or None for ever")
    return value


def labels(pairs: Mapping[str, str]) -> Mapping[str, str]:
    """Check labels: short names, texts as values."""
    for key, value in pairs.items():
        text(key, "a label's name", 128)
        text(value, f"label {key!r}")
    return pairs


def aware(value: datetime, what: str) -> datetime:
    """Check that a time carries its zone."""
    if value.tzinfo is None:
        raise InvalidInput(
            f"{what} {value.isoformat()} has no time zone; use e.g. datetime.now(UTC), or 2031-05-04T12:00:00Z as text"
        )
    return value


def json_value(value: object, what: str, depth: int = 0) -> None:
    """Check that `value` survives a round trip through JSON and every database.

    Raises:
        InvalidInput: naming the path of the first offender.
    """
    if depth == 0 and _plain(value, 0):
        return
    match value:
        case None | bool():
            return
        case str() | int() | float() if type(value) in _SCALARS or isinstance(value, Enum):
            _json_scalar(value, what)
        case dict() | list() | tuple() if depth >= MAX_DEPTH:
            raise InvalidInput(f"{what} is nested more than {MAX_DEPTH} levels deep")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInput(f"{what} has the key {key!r}; keys must be texts")
                _json_scalar(key, f"the key {key!r} of {what}")
                json_value(item, f"{what}.{key}", depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                json_value(item, f"{what}[{index}]", depth + 1)
        case _:
            raise InvalidInput(f"{what} is a {type(value).__name__}; JSON knows {_JSON_TYPES}")


def _plain(value: Any, depth: int) -> bool:
    """Whether there is surely nothing to say against `value`, as of nearly all; told in a quarter of the time."""
    kind = type(value)
    if kind is str:
        return value.isascii() and "\x00" not in value
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    if kind is dict and depth < MAX_DEPTH:
        for key, item in value.items():
            # Written out, as most of what is asked about are keys and texts.
            if type(key) is not str or not key.isascii() or "\x00" in key:
                return False
            if type(item) is str:
                if not item.isascii() or "\x00" in item:
                    return False
            elif not _plain(item, depth + 1):
                return False
        return True
    if (kind is list or kind is tuple) and depth < MAX_DEPTH:
        for item in value:  # noqa: SIM110 - `all` takes twice as long
            if not _plain(item, depth + 1):
                return False
        return True
    return value is None or kind is bool


def _json_scalar(value: str | float, what: str) -> None:
    match value:
        case str():
            if "\x00" in value:
                raise InvalidInput(f"{what} holds a NUL character at {value.index(chr(0))}; remove it")
            encodable(value, what)
        case int():
            if not -(2**63) <= value < 2**63:
                raise InvalidInput(f"{what} is {value}; whole numbers must fit in 64 bits, send it as text")
        case float():
            if not math.isfinite(value):
                raise InvalidInput(f"{what} is {value}; JSON has no such number, use null or a text")


def encodable(value: str, what: str) -> None:
    """Refuse lone surrogates: they have no UTF-8 form."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{what} holds a lone surrogate at {error.start}; it is not valid text"
            ) from None


def schema(found: object, known: int, where: str) -> None:
    """Check the schema that a store says it has.

    Raises:
        SchemaMismatch: it is newer than the one known here.
        StoreCorrupt: it is none that a Perdure wrote.
    """
    if type(found) is int and found > known:
        raise SchemaMismatch(
            f"{where} has schema {found}, this Perdure knows {known}; upgrade Perdure to use it"
        )
    if type(found) is not int or found != known:
        raise StoreCorrupt(
            f"{where} says that its schema is {found!r}, which no Perdure wrote; expected {known}. Restore what lay there, "
            "or name another place in the URL"
        )


def storable(value: str) -> str:
    """Drop from a text what databases cannot hold: NUL and lone surrogates."""
    return value.replace("\x00", "").encode("utf-8", "replace").decode()


def duration(value: str | timedelta) -> timedelta:
    """Read a length of time like ``"2d"``, ``"1h 30m"`` or ``"45s"``.

    Raises:
        InvalidInput: it is none, or not more than zero.
    """
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if not parts or _DURATION.sub("", value).strip():
            raise InvalidInput(f"{value!r} is no length of time; expected e.g. '45s', '90m', '1h 30m', '2d'")
        value = timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    if value <= timedelta(0):
        raise InvalidInput(f"a length of time must be more than zero, got {value}")
    return value
