"""What the formats of Microsoft Office (ECMA-376) have in common."""

from __future__ import annotations

from posixpath import dirname, join, normpath
from typing import TypeVar
from zipfile import ZipFile

from perdure.parsers.archive import XmlReader, attribute, read_tree

Part = TypeVar("Part")


class Paragraphs(XmlReader[Part]):
    """Gathers the text of paragraphs and of table rows, which Word and PowerPoint mark with the same names."""

    def __init__(self) -> None:
        super().__init__()
        self._open: list[list[str]] = []  # of the paragraphs that are open: text boxes lie inside others
        self._rows: list[list[str]] = []  # of the tables that are open, the row under way
        self._cells: list[list[str]] = []
        self._run = 0  # how many `r` (and `fld`) are open
        self._said = False  # whether text comes now
        self._fallback = 0  # what older programs show in place of what was read already

    def paragraph(self, text: str) -> None:
        """Take a paragraph outside of tables."""

    def row(self, text: str) -> None:
        """Take a row of a table, its cells divided by ``|``."""

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if name == "p":
            self._open.append([])
        elif name == "t":
            self._said = True
        elif name in {"r", "fld"}:
            self._run += 1
        elif name == "tr":
            self._rows.append([])
        elif name == "tc":
            self._cells.append([])
        elif name == "Fallback":
            self._fallback += 1
        elif name in _SPACES and (self._run or name == "br"):
            self._say(_SPACES[name])

    def _end(self, name: str) -> None:
        if name == "p":
            self._end_paragraph("".join(self._open.pop()).strip())
        elif name == "t":
            self._said = False
        elif name in {"r", "fld"}:
            self._run -= 1
        elif name == "tr":
            self._end_row(" | ".join(self._rows.pop()))
        elif name == "tc":
            self._rows[-1].append(" ".join(self._cells.pop()))
        elif name == "Fallback":
            self._fallback -= 1

    def _text(self, text: str) -> None:
        if self._said:
            self._say(text)

    def _say(self, text: str) -> None:
        if self._open and not self._fallback:
            self._open[-1].append(text)

    def _end_paragraph(self, text: str) -> None:
        if not text:
            return
        if self._cells:
            self._cells[-1].append(text)
        else:
            self.paragraph(text)

    def _end_row(self, text: str) -> None:
        if self._cells:  # a table inside a table
            self._cells[-1].append(text)
        elif text.strip(" |"):
            self.row(text)


_SPACES = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def related(archive: ZipFile, name: str = "") -> dict[str, list[tuple[str, str]]]:
    """What an entry refers to: last word of the relation → [(id, name of the entry)]; of the archive without `name`."""
    relations = join(dirname(name), "_rels", name.rpartition("/")[2] + ".rels")
    found: dict[str, list[tuple[str, str]]] = {}
    if relations not in archive.namelist():
        return found
    for element in read_tree(archive, relations):
        target, kind = attribute(element, "Target"), attribute(element, "Type")
        if target and kind and attribute(element, "TargetMode") != "External":
            path = normpath(join("/", dirname(name), target)).lstrip("/")
            found.setdefault(kind.rpartition("/")[2], []).append((attribute(element, "Id") or "", path))
    return found


def first(relations: dict[str, list[tuple[str, str]]], kind: str, default: str) -> str:
    """The first entry of a kind."""
    return relations[kind][0][1] if kind in relations else default
