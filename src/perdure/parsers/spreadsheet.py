"""Spreadsheets (.xlsx, .xls, .ods)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any, BinaryIO

from perdure.domain.errors import DocumentUnreadable
from perdure.domain.record import Json
from perdure.parsers.archive import open_archive
from perdure.parsers.libraries import library
from perdure.parsers.rows import row_parts
from perdure.parsers.sections import lay_out
from perdure.ports.parser import Section


class SpreadsheetParser:
    """Reads the sheets that are not hidden, with the values that formulas had when it was saved (library:
    python-calamine).
    """

    name = "spreadsheet-1"
    suffixes = frozenset({".xlsx", ".xlsm", ".xlsb", ".ods"})
    media_types = frozenset(
        {
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "application/vnd.oasis.opendocument.spreadsheet",
        }
    )
    signature = b"PK\x03\x04"
    libraries = ("python_calamine",)

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield sections of some rows, with `sheet` and `row`."""
        calamine = library("python_calamine")
        self._check(stream)
        try:
            workbook = calamine.CalamineWorkbook.from_filelike(stream)
        except calamine.PasswordError:
            raise DocumentUnreadable("it is encrypted; save it without a password, and ingest that") from None
        return lay_out(_parts(workbook, calamine))

    def _check(self, stream: BinaryIO) -> None:
        open_archive(stream, "xl/", "content.xml")
        stream.seek(0)


class XlsParser(SpreadsheetParser):
    """Reads the format that Excel wrote before 2007, which is no archive."""

    name = "xls-1"
    suffixes = frozenset({".xls"})
    media_types = frozenset({"application/vnd.ms-excel"})
    signature = b"\xd0\xcf\x11\xe0"

    def _check(self, stream: BinaryIO) -> None:
        pass


def _parts(workbook: Any, calamine: Any) -> Iterator[tuple[str, dict[str, Json]]]:
    for sheet in workbook.sheets_metadata:
        shown = sheet.visible == calamine.SheetVisibleEnum.Visible
        if shown and sheet.typ == calamine.SheetTypeEnum.WorkSheet:
            cells = workbook.get_sheet_by_name(sheet.name)
            rows = ([_text(cell) for cell in row] for row in cells.iter_rows())
            yield from row_parts(rows, {"sheet": sheet.name}, 1 + (cells.start or (0, 0))[0])


def _text(cell: Any) -> str:
    match cell:
        case bool():
            return "yes" if cell else "no"
        case float():
            return f"{cell:.15g}"
        case datetime():
            return cell.isoformat(" ", "minutes")
        case date() | time():
            return cell.isoformat()
        case _:
            return " ".join(str(cell).split())
