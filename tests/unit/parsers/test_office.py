"""Slides and sheets."""

from __future__ import annotations

import io
from datetime import date, datetime
from pathlib import Path

import openpyxl
import pptx
import pytest
import xlwt
from pptx.util import Inches

from perdure.domain.errors import DocumentEmpty, DocumentUnreadable
from perdure.parsers.pptx import PptxParser
from perdure.parsers.sandbox import Limits, Sandboxed
from perdure.parsers.spreadsheet import SpreadsheetParser, XlsParser
from tests.unit.parsers import made
from tests.unit.parsers.streams import headings, parsed

HALF_PAST_NINE = datetime(2024, 5, 1, 9, 30)  # noqa: DTZ001 - as spreadsheets have it
PPTX, SHEETS = PptxParser(), SpreadsheetParser()


def test_slides_come_in_order_with_title_number_and_notes() -> None:
    sections = parsed(PPTX, made.slides(made.TOPICS))
    assert [section.metadata["slide"] for section in sections] == [1, 2, 3, 4, 5, 6]
    assert headings(sections) == [[name] for name in made.TOPICS]
    for name, section in zip(made.TOPICS, sections, strict=True):
        expected = f"{name} {made.TOPICS[name]} notes-{name}"
        assert section.text.split() == expected.split()


def test_slide_order_is_that_of_the_presentation_not_of_the_files() -> None:
    deck = pptx.Presentation(io.BytesIO(made.slides({"one": "first", "two": "second"})))
    order = deck.slides._sldIdLst
    order.append(order[0])
    data = io.BytesIO()
    deck.save(data)
    assert headings(parsed(PPTX, data.getvalue())) == [["two"], ["one"]]


def test_tables_and_text_boxes_on_slides_are_read_and_margins_are_not() -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    box = slide.shapes.add_textbox(Inches(1), Inches(1), Inches(2), Inches(1))
    box.text_frame.text = "A box"
    cells = slide.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(2)).table
    for place, text in enumerate(("Name", "Days", "Ann", "30")):
        cells.cell(*divmod(place, 2)).text = text
    data = io.BytesIO()
    deck.save(data)
    (section,) = parsed(PPTX, data.getvalue())
    assert section.text == "A box\nName | Days\nAnn | 30"
    assert section.metadata == {"slide": 1}


def test_the_empty_presentation_has_no_text() -> None:
    template = Path(pptx.__file__).parent / "templates" / "default.pptx"
    with pytest.raises(DocumentEmpty):
        parsed(PPTX, template.read_bytes())


# --- sheets -------------------------------------------------------------------------------------


def test_rows_say_what_their_columns_are_and_where_they_stand() -> None:
    tables: dict[str, list[tuple[object, ...]]] = {
        "Leave": [
            ("Name", "Days", "From", "Half"),
            ("Ann", 30, date(2024, 5, 1), 0.5),
            ("Bob", None, None, True),
        ],
        "Times": [("A title over it all",), (), ("When", "What"), (HALF_PAST_NINE, "start")],
        "Bare": [(1, 2), (3, 4)],
    }
    assert [(section.text, section.metadata) for section in parsed(SHEETS, made.sheets(tables))] == [
        (
            "Name: Ann | Days: 30 | From: 2024-05-01 | Half: 0.5\nName: Bob | Half: yes",
            {"sheet": "Leave", "row": 2},
        ),
        ("A title over it all\nWhen: 2024-05-01 09:30 | What: start", {"sheet": "Times", "row": 1}),
        ("1 | 2\n3 | 4", {"sheet": "Bare", "row": 1}),
    ]


def test_long_sheet_is_cut_between_rows_whose_numbers_are_kept() -> None:
    rows = [("Number", "Text"), *((number, "word " * 10) for number in range(2, 500))]
    sections = parsed(SHEETS, made.sheets({"S": rows}))
    assert len(sections) > 20
    for section in sections:
        assert section.text.startswith(f"Number: {section.metadata['row']} | Text: word")


def test_hidden_sheets_are_left_out() -> None:
    book = openpyxl.Workbook()
    book.worksheets[0].append(["shown"])
    hidden = book.create_sheet("Hidden")
    hidden.append(["secret"])
    hidden.sheet_state = "hidden"
    data = io.BytesIO()
    book.save(data)
    assert [section.text for section in parsed(SHEETS, data.getvalue())] == ["shown"]


def test_old_excel_is_read() -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("Old")
    for row, cells in enumerate((("Name", "Days"), ("Ann", 30))):
        for column, cell in enumerate(cells):
            sheet.write(row, column, cell)
    data = io.BytesIO()
    book.save(data)
    (section,) = parsed(XlsParser(), data.getvalue())
    assert (section.text, section.metadata) == ("Name: Ann | Days: 30", {"sheet": "Old", "row": 2})


def test_one_cell_at_the_far_end_of_a_sheet_takes_no_memory_of_ours() -> None:
    book = openpyxl.Workbook()
    book.worksheets[0]["A1"] = "near"
    book.worksheets[0]["XFD1048576"] = "far"
    data = io.BytesIO()
    book.save(data)
    with pytest.raises(DocumentUnreadable, match=r"500 MB|crashed"):
        list(Sandboxed(SHEETS, Limits(memory=500_000_000)).parse(io.BytesIO(data.getvalue()), None))


def test_empty_workbook_has_no_text() -> None:
    with pytest.raises(DocumentEmpty):
        parsed(SHEETS, made.sheets({"Empty": []}))
