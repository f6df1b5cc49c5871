"""Metadata filters in SQL, with the meaning of `perdure.domain.search.matches`."""

from __future__ import annotations

import json
import math
from typing import Any, Final, TypeAlias, TypeGuard

from perdure.domain.record import Json
from perdure.domain.search import Compare, Every, Filter, Not, Some
from perdure.vectors.sqlite.chunks import to_json

Values: TypeAlias = dict[str, Any]
"""What is bound, by name."""

MOST_PARTS: Final = 200
"""SQLite takes expressions up to a thousand levels deep, and a chain of ANDs counts as that many levels."""

WHOLE_NUMBERS: Final = range(-(2**63), 2**63)
"""Those that SQLite has."""

IF_THERE: Final = "CASE WHEN json_type({metadata}, :{key}) IS NOT NULL THEN {test} END"
OVERLAID: Final = "coalesce({of_document}, {of_chunk}, 0)"
"""Of the same key, the document's value counts."""

ONE_OF: Final = """
CASE json_type({metadata}, :{key})
    WHEN 'text' THEN json_extract({metadata}, :{key}) IN (SELECT value FROM json_each(:{texts}))
    WHEN 'integer' THEN json_extract({metadata}, :{key}) IN (SELECT value FROM json_each(:{numbers}))
    WHEN 'real' THEN json_extract({metadata}, :{key}) IN (SELECT value FROM json_each(:{numbers}))
    ELSE json_type({metadata}, :{key}) IN (SELECT value FROM json_each(:{literals}))
END
"""
RANGE: Final = """
(json_type({metadata}, :{key}) IN ({types}) AND json_extract({metadata}, :{key}) {sign} :{bound})
"""
NUMBERS: Final = "'integer', 'real'"
TEXTS: Final = "'text'"
SIGNS: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
LITERALS: Final = {None: "null", True: "true", False: "false"}


class Inexpressible(Exception):
    """SQLite cannot say this exactly; ask `matches` instead."""


class Condition:
    """A filter as an SQL condition over `d` (document) and `c` (chunk), always 0 or 1, never NULL.

    Attributes:
        facts: what it asks of the document, NULL where that does not say; in `sql` for each there is a ``{}`` in order, so that
            they may be found out once for all chunks of a document.

    Raises:
        Inexpressible: on construction.
    """

    def __init__(self, where: Filter) -> None:
        self.values: Values = {}
        self.facts: list[str] = []
        self._parts = 0
        try:
            self.sql = self._compile(where)
        except UnicodeEncodeError:  # a lone surrogate, which no stored text can hold
            raise Inexpressible from None

    def _compile(self, where: Filter) -> str:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise Inexpressible
        match where:
            case Every(parts=parts):
                return self._join(" AND ", parts, "1")
            case Some(parts=parts):
                return self._join(" OR ", parts, "0")
            case Not(part=part):
                return f"NOT ({self._compile(part)})"
            case Compare(op="ne", key=key, value=value):
                return f"NOT ({self._one_of(key, [value])})"
            case Compare(op="eq", key=key, value=value):
                return self._one_of(key, [value])
            case Compare(op="in", key=key, value=value):
                return self._one_of(key, value) if isinstance(value, list) else "0"
            case Compare(op=op, key=key, value=value):
                return self._range(key, SIGNS[op], value)

    def _join(self, word: str, parts: tuple[Filter, ...], empty: str) -> str:
        return word.join(f"({self._compile(part)})" for part in parts) or empty

    def _one_of(self, key: str, wanted: list[Json]) -> str:
        texts = [item for item in wanted if isinstance(item, str)]
        numbers = [item for item in wanted if _is_number(item)]
        literals = [LITERALS[item] for item in wanted if item is None or isinstance(item, bool)]
        if len(texts) + len(numbers) + len(literals) < len(wanted):
            raise Inexpressible
        lists = {"texts": texts, "numbers": numbers, "literals": literals}
        names = {name: self._bind(to_json(items)) for name, items in lists.items()}
        return self._overlaid(key, ONE_OF, names)

    def _range(self, key: str, sign: str, bound: Json) -> str:
        if isinstance(bound, str):
            types = TEXTS
        elif _is_number(bound):
            types = NUMBERS
        else:
            return "0"
        return self._overlaid(key, RANGE, {"types": types, "sign": sign, "bound": self._bind(bound)})

    def _overlaid(self, key: str, test: str, names: dict[str, str]) -> str:
        # A JSON path takes a label in the notation of JSON texts, whatever is in it.
        name = self._bind(f"$.{json.dumps(key, ensure_ascii=False)}")
        of_document, of_chunk = (
            IF_THERE.format(
                metadata=metadata, key=name, test=test.format(metadata=metadata, key=name, **names)
            )
            for metadata in ("d.metadata", "c.metadata")
        )
        self.facts.append(of_document)
        return OVERLAID.format(of_document="{}", of_chunk=of_chunk)

    def _bind(self, value: str | float) -> str:
        if isinstance(value, str):
            value.encode()
        name = f"where{len(self.values)}"
        self.values[name] = value
        return name


def _is_number(value: Json) -> TypeGuard[int | float]:
    """Whether it is a number that SQLite can hold.

    Raises:
        Inexpressible: it is one, and SQLite cannot.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if value not in WHOLE_NUMBERS if isinstance(value, int) else not math.isfinite(value):
        raise Inexpressible
    return True
