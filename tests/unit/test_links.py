"""What the pages point at is there, and each page is pointed at by the index of its room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
OURS = re.compile(r"(?:src|tests|docs)/[\w./-]+")


def tokens(page: Path) -> Iterator[Token]:
    for block in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        yield block
        yield from block.children or ()


@cache
def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub names them."""
    found = MarkdownIt("commonmark").parse(page.read_text())
    titles = [after for each, after in pairwise(found) if each.type == "heading_open"]
    said = ("".join(part.content for part in title.children or ()) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in said}


def links(page: Path) -> list[str]:
    found = (str(token.attrs["href"]) for token in tokens(page) if token.type == "link_open")
    return [unquote(link) for link in found if not re.match(r"\w+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_at_is_there(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    named = [token.content for token in tokens(page) if token.type == "code_inline"]
    missing = [name for name in named if OURS.fullmatch(name) and not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize(
    "index", sorted((ROOT / "docs").glob("*/index.md")), ids=lambda index: index.parent.name
)
def test_the_index_of_a_room_lists_its_pages(index: Path) -> None:
    listed = {link.partition("#")[0] for link in links(index)}
    assert {page.name for page in index.parent.glob("*.md")} - {"index.md"} <= listed


def test_the_map_of_the_house_names_each_room() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    house = page[page.index("## The house") : page.index("## The way of a document")]
    named = set(re.findall(r"`([a-z_]+(?:/|\.py))`", house))
    code = [path for path in (ROOT / "src/perdure").iterdir() if not path.name.startswith("__")]
    assert {path.name for path in code if path.suffix == ".py"} <= named
    assert {f"{path.name}/" for path in code if path.is_dir()} == {
        name for name in named if name.endswith("/")
    }
