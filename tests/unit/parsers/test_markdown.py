from __future__ import annotations

import pytest

from perdure.domain.errors import DocumentEmpty
from perdure.parsers.markdown import MarkdownParser
from perdure.parsers.outline import WHOLE
from perdure.parsers.sections import SECTION
from tests.unit.parsers.streams import headings, parsed

MARKDOWN = MarkdownParser()

PAGE = """\
Before any heading.

# Handbook

Welcome.

## Leave

Thirty days.

### Sick leave

Tell us.

Pay
---

On the 25th.
"""


def test_sections_know_the_path_of_their_headings() -> None:
    sections = parsed(MARKDOWN, PAGE)
    assert headings(sections) == [
        None,
        ["Handbook"],
        ["Handbook", "Leave"],
        ["Handbook", "Leave", "Sick leave"],
        ["Handbook", "Pay"],
    ]


def test_source_is_kept_whole_and_in_place() -> None:
    sections = parsed(MARKDOWN, PAGE)
    assert "".join(section.text for section in sections) == PAGE
    assert all(PAGE[s.start : s.start + len(s.text)] == s.text for s in sections)


def test_heading_without_text_of_its_own_belongs_to_what_follows() -> None:
    sections = parsed(MARKDOWN, "# A\n\n## B\n\ntext\n\n## C\n## D\nmore\n")
    assert headings(sections) == [["A", "B"], ["A", "D"]]
    assert sections[0].text == "# A\n\n## B\n\ntext\n\n"
    assert sections[1].text == "## C\n## D\nmore\n"


@pytest.mark.parametrize(
    "text",
    [
        "```sh\n# a comment\n```\n",
        "~~~\n# a comment\n~~~\n",
        "    # code by indentation\n",
        "> # quoted\n",
        "- # in a list\n",
        "- item\n---\n",
        "<!--\n# hidden\n-->\n",
        "#hashtag\n",
        "a\n\n---\n\nb\n",
    ],
)
def test_what_only_looks_like_a_heading_is_none(text: str) -> None:
    assert headings(parsed(MARKDOWN, text)) == [None]


def test_front_matter_is_text_and_no_heading() -> None:
    sections = parsed(MARKDOWN, "---\ntitle: Leave\ntags: hr\n---\n\n# Days\n\nThirty.\n")
    assert headings(sections) == [None, ["Days"]]
    assert "title: Leave" in sections[0].text


def test_rule_at_the_top_is_no_front_matter() -> None:
    assert headings(parsed(MARKDOWN, "---\n\n# One\n\na\n\n---\n\n# Two\n\nb\n")) == [None, ["One"], ["Two"]]


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("# The `claim` call", "The claim call"),
        ("# *Very* **strong** ~x~", "Very strong ~x~"),
        ("# [Docs](http://example.org) & more", "Docs & more"),
        ("# ![logo](a.png) Perdure", "logo Perdure"),
        ("# Hi <b>there</b> ##", "Hi there"),
        ("two\nlines\n=====", "two lines"),
    ],
)
def test_titles_are_without_markup(source: str, title: str) -> None:
    assert headings(parsed(MARKDOWN, f"{source}\n\ntext\n")) == [[title]]


def test_title_without_words_is_left_out_of_the_path() -> None:
    assert headings(parsed(MARKDOWN, "#\n\ntext\n")) == [None]


def test_line_breaks_that_only_python_knows_do_not_shift_sections() -> None:
    text = "a\x0cb\u2028c\x85d\n\n# One\n\nx\n"
    assert [section.text for section in parsed(MARKDOWN, text)] == ["a\x0cb\u2028c\x85d\n\n", "# One\n\nx\n"]


def test_heading_on_the_last_line_without_a_break() -> None:
    assert headings(parsed(MARKDOWN, "text\n\n# End")) == [None, ["End"]]


def test_long_section_is_cut_and_keeps_its_heading() -> None:
    sections = parsed(MARKDOWN, "# Long\n\n" + "Some words. " * (SECTION // 6))
    assert len(sections) > 1
    assert headings(sections) == [["Long"]] * len(sections)
    assert all(len(section.text) <= SECTION for section in sections)


def test_very_long_markdown_is_read_as_plain_text() -> None:
    text = "# Title\n\nText.\n\n" * (WHOLE // 16 + 1)
    sections = parsed(MARKDOWN, text)
    assert set(map(str, headings(sections))) == {"None"}
    assert "".join(section.text for section in sections) == text


def test_heading_of_a_megabyte_is_cut_and_takes_no_time() -> None:
    sections = parsed(MARKDOWN, "# " + "*a [" * 250_000 + "\n\ntext\n")
    assert all(len(str(path)) < 1010 for path in headings(sections))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty(text: str) -> None:
    with pytest.raises(DocumentEmpty):
        parsed(MARKDOWN, text)
