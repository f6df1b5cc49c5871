"""What a way of cutting is called: ``markdown:1200,overlap=100``."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

import msgspec

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record

if TYPE_CHECKING:
    from perdure.ports.parser import Chunker

_KINDS: Final = {
    "fixed": ("fixed:FixedChunker", 1000),
    "recursive": ("recursive:RecursiveChunker", 1000),
    "token": ("token:TokenChunker", 256),
    "sentence": ("sentence:SentenceChunker", 1000),
    "markdown": ("recursive:MarkdownChunker", 1000),
    "code": ("code:CodeChunker", 1000),
}
"""Name → where the chunker is, and its usual size."""
MAX_SIZE: Final = 100_000
_LANGUAGE: Final = re.compile("[a-z]{2,3}")


class Chunking(Record):
    """A way of cutting.

    Attributes:
        kind: `fixed`, `recursive`, `token`, `sentence`, `markdown` or `code`.
        size: most characters of a piece, of `token` most tokens.
        overlap: how much of it a piece may repeat of the one before.
        language: of `sentence`.
    """

    kind: str
    size: int
    overlap: int = 0
    language: str | None = None


def parse(text: str) -> Chunking:
    """Read a name; no library is needed for that.

    Raises:
        InvalidInput: it cannot be read.
    """
    head, *options = text.split(",")
    kind, colon, size = head.partition(":")
    given = dict(option.partition("=")[::2] for option in options)
    try:
        told = {**given, "kind": kind, "size": size if colon else _KINDS[kind][1]}
        read = msgspec.convert(told, Chunking, strict=False)
        fits = 0 <= read.overlap < read.size <= MAX_SIZE and len(given) == len(options)
        if read.language is not None:
            fits = fits and kind == "sentence" and bool(_LANGUAGE.fullmatch(read.language))
        if kind in _KINDS and fits and given.keys() <= {"overlap", "language"}:
            return read
    except (msgspec.ValidationError, KeyError):
        pass
    raise InvalidInput(
        f"chunking is {text[:100]!r}; expected a name ({', '.join(_KINDS)}), then where wanted :SIZE (1 to {MAX_SIZE}), "
        ",overlap=N (less than the size) and, of sentence, ,language=en; for example markdown:1200,overlap=100"
    ) from None


@lru_cache(maxsize=32)
def chunker(text: str) -> Chunker:
    """Make what cuts as the name says.

    Raises:
        InvalidInput: it cannot be read, or a library is missing.
    """
    read = parse(text)
    module, _, name = _KINDS[read.kind][0].partition(":")
    kind = getattr(import_module(f"perdure.chunkers.{module}"), name)
    options = {} if read.language is None else {"language": read.language}
    made: Chunker = kind(read.size, read.overlap, **options)
    return made
