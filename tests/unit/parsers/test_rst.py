from __future__ import annotations

import io

import docutils.nodes
import docutils.parsers.rst
import docutils.utils
import pytest
from docutils.frontend import get_default_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.domain.errors import DocumentEmpty
from perdure.parsers.rst import RstParser
from tests.unit.parsers.streams import headings, parsed

RST = RstParser()

PAGE = """\
========
Handbook
========

Welcome.

Leave
=====

Thirty days::

    Not a title
    ===========

Sick leave
----------

Tell us.

Pay
===

On the 25th.
"""


def outline(text: str) -> list[list[str]]:
    """The path of every title, as our parser finds it."""
    path: list[tuple[int, str]] = []
    found = []
    for heading in RST.headings(text):
        path = [above for above in path if above[0] < heading.level] + [(heading.level, heading.title)]
        found.append([title for _, title in path])
    return found


def docutils_outline(text: str) -> list[list[str]]:
    """The path of every title, as docutils finds it."""
    options = get_default_settings(docutils.parsers.rst.Parser)
    options.report_level, options.halt_level, options.warning_stream = 5, 6, io.StringIO()
    document = docutils.utils.new_document("test", options)
    docutils.parsers.rst.Parser().parse(text, document)
    found: list[list[str]] = []

    def walk(node: docutils.nodes.Element, path: list[str]) -> None:
        for child in node.children:
            if isinstance(child, docutils.nodes.section):
                inner = [*path, " ".join(child[0].astext().split())]
                found.append(inner)
                walk(child, inner)

    walk(document, [])
    return found


def test_sections_know_the_path_of_their_headings_and_keep_the_source() -> None:
    sections = parsed(RST, PAGE)
    assert headings(sections) == [
        ["Handbook"],
        ["Handbook", "Leave"],
        ["Handbook", "Leave", "Sick leave"],
        ["Handbook", "Pay"],
    ]
    assert "".join(section.text for section in sections) == PAGE


@pytest.mark.parametrize(
    "text",
    [
        PAGE,
        "Title\n=====\n\ntext",
        "Title\n=====",
        "A\n=\n\nB\n-\n\nC\n~\n\nD\n-\n\nE\n=\n",
        "Title\n====\n",
        "Titles\n===\n",
        "T\n=\nText directly below.\n",
        "=====\n Ind\n=====\n\ntext\n",
        "A paragraph\nof two lines\n------------\n",
        "- item\n------\n\ntext\n",
        "1. Numbered\n===========\n\ntext\n",
        ":field: value\n-------------\n",
        "=====  =====\nA      B\n=====  =====\n1      2\n=====  =====\n",
        "+---+---+\n| a | b |\n+---+---+\n",
        ".. note::\n\n   Title\n   =====\n",
        ".. _label:\n\nTitle\n=====\n\ntext\n",
        "text\n\n----\n\nmore\n",
        "Title\n=====\n\n----\n\nmore\n",
        "   Quoted\n   ------\n",
        ">>> 1\n-----\n",
        "Ünïcode tïtle\n=============\n\ntext\n",
        "**Strong** and ``code``\n=======================\n\ntext\n",
        "`Link <http://example.org>`_\n============================\n\ntext\n",
        "A :emphasis:`role`\n==================\n\ntext\n",
        "C\\+\\+\n======\n\ntext\n",
        "",
    ],
)
def test_titles_are_those_that_docutils_finds(text: str) -> None:
    assert outline(text) == docutils_outline(text)


_BLOCKS = [
    "One\n===",
    "Two words\n---------",
    "===\nTop\n===",
    "~~~~~~~\n Inner \n~~~~~~~",
    "A paragraph\nof two lines",
    "A paragraph\nthat ends so\n------------",
    "Code::\n\n    Title\n    =====",
    "- item\n- item\n\n  Title\n  more",
    "term\n    definition",
    ".. note:: Title\n   =====",
    ".. _target:",
    "=====  =====\nA      B\n=====  =====\n1      2\n=====  =====",
    "+---+---+\n| a | b |\n+---+---+",
    "text\n\n-----\n\ntext",
]


@given(blocks=st.lists(st.tuples(st.sampled_from(_BLOCKS), st.sampled_from(["\n\n", "\n\n\n"])), max_size=8))
@settings(max_examples=60, deadline=None)
def test_titles_are_those_that_docutils_finds_among_other_blocks(blocks: list[tuple[str, str]]) -> None:
    text = "".join(block + gap for block, gap in blocks)
    theirs, ours = docutils_outline(text), outline(text)
    # A title whose style comes too early is a severe error to docutils, which drops it; we keep it.
    if len(theirs) == len(ours):
        assert theirs == ours
    else:
        assert {path[-1] for path in theirs} <= {path[-1] for path in ours}


def test_title_may_be_shorter_than_docutils_wants_but_not_a_dash() -> None:
    assert headings(parsed(RST, "Long title\n--\n\ntext\n")) == [None]


def test_line_of_a_megabyte_is_no_title_and_takes_no_time() -> None:
    assert outline("*a " * 300_000 + "\n" + "=" * 1_000_000 + "\n\ntext\n") == []


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty(text: str) -> None:
    with pytest.raises(DocumentEmpty):
        parsed(RST, text)
