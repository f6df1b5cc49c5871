"""Metadata filters in SQL, with the meaning of `perdure.domain.search.matches`."""

from __future__ import annotations

import json
import math
from typing import Final

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Json
from perdure.domain.search import Compare, Every, Filter, Not, Some

# Of the same key, the document's value counts. What is absent is NULL, unlike the null of JSON.
# Only the value becomes `jsonb`: to make that of all metadata takes twice as long.
VALUE: Final = "coalesce((d.source_metadata -> {key})::jsonb, (c.metadata -> {key})::jsonb)"
OF_DOCUMENT: Final = "(d.source_metadata -> {key})::jsonb"
KNOWN: Final = "CASE WHEN {value} IS NOT NULL THEN {condition} END"
IS_ONE_OF: Final = "{value} = ANY ({wanted}::text[]::jsonb[])"
ONE_OF: Final = "coalesce({value} = ANY ({wanted}::text[]::jsonb[]), false)"
NUMBER: Final = (
    "CASE WHEN jsonb_typeof({value}) = 'number' THEN {value} {sign} {bound}::text::jsonb ELSE false END"
)
ANY_NUMBER: Final = "coalesce(jsonb_typeof({value}) = 'number', false)"
TEXT: Final = (
    "CASE WHEN jsonb_typeof({value}) = 'string' "
    "THEN ({value} #>> '{{}}') COLLATE \"C\" {sign} {bound}::text ELSE false END"
)
SIGNS: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
MOST_VALUES: Final = 30_000
"""PostgreSQL takes 32,767 values in a statement."""


class Condition:
    """A filter as an SQL condition over `d` (document) and `c` (chunk), never NULL.

    Args:
        taken: how many values the statement has before this condition's.
        documents: over `d` alone; NULL where a document's chunks decide.

    Raises:
        InvalidInput: it is too large.
    """

    def __init__(self, where: Filter, taken: int, *, documents: bool = False) -> None:
        self._documents = documents
        self.values: list[str | list[str]] = []
        self._taken = taken
        self._keys: dict[str, str] = {}
        self.sql = self._compile(where)

    def _compile(self, where: Filter) -> str:
        match where:
            case Every(parts=parts):
                return " AND ".join(f"({self._compile(part)})" for part in parts) or "true"
            case Some(parts=parts):
                return " OR ".join(f"({self._compile(part)})" for part in parts) or "false"
            case Not(part=part):
                return f"NOT ({self._compile(part)})"
            case Compare(key=key) if not _storable(key):
                return str(where.op == "ne").lower()
            case Compare(op="gt" | "gte" | "lt" | "lte", key=key) if self._documents:
                return KNOWN.format(value=self._value(key), condition=self._compare(where))
            case Compare():
                return self._compare(where)

    def _compare(self, where: Compare) -> str:
        match where:
            case Compare(op="ne", key=key, value=value):
                return f"NOT {self._one_of(key, [value])}"
            case Compare(op="eq", key=key, value=value):
                return self._one_of(key, [value])
            case Compare(op="in", key=key, value=value):
                return self._one_of(key, value) if isinstance(value, list) else "false"
            case Compare(op=op, key=key, value=value):
                return self._range(key, op, value)

    def _one_of(self, key: str, wanted: list[Json]) -> str:
        scalars = [json.dumps(item) for item in wanted if _is_scalar(item)]
        form = IS_ONE_OF if self._documents else ONE_OF
        return form.format(value=self._value(key), wanted=self._bind(scalars)) if scalars else "false"

    def _range(self, key: str, op: str, bound: Json) -> str:
        if isinstance(bound, str):
            bound, op = _text_bound(bound, op)
            return TEXT.format(value=self._value(key), sign=SIGNS[op], bound=self._bind(bound))
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not bound <= math.inf:  # NaN
            return "false"
        if bound in {math.inf, -math.inf}:
            return (
                ANY_NUMBER.format(value=self._value(key)) if (bound > 0) == op.startswith("lt") else "false"
            )
        return NUMBER.format(value=self._value(key), sign=SIGNS[op], bound=self._bind(json.dumps(bound)))

    def _value(self, key: str) -> str:
        if key not in self._keys:
            self._keys[key] = self._bind(key) + "::text"
        return (OF_DOCUMENT if self._documents else VALUE).format(key=self._keys[key])

    def _bind(self, value: str | list[str]) -> str:
        if len(self.values) >= MOST_VALUES:
            raise InvalidInput(f"the filter has more than {MOST_VALUES} values; use 'in' with a list of them")
        self.values.append(value)
        return f"${self._taken + len(self.values)}"


def _is_scalar(item: Json) -> bool:
    """Whether metadata that PostgreSQL holds may be equal to it."""
    if isinstance(item, str):
        return _storable(item)
    if isinstance(item, float):
        return math.isfinite(item)
    return item is None or isinstance(item, bool | int)


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _text_bound(bound: str, op: str) -> tuple[str, str]:
    """A bound that PostgreSQL can hold, and the comparison with it that says the same of all texts that it holds."""
    for place, character in enumerate(bound):
        if character == "\0":  # what begins with the part before, and goes on, is greater
            return bound[:place], "gt" if op.startswith("gt") else "lte"
        if "\ud800" <= character <= "\udfff":  # no text goes on so: the next that may come is U+E000
            return bound[:place] + "\ue000", "gte" if op.startswith("gt") else "lt"
    return bound, op
