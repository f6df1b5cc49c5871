"""The part of Cosmos DB's SQL that the store uses, with its three truths: what is undefined is neither true nor false."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

Row = dict[str, Any]
Term = Callable[[Row, Mapping[str, Any]], Any]

UNDEFINED: Final = object()
_TOKEN: Final = re.compile(r"\s*('(?:[^']|'')*'|\d+|@\w+|\w+(?:\.\w+)*|<=|>=|!=|[=<>(),*])")
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class Query:
    """``SELECT [TOP n] *|VALUE term|c.a, c.b FROM c [WHERE condition] [ORDER BY c.a [DESC]]``."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        if "".join(self._tokens) != "".join(re.split(r"\s+", text)) and "' " not in text:
            raise SyntaxError(text)
        self._place = 0
        self.top: Term | None = None
        self.value: Term | None = None
        self.counted = False
        self.names: list[str] = []
        self.order: tuple[Term, bool] | None = None
        self.where: Term = lambda _row, _values: True
        self._read()

    def run(self, rows: Iterable[Row], values: Mapping[str, Any]) -> list[Any]:
        """What is selected of the rows."""
        found = [row for row in rows if self.where(row, values) is True]
        if self.counted:
            return [len(found)]
        if self.order:
            term, descending = self.order
            found = [row for row in found if term(row, values) is not UNDEFINED]
            found.sort(key=lambda row: _rank(term(row, values)), reverse=descending)
        if self.top:
            found = found[: self.top({}, values)]
        if self.value:
            return [self.value(row, values) for row in found]
        return [
            {name: row[name] for name in self.names if name in row} if self.names else row for row in found
        ]

    # --- reading --------------------------------------------------------------------------

    def _peek(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _took(self, *words: str) -> bool:
        took = self._peek().upper() in words
        self._place += took
        return took

    def _need(self, word: str) -> None:
        if not self._took(word):
            raise SyntaxError(f"{word} expected, got {self._peek()!r}")

    def _read(self) -> None:
        if self._took("SELECT"):
            self._select()
        self._need("FROM")
        self._need("C")
        if self._took("WHERE"):
            self.where = self._either()
        if self._took("ORDER"):
            self._need("BY")
            self.order = self._term(), self._took("DESC")
        if self._peek():
            raise SyntaxError(f"end expected, got {self._peek()!r}")

    def _select(self) -> None:
        if self._took("TOP"):
            self.top = self._term()
        if self._took("*"):
            return
        if self._took("VALUE"):
            if self._took("COUNT"):
                self.counted = self._took("(") and self._took("1") and self._took(")")
            else:
                self.value = self._term()
            return
        while True:
            self.names.append(self._peek().removeprefix("c."))
            self._place += 1
            if not self._took(","):
                return

    def _either(self) -> Term:
        term = self._all()
        while self._took("OR"):
            term = _joined(term, self._all(), decisive=True)
        return term

    def _all(self) -> Term:
        term = self._one()
        while self._took("AND"):
            term = _joined(term, self._one(), decisive=False)
        return term

    def _one(self) -> Term:
        if self._took("NOT"):
            inner = self._one()
            return lambda row, values: _negated(inner(row, values))
        if self._took("("):
            inner = self._either()
            self._need(")")
            return inner
        left = self._term()
        if self._took("IN"):
            self._need("(")
            terms = self._terms()
            return lambda row, values: _contains([term(row, values) for term in terms], left(row, values))
        order = _ORDERS.get(self._peek())
        if order is None:
            return left
        self._place += 1
        right = self._term()
        return lambda row, values: _compared(order, left(row, values), right(row, values))

    def _term(self) -> Term:
        token = self._peek()
        self._place += 1
        if token[0] == "'":
            text = token[1:-1].replace("''", "'")
            return lambda _row, _values: text
        if token.isdigit():
            return lambda _row, _values: int(token)
        if token[0] == "@":
            return lambda _row, values: values[token]
        if token.startswith("c."):
            name = token.removeprefix("c.")
            return lambda row, _values: row.get(name, UNDEFINED)
        return self._call(token.upper())

    def _terms(self) -> list[Term]:
        terms = [self._term()]
        while self._took(","):
            terms.append(self._term())
        self._need(")")
        return terms

    def _call(self, name: str) -> Term:
        self._need("(")
        terms = self._terms()
        if name == "IS_NULL":
            return lambda row, values: terms[0](row, values) is None
        if name == "ARRAY_CONTAINS":
            return lambda row, values: _contains(terms[0](row, values), terms[1](row, values))
        if name == "CONCAT":
            return lambda row, values: _joined_texts([term(row, values) for term in terms])
        raise SyntaxError(f"no function {name}")


@lru_cache(256)
def parsed(text: str) -> Query:
    """A query, ready to run."""
    return Query(text)


def _kind(value: Any) -> int:
    """The order of the types."""
    return [type(None), bool, int, float, str].index(type(value))


def _rank(value: Any) -> tuple[int, Any]:
    return _kind(value), 0 if value is None else value


def _compared(order: Callable[[Any, Any], bool], a: Any, b: Any) -> Any:
    if a is UNDEFINED or b is UNDEFINED:
        return UNDEFINED
    if isinstance(a, str) != isinstance(b, str) or (a is None) != (b is None):
        return UNDEFINED if order not in (_ORDERS["="], _ORDERS["!="]) else order is _ORDERS["!="]
    return order(a, b)


def _contains(values: Any, value: Any) -> Any:
    return UNDEFINED if value is UNDEFINED or not isinstance(values, list) else value in values


def _joined_texts(texts: list[Any]) -> Any:
    return "".join(texts) if all(isinstance(text, str) for text in texts) else UNDEFINED


def _negated(truth: Any) -> Any:
    return (not truth) if isinstance(truth, bool) else UNDEFINED


def _joined(a: Term, b: Term, *, decisive: bool) -> Term:
    def term(row: Row, values: Mapping[str, Any]) -> Any:
        truths = a(row, values), b(row, values)
        if any(truth is decisive for truth in truths):
            return decisive
        return UNDEFINED if any(not isinstance(truth, bool) for truth in truths) else not decisive

    return term
