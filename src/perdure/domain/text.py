"""Where text may be cut, and what in it belongs together."""

from __future__ import annotations

import re
from typing import Final

_PIECE: Final = re.compile(r"[^\s'’]+")
_JOINED: Final = re.compile(r"\w[\W_]+\w")
MOST_PIECES: Final = 16


def cut(text: str, limit: int, start: int = 0) -> int:
    """Return where the piece of at most `limit` characters that begins at `start` best ends.

    After the last empty line in its second half; else after the last line break there, else after the last
    space, else at the limit. Only ``text[start : start + limit]`` decides, so that a stream is cut at the same
    places however it was read.
    """
    end = start + limit
    if len(text) <= end:
        return len(text)
    for boundary in ("\n\n", "\n", " "):
        found = text.rfind(boundary, start + limit // 2, end)
        if found != -1:
            return found + len(boundary)
    return end


def joined_pieces(text: str) -> list[str]:
    """Return what a query writes in one piece though an index may take it for several words, ``pg_dump`` or ``os.path``:
    where they stand together they tell much more than each alone. The first 16; apostrophes part words (``don't``).
    """
    pieces = (piece for piece in _PIECE.findall(text) if _JOINED.search(piece))
    return list(dict.fromkeys(pieces))[:MOST_PIECES]
