"""Tables in text, subtitles and source code: read line by line in this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from perdure.domain.errors import DocumentEmpty, DocumentUnreadable
from perdure.parsers.decoding import LINE, lines
from perdure.parsers.subtitles import SubtitleParser
from perdure.parsers.table import TableParser
from perdure.parsers.text import CodeParser
from tests.unit.parsers import made
from tests.unit.parsers.streams import parsed

TABLE, SUBTITLES = TableParser(), SubtitleParser()


def told(data: bytes | str) -> list[tuple[str, object]]:
    return [(section.text, section.metadata.get("row")) for section in parsed(TABLE, data)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found(delimiter: str) -> None:
    rows = [("Name", "Said"), ("Ann", 'one, two; "three" | four\nfive'), ("Bob", "")]
    assert told(made.table(rows, delimiter)) == [
        ('Name: Ann | Said: one, two; "three" | four five\nName: Bob', 2)
    ]


def test_table_without_names_is_rows_of_cells() -> None:
    assert told("1,2,3\n4,5,6\n") == [("1 | 2 | 3\n4 | 5 | 6", 1)]


def test_column_that_bears_no_name_is_told_without() -> None:
    assert told(",Name,Days\n1,Ann,30\n2,Bob,28\n") == [
        ("1 | Name: Ann | Days: 30\n2 | Name: Bob | Days: 28", 2)
    ]


def test_one_column_is_lines() -> None:
    assert told("one\n\ntwo\n") == [("one\ntwo", 1)]


def test_names_alone_are_better_than_nothing() -> None:
    assert told("Name,Days\n") == [("Name | Days", 1)]


def test_utf_16_table_is_read() -> None:
    assert told("Name,Days\nÄnn,30\n".encode("utf-16")) == [("Name: Änn | Days: 30", 2)]


def test_quotation_mark_that_is_not_closed_is_an_error_with_its_line() -> None:
    with pytest.raises(DocumentUnreadable, match=r"no table near line .* quotation mark that is not closed"):
        parsed(TABLE, 'a,b\n"c,d\n' + "x,y\n" * 100_000)


@pytest.mark.parametrize("data", ["", "\n\n", ",,,\n,,,\n"])
def test_empty_table_has_no_text(data: str) -> None:
    with pytest.raises(DocumentEmpty):
        parsed(TABLE, data)


def test_lines_end_where_they_end_however_the_text_came() -> None:
    text = "one\ntwo\n\nthree"
    for size in range(1, 8):
        pieces = (text[start : start + size] for start in range(0, len(text), size))
        assert list(lines(pieces)) == ["one\n", "two\n", "\n", "three"]


def test_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    asked = 0

    def endless() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "x" * 100_000

    with pytest.raises(DocumentUnreadable, match=r"a line of more than 1,000,000 characters"):
        list(itertools.islice(lines(endless()), 10))
    assert asked < 2 * LINE / 100_000


# --- subtitles ----------------------------------------------------------------------------------


@pytest.mark.parametrize("web", [False, True])
def test_speech_is_gathered_for_up_to_a_minute_with_its_time(web: bool) -> None:
    sections = parsed(SUBTITLES, made.subtitles([f"Sentence {number}." for number in range(30)], web=web))
    assert [(s.metadata["time"], s.metadata["until"]) for s in sections] == [
        (0.0, 59.0),
        (60.0, 119.0),
        (120.0, 149.0),
    ]
    assert sections[0].text == "\n".join(f"Sentence {number}." for number in range(12))


def test_speakers_stay_and_markup_goes() -> None:
    (section,) = parsed(
        SUBTITLES,
        "WEBVTT\n\n01:02:03.500 --> 01:02:05.000 align:start\n<v Ann>Hello <b>you</b>\nthere\n\n"
        "NOTE not said\n\n01:02:06.000 --> 01:02:07.000\n{\\an8}Bye\n",
    )
    assert section.text == "Ann: Hello you there\nBye"
    assert section.metadata == {"time": 3723.5, "until": 3727.0}


def test_text_in_the_name_of_subtitles_is_refused() -> None:
    with pytest.raises(DocumentUnreadable, match="no times such as"):
        parsed(SUBTITLES, "Just some words.\n")


def test_subtitles_without_words_have_no_text() -> None:
    with pytest.raises(DocumentEmpty):
        parsed(SUBTITLES, "1\n00:00:01,000 --> 00:00:02,000\n\n")


def test_code_is_kept_as_it_is_with_its_language() -> None:
    source = "def f():\n    return 1\n"
    (section,) = parsed(CodeParser("python", ".py"), source)
    assert (section.text, section.metadata) == (source, {"language": "python"})
