"""Streams for parser tests."""

from __future__ import annotations

import io
from collections.abc import Sequence

from perdure.ports.parser import Parser, Section


class Trickle(io.BytesIO):
    """Gives at most as many bytes at a time as its plan says, in turn."""

    def __init__(self, data: bytes, plan: Sequence[int]) -> None:
        super().__init__(data)
        self._plan = plan
        self._turn = 0

    def read(self, size: int | None = -1, /) -> bytes:
        allowed = self._plan[self._turn % len(self._plan)]
        self._turn += 1
        return super().read(allowed if size is None or size < 0 else min(size, allowed))


def parsed(parser: Parser, data: bytes | str, encoding: str | None = None) -> list[Section]:
    raw = data.encode() if isinstance(data, str) else data
    return list(parser.parse(io.BytesIO(raw), encoding))


def headings(sections: Sequence[Section]) -> list[object]:
    return [section.metadata.get("heading") for section in sections]
