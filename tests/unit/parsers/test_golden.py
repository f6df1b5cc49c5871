"""The same text gives the same chunks, byte for byte, on every Python and in every run: its ids are written down here.

`make bench ARGS="chunk-ids --python …"` compares two interpreters on real documents.
"""

from __future__ import annotations

import hashlib
import io

import pytest

from perdure.chunkers.recursive import RecursiveChunker
from perdure.domain.document import Document, make_chunk
from perdure.parsers import default_parsers
from perdure.parsers.registry import HEAD
from tests.unit.parsers import made

PROSE = """\
The quiet harbour – “Naïve Café” – opens at seven; whoever comes earlier waits. Ἐν ἀρχῇ ἦν ὁ λόγος. 日本語の文章です。

Leave is thirty days a year. It may be split, but one part lasts two weeks:
it is agreed with the team before the end of March. What is left over is lost in the year that follows.

    def leave(days: int = 30) -> str:
        return f"{days} days"  # naïve
"""
CHAPTERS = {f"Chapter {number}": PROSE.replace("thirty", f"{number * 10}") * 2 for number in range(1, 4)}
PLAIN = {name: text.encode("ascii", "ignore").decode() for name, text in CHAPTERS.items()}
WHOLE = "\n\n".join(f"# {name}\n\n{text}" for name, text in CHAPTERS.items())
ROWS = [("Day", "What"), *((number, sentence) for number, sentence in enumerate(PROSE.split(". ")))]
ATTACHED = made.mail("Leave", WHOLE)
ATTACHED.add_attachment(made.word(CHAPTERS), maintype="application", subtype="x", filename="all.docx")

DOCUMENTS = {
    "a.txt": WHOLE.encode("utf-16"),
    "a.md": WHOLE.encode(),
    "a.rst": WHOLE.replace("# ", "Chapters\n========\n\n").encode(),
    "a.html": made.page("Leave", WHOLE).encode(),
    "a.pdf": made.pdf(PLAIN),
    "a.docx": made.word(CHAPTERS),
    "a.pptx": made.slides(CHAPTERS),
    "a.xlsx": made.sheets({"Leave": ROWS}),
    "a.epub": made.book(CHAPTERS),
    "a.eml": ATTACHED.as_bytes(),
    "a.csv": made.table(ROWS),
    "a.srt": made.subtitles(PROSE.split(". ")),
    "a.py": PROSE.encode(),
}

GOLDEN = {
    "a.txt": "18ef9063fde2555a",
    "a.md": "e5fd62764b02b961",
    "a.rst": "872b96dcb2772d50",
    "a.html": "668d3a6c5f74d4c8",
    "a.pdf": "fe1ef04561a1d705",
    "a.docx": "e60c82d7ff9a6930",
    "a.pptx": "9836fba3182af004",
    "a.xlsx": "0457286f308abc95",
    "a.epub": "bc73cadc4d38c661",
    "a.eml": "eede988cc6b39778",
    "a.csv": "7bb0fdb528f71c1f",
    "a.srt": "6b296d4a9fb94d84",
    "a.py": "cef14eb954972e02",
}


def digest(name: str, data: bytes) -> str:
    parser, chunker = default_parsers().choose(name, None, data[:HEAD]), RecursiveChunker()
    document = Document(
        tenant="default",
        namespace="default",
        id=name,
        version=1,
        content_hash="0" * 64,
        ingestion_id="golden",
    )
    ids = [
        make_chunk(document, "golden", index, text, section.start + offset).chunk_id
        for section in parser.parse(io.BytesIO(data), None)
        for index, (offset, text) in enumerate(chunker.split(section.text))
    ]
    return hashlib.sha256("".join(ids).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_chunk_ids_are_those_written_down(name: str) -> None:
    assert digest(name, DOCUMENTS[name]) == GOLDEN[name]
