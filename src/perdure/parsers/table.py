"""Tables in plain text (.csv, .tsv)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice
from typing import BinaryIO, Final

from perdure.domain.errors import DocumentUnreadable
from perdure.parsers.decoding import decode, lines
from perdure.parsers.rows import row_parts
from perdure.parsers.sections import lay_out
from perdure.ports.parser import Section

_DELIMITERS: Final = ",;\t|"
_LOOKED_AT: Final = 20  # lines that decide which of them it is


class TableParser:
    """Reads rows of any number, streaming."""

    name = "table-1"
    suffixes = frozenset({".csv", ".tsv", ".tab"})
    media_types = frozenset({"text/csv", "text/tab-separated-values"})
    signature = b""

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield sections of some rows, with `row`."""
        return lay_out(row_parts(_rows(lines(decode(stream, encoding)))))


def _rows(source: Iterator[str]) -> Iterator[list[str]]:
    head = list(islice(source, _LOOKED_AT))
    reader = csv.reader(chain(head, source), delimiter=_delimiter(head))
    try:
        for row in reader:
            yield [" ".join(cell.split()) for cell in row]
    except csv.Error as error:
        raise DocumentUnreadable(
            f"it is no table near line {reader.line_num:,} ({error}); look for a quotation mark that is not closed"
        ) from None


def _delimiter(head: list[str]) -> str:
    """Which sign parts most rows into as many cells as the first."""
    return max(_DELIMITERS, key=lambda sign: _alike(head, sign))


def _alike(head: list[str], delimiter: str) -> int:
    try:
        rows = [len(row) for row in csv.reader(head, delimiter=delimiter) if row]
    except csv.Error:
        return 0
    return rows.count(rows[0]) if rows and rows[0] > 1 else 0
