from __future__ import annotations

import codecs
import io
import itertools
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.domain.errors import DocumentEmpty, DocumentUnreadable, InvalidInput
from perdure.parsers.decoding import BLOCK
from perdure.parsers.sections import SECTION
from perdure.parsers.text import TextParser
from tests.unit.parsers.streams import Trickle, parsed

TEXT = TextParser()
GREEK = "Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν. "


def test_small_text_is_one_section_as_it_is() -> None:
    (section,) = parsed(TEXT, "one\n\ntwo\n")
    assert (section.text, section.start, section.metadata) == ("one\n\ntwo\n", 0, {})


@pytest.mark.parametrize(
    ("mark", "codec"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_byte_order_mark_decides_and_is_dropped(mark: bytes, codec: str) -> None:
    (section,) = parsed(TEXT, mark + GREEK.encode(codec))
    assert section.text == GREEK


def test_named_encoding_is_used() -> None:
    (section,) = parsed(TEXT, "naïve café".encode("cp1252"), "cp1252")
    assert section.text == "naïve café"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_byte_order_mark_is_dropped_under_a_named_encoding_too(encoding: str) -> None:
    data = codecs.BOM_UTF8 + b"abc" if encoding == "utf-8" else "abc".encode("utf-16")
    assert parsed(TEXT, data, encoding)[0].text == "abc"


@pytest.mark.parametrize("encoding", ["no-such", "hex", "undefined", "bad\0name"])
def test_unknown_encoding_is_refused_with_examples(encoding: str) -> None:
    with pytest.raises(InvalidInput, match="expected a name such as utf-8"):
        parsed(TEXT, b"abc", encoding)


@pytest.mark.parametrize("offset", [0, 5, BLOCK - 1, BLOCK, BLOCK + 7, 2 * BLOCK])
def test_wrong_encoding_names_byte_offset_and_remedy(offset: int) -> None:
    data = b"a" * offset + "é".encode("latin-1") + b"bc"
    with pytest.raises(DocumentUnreadable, match=rf"byte {offset} \(0xe9\).*--encoding latin-1.*iconv"):
        parsed(TEXT, data)


def test_character_cut_by_the_end_of_a_block_is_decoded() -> None:
    text = "a" * (BLOCK - 1) + "é" + "b"
    assert "".join(section.text for section in parsed(TEXT, text)) == text


def test_character_cut_off_at_the_end_of_the_file_is_an_error() -> None:
    with pytest.raises(DocumentUnreadable, match=r"byte 3 \(0xc3\)"):
        parsed(TEXT, b"abc\xc3")


@pytest.mark.parametrize(
    "data",
    [b"abc\x00def", b"\x89PNG\r\n\x1a\n\x00\x00\x00", bytes(range(1, 9)) * 50, b"a" * (BLOCK + 9) + b"\x00"],
    ids=["NUL", "PNG", "control characters", "NUL in the second block"],
)
def test_binary_content_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentUnreadable, match="binary"):
        parsed(TEXT, data)


def test_binary_content_is_refused_under_an_encoding_that_takes_every_byte() -> None:
    with pytest.raises(DocumentUnreadable, match="binary"):
        parsed(TEXT, bytes(range(256)) * 9, "latin-1")


@pytest.mark.parametrize(("data", "encoding"), [(b"a+2AA-b", "utf-7"), (b"\\ud800", "raw_unicode_escape")])
def test_half_a_character_is_refused(data: bytes, encoding: str) -> None:
    with pytest.raises(DocumentUnreadable, match=f"not valid {encoding}"):
        parsed(TEXT, data, encoding)


def test_colours_of_a_terminal_are_text() -> None:
    assert parsed(TEXT, "\x1b[31mred\x1b[0m and so on")[0].text.startswith("\x1b[31m")


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n ", codecs.BOM_UTF8, b" " * (3 * SECTION)])
def test_text_without_text_is_empty(data: bytes) -> None:
    with pytest.raises(DocumentEmpty):
        parsed(TEXT, data)


def test_line_breaks_of_all_systems_become_one() -> None:
    assert parsed(TEXT, "a\r\nb\rc\nd\r\n")[0].text == "a\nb\nc\nd\n"


def test_line_break_cut_by_the_end_of_a_block_is_one() -> None:
    text = "".join(section.text for section in parsed(TEXT, "a" * (BLOCK - 1) + "\r\nb"))
    assert text == "a" * (BLOCK - 1) + "\nb"


def test_long_text_is_cut_between_paragraphs_into_sections_that_follow_one_another() -> None:
    text = "".join(f"Paragraph {number}. {GREEK * 5}\n\n" for number in range(3000))
    sections = parsed(TEXT, text)
    assert len(sections) > 2
    assert all(len(section.text) <= SECTION for section in sections)
    assert all(section.text.endswith("\n\n") for section in sections)
    assert all(text[s.start : s.start + len(s.text)] == s.text for s in sections)
    assert all(a.start + len(a.text) == b.start for a, b in itertools.pairwise(sections))


def test_long_line_is_cut_between_words() -> None:
    sections = parsed(TEXT, "word " * (SECTION // 2))
    assert "".join(section.text for section in sections) == "word " * (SECTION // 2)
    assert all(section.text.endswith(" ") for section in sections)


def test_line_without_a_space_is_cut_where_it_must_be() -> None:
    sections = parsed(TEXT, "x" * (2 * SECTION + 5))
    assert [len(section.text) for section in sections] == [SECTION, SECTION, 5]


def test_blank_stretch_belongs_to_no_section_but_counts() -> None:
    first, last = parsed(TEXT, "a" * SECTION + "\n" * (2 * SECTION) + "b")
    assert (first.start, last.text.strip()) == (0, "b")
    assert last.start + last.text.index("b") == 3 * SECTION


@given(
    plan=st.lists(st.integers(1, 100_000), min_size=1, max_size=5),
    pattern=st.sampled_from(["\n", "\n\n", " ", ""]),
)
@settings(max_examples=10, deadline=None)
def test_cuts_do_not_depend_on_how_the_stream_is_read(plan: list[int], pattern: str) -> None:
    text = pattern.join([GREEK.strip()] * 9000)
    data = text.encode("utf-16")
    plan = [max(step, 1000) for step in plan]
    assert list(TEXT.parse(Trickle(data, plan), None)) == parsed(TEXT, data)


class Log(io.RawIOBase):
    """A line without end, made as it is read."""

    def __init__(self, size: int) -> None:
        self.given = 0
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self.given)
        buffer[:count] = (b"2024-05-06 10:00:00 GET /index.html 200 " * (count // 40 + 1))[:count]
        self.given += count
        return count


def test_log_of_500_megabytes_on_one_line_is_never_held_but_for_a_section() -> None:
    log = Log(500_000_000)
    said = 0
    for section in TEXT.parse(cast("BinaryIO", io.BufferedReader(log)), None):
        said += len(section.text)
        assert log.given - said <= 3 * SECTION
    assert said == 500_000_000


def test_text_of_two_encodings_is_an_error_that_says_where_the_second_begins() -> None:
    with pytest.raises(DocumentUnreadable, match=r"byte 1010 \(0xe9\)"):
        parsed(TEXT, "é".encode() * 500 + " and then été".encode("latin-1")[:-1])
