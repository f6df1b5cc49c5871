"""Rows of a table as text that can be understood, and found, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

from perdure.domain.record import Json

GROUP: Final = 1000
"""Characters of rows that make a section: about a chunk, so that a chunk knows the number of its row."""
_LOOKED_AT: Final = 20  # rows among which the names of the columns are looked for


def row_parts(
    rows: Iterable[Sequence[str]], common: dict[str, Json] | None = None, first: int = 1
) -> Iterator[tuple[str, dict[str, Json]]]:
    """Write each row as ``column: value | column: value``, and gather some; `row` is the first one's number.

    Where no row names the columns, cells stand divided by ``|``.

    Args:
        first: the number of the first row.
    """
    source = iter(rows)
    head = list(islice(source, _LOOKED_AT))
    names = _naming_row(head)
    lines, size, begun = list[str](), 0, first
    for place, row in enumerate(chain(head, source)):
        if place == names and len(head) > names + 1:
            continue
        line = _line(row, head[names] if names is not None and place > names else ())
        if lines and size + len(line) > GROUP:
            yield "\n".join(lines), {**(common or {}), "row": begun}
            lines, size = [], 0
        if line:
            begun = begun if lines else first + place
            lines.append(line)
            size += len(line)
    if lines:
        yield "\n".join(lines), {**(common or {}), "row": begun}


def _naming_row(head: Sequence[Sequence[str]]) -> int | None:
    """The place of the row that names the columns: the first with two or more cells, if none of them is a number, no
    two are alike, and no row below has more than one cell more (the numbers of the rows, which often bear no name).
    """
    filled = [[cell for cell in row if cell] for row in head]
    place = next((place for place, cells in enumerate(filled) if len(cells) > 1), None)
    if place is None:
        return None
    cells = filled[place]
    widest = max(len(cells) for cells in filled[place:])
    fits = len({*cells}) == len(cells) and widest <= len(cells) + 1 and not any(map(_is_number, cells))
    return place if fits else None


def _is_number(text: str) -> bool:
    return text.translate(_MARKS).isdecimal()


_MARKS: Final = str.maketrans("", "", ".,-+% ")


def _line(row: Sequence[str], names: Sequence[str]) -> str:
    named = ((names[place] if place < len(names) else "", cell) for place, cell in enumerate(row) if cell)
    return " | ".join(f"{name}: {cell}" if name else cell for name, cell in named)
