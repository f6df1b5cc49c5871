from __future__ import annotations

import codecs

import pytest

from perdure.domain.errors import UnsupportedFormat
from perdure.parsers import default_parsers

PARSERS = default_parsers()
TEXT = b"Some words.\n"


@pytest.mark.parametrize(
    ("name", "media_type", "parser"),
    [
        ("a.md", None, "markdown-1"),
        ("dir.d/A.MD", None, "markdown-1"),
        ("a.rst", None, "rst-1"),
        ("a.html", None, "html-2"),
        ("a.txt", None, "text-1"),
        ("a.txt", "text/markdown", "markdown-1"),
        ("a.txt", "Text/HTML; charset=utf-8", "html-2"),
        ("a.md", "application/octet-stream", "markdown-1"),
        ("a.md", "", "markdown-1"),
        ("a.py", None, "code-1"),
        ("a.json", None, "text-1"),
        ("README", None, "text-1"),
        ("a.txt", "text/csv", "table-1"),
        ("", None, "text-1"),
    ],
)
def test_media_type_counts_more_than_the_name_and_the_name_more_than_the_content(
    name: str, media_type: str | None, parser: str
) -> None:
    assert PARSERS.choose(name, media_type, TEXT).name == parser


@pytest.mark.parametrize(
    "head",
    [b"", "Ünïcode".encode(), "naïve".encode("latin-1"), codecs.BOM_UTF16_LE + "text".encode("utf-16-le")],
)
def test_what_looks_like_text_is_text(head: bytes) -> None:
    assert PARSERS.choose("notes.xyz", None, head).name == "text-1"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
        ("a.jar", b"PK\x03\x04\x14\x00\x06\x00"),
        ("noname", b"\x7fELF\x02\x01\x01\x00"),
    ],
)
def test_binary_of_unknown_format_is_refused_with_what_is_read(name: str, head: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match=r"convert it to text first .*\.html.*\.md.*\.rst.*\.txt"):
        PARSERS.choose(name, None, head)


def test_suffixes_are_known_for_whoever_walks_a_folder() -> None:
    assert {".md", ".rst", ".html", ".txt"} <= PARSERS.suffixes
