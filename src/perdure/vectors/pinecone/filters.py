"""Metadata filters in Pinecone's language, which knows less than ours.

Each key is written once for each type: ``n:page`` a number, ``s:lang`` a text, ``b:…`` a boolean, ``z:…`` null, and ``o:lang``
the first bytes of a text as a number, because Pinecone orders numbers only. What cannot be said exactly is said more widely, and
whoever searches must look at the metadata again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from perdure.domain.record import Json
from perdure.domain.search import Compare, Every, Filter, Not, Some
from perdure.vectors.pinecone.names import digest
from perdure.vectors.pinecone.values import size

Native: TypeAlias = "bool | dict[str, Any]"
"""A filter of Pinecone's; True: everything matches; False: nothing does."""

Compiled: TypeAlias = "tuple[Native, bool]"
"""(filter, whether it says exactly what was asked; if not, it lets more through)"""

MOST_VALUES: Final = 10_000
"""Of one `$in`."""
MOST_BYTES: Final = 200_000
_EXACT: Final = 2.0**53
_SHORT: Final = 200
_LONG: Final = "\0sha256:"
_ORDERED: Final = 6
_OPPOSITE: Final = {"gt": "lte", "gte": "lt", "lt": "gte", "lte": "gt"}
_INCLUSIVE: Final = {"gt": "$gte", "gte": "$gte", "lt": "$lte", "lte": "$lte"}


def tokens(metadata: Mapping[str, Json]) -> dict[str, Json]:
    """What filters may ask for, of one chunk."""
    told: dict[str, Json] = {}
    for key, value in metadata.items():
        match value:
            case None:
                told[f"z:{key}"] = True
            case bool():
                told[f"b:{key}"] = value
            case int() | float():
                told[f"n:{key}"] = _number(value)
            case str():
                told[f"s:{key}"] = _text(value)
                told[f"o:{key}"] = _order(value)
            case _:
                pass
    return told


def compiled(where: Filter | None) -> Compiled:
    """Translate a filter."""
    native, exact = _compiled(where, wanted=True)
    return (True, False) if isinstance(native, dict) and size(native) > MOST_BYTES else (native, exact)


def every(parts: Iterable[Native]) -> Native:
    """All of them."""
    kept = list[dict[str, Any]]()
    for part in parts:
        if part is False:
            return False
        if isinstance(part, dict):
            kept += part.get("$and", [part])
    return {"$and": kept} if len(kept) > 1 else kept[0] if kept else True


def some(parts: Iterable[Native]) -> Native:
    """At least one of them; those that ask one key for values become one."""
    kept, asked = list[dict[str, Any]](), dict[str, list[Any]]()
    for part in parts:
        if part is True:
            return True
        for one in part.get("$or", [part]) if isinstance(part, dict) else []:
            [(key, ask)] = one.items()
            if isinstance(ask, dict) and "$in" in ask:
                asked.setdefault(key, []).extend(ask["$in"])
            else:
                kept.append(one)
    kept += [
        {key: {"$in": values} if len(values) <= MOST_VALUES else {"$exists": True}}
        for key, values in asked.items()
    ]
    return {"$or": kept} if len(kept) > 1 else kept[0] if kept else False


def _compiled(where: Filter | None, *, wanted: bool) -> Compiled:
    match where:
        case None:
            return True, True
        case Not(part=part):
            return _compiled(part, wanted=not wanted)
        case Every(parts=parts) | Some(parts=parts):
            made = [_compiled(part, wanted=wanted) for part in parts]
            join = every if isinstance(where, Every) == wanted else some
            native, exact = join(native for native, _ in made), all(exact for _, exact in made)
            return native, exact and not _cut(made)
        case Compare(key=key, op="eq" | "ne" as op, value=value):
            return _equal(key, [value], wanted=wanted == (op == "eq"))
        case Compare(key=key, op="in", value=value):
            return _equal(key, value if isinstance(value, list) else [], wanted=wanted)
        case Compare(key=key, op=op, value=value):
            return _ordered(key, op, value, wanted=wanted)


def _cut(made: list[Compiled]) -> bool:
    """Whether there may be too many values for one `$in`, so that they were left out."""
    return len(made) > MOST_VALUES or any(
        isinstance(native, dict) and size(native) > MOST_VALUES for native, _ in made
    )


def _equal(key: str, values: list[Json], *, wanted: bool) -> Compiled:
    asked, exact = dict[str, list[Any]](), True
    for value in values:
        match value:
            case None:
                asked[f"z:{key}"] = [True]
            case bool():
                asked.setdefault(f"b:{key}", []).append(value)
            case int() | float() if _comparable(value):
                asked.setdefault(f"n:{key}", []).append(_number(value))
                exact = exact and abs(value) < _EXACT
            case str() if _writable(value):
                asked.setdefault(f"s:{key}", []).append(_text(value))
                exact = exact and not _text(value).startswith(_LONG)
            case list() | dict():
                return True, False
            case _:
                pass  # no metadata can hold it
    if wanted:
        exact = exact and all(len(held) <= MOST_VALUES for held in asked.values())
        return some(_any_of(field, held) for field, held in asked.items()), exact
    if not exact or any(len(held) > MOST_VALUES for held in asked.values()):
        return True, False
    return every(some([_absent(field), _none_of(field, held)]) for field, held in asked.items()), True


def _any_of(field: str, values: list[Any]) -> Native:
    return (
        some({field: {"$eq": one}} for one in set(values)) if field[0] in "bz" else {field: {"$in": values}}
    )


def _none_of(field: str, values: list[Any]) -> Native:
    if field[0] in "bz":
        return every({field: {"$ne": one}} for one in set(values))
    return {field: {"$nin": values}}


def _absent(field: str) -> Native:
    return {field: {"$exists": False}}


def _ordered(key: str, op: str, value: Json, *, wanted: bool) -> Compiled:
    match value:
        case bool():
            return not wanted, True
        case int() | float() if _comparable(value):
            field, bound, exact = f"n:{key}", _number(value), abs(value) < _EXACT
        case str():
            field, bound, exact = f"o:{key}", _order(value), False
        case _:
            return not wanted, True
    op = op if wanted else _OPPOSITE[op]
    ask: Native = {field: {f"${op}" if exact else _INCLUSIVE[op]: bound}}
    return (ask if wanted else some([_absent(field), ask])), exact


def _comparable(value: float) -> bool:
    return isinstance(value, int) or not math.isnan(value)


def _number(value: float) -> float:
    """As Pinecone keeps numbers: larger ones come out near to it, in order."""
    try:
        return max(-sys.float_info.max, min(sys.float_info.max, float(value)))
    except OverflowError:
        return sys.float_info.max if value > 0 else -sys.float_info.max


def _text(value: str) -> str:
    return value if len(value) <= _SHORT and not value.startswith(_LONG) else _LONG + digest(value, 64)


def _order(value: str) -> float:
    written = value.encode("utf-8", "surrogatepass")[:_ORDERED]
    return float(int.from_bytes(written.ljust(_ORDERED, b"\0")))


def _writable(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
