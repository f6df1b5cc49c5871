"""100,000 chunks of real documentation, each with the bundled model's vector, and questions; made once and kept in `build`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from selectolax.lexbor import LexborHTMLParser

from bench.corpus import CACHE, packages
from perdure.chunkers.recursive import RecursiveChunker
from perdure.embedders.local import LocalEmbedder

PACKAGES: Final = ("perl-doc", "python3.11-doc", "postgresql-doc-15", "linux-doc-6.1")
QUESTIONS: Final = 300
SIZE: Final = 800
"""Most characters of a chunk: so there are 100,000 of them."""


class Corpus(NamedTuple):
    """Chunks as they follow one another in their pages, and questions.

    Attributes:
        sources: of each chunk, the number of its package.
        vectors: of the chunks, float32, each of length 1; `questions` the same.
    """

    texts: list[str]
    sources: list[int]
    vectors: npt.NDArray[np.float32]
    questions: npt.NDArray[np.float32]


def corpus(chunks: int) -> Corpus:
    """Read it from the cache, or make it: the packages' pages in turn, so that each has its share."""
    folder = CACHE.with_name(f"search-{chunks}")
    if not (folder / "questions.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make(folder, chunks)
    texts, sources = json.loads((folder / "texts.json").read_text())
    return Corpus(texts, sources, np.load(folder / "vectors.npy"), np.load(folder / "questions.npy"))


def _make(folder: Path, chunks: int) -> None:
    found: dict[str, int] = {}
    open_ = [(number, _pieces(package)) for number, package in enumerate(packages(*PACKAGES))]
    while open_ and len(found) < chunks:
        for number, pieces in list(open_):
            page = next(pieces, None)
            if page is None:
                open_.remove((number, pieces))
            for piece in page or ():
                found.setdefault(piece, number)
    texts = list(found)[:chunks]
    [perl] = packages("perl-doc")
    asked = [
        " ".join(question.split())
        for page in sorted(perl.rglob("perlfaq[1-9].pod"))
        for question in re.findall(r"^=head2 (.+?)\n\n", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    np.save(folder / "vectors.npy", asyncio.run(_embed(texts)))
    (folder / "texts.json").write_text(json.dumps([texts, [found[text] for text in texts]]))
    np.save(folder / "questions.npy", asyncio.run(_embed(asked[:QUESTIONS])))


def _pieces(package: Path) -> Iterator[list[str]]:
    """The chunks of each page of a package."""
    chunker = RecursiveChunker(SIZE)
    for page in sorted([*package.rglob("*.pod"), *package.rglob("*.html")]):
        text = page.read_text(errors="replace")
        if page.suffix == ".html":
            body = LexborHTMLParser(text).body
            text = "" if body is None else body.text(separator="\n", strip=True)
        yield [piece for _, piece in chunker.split(text)]


async def _embed(texts: list[str]) -> npt.NDArray[np.float32]:
    model = LocalEmbedder()
    bites = range(0, len(texts), model.max_batch)
    return np.concatenate(
        [await model.embed(texts[start : start + model.max_batch], "document") for start in bites]
    )
