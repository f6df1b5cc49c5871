"""Subtitles (.srt, .vtt)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from perdure.domain.errors import DocumentUnreadable
from perdure.domain.record import Json
from perdure.parsers.decoding import decode, lines
from perdure.parsers.sections import lay_out
from perdure.ports.parser import Section

_CUE: Final = re.compile(r"\s*(?:(\d+):)?(\d\d):(\d\d)[.,](\d{3}) +--> +(?:(\d+):)?(\d\d):(\d\d)[.,](\d{3})")
_SPEAKER: Final = re.compile(r"<v(?:\.[^ >]*)? +([^>]+)>")
_MARKUP: Final = re.compile(r"<[^>]{1,200}>|\{\\[^}]{1,200}\}")
_LONGEST: Final = 1000  # characters that are gathered, about a chunk
_SECONDS: Final = 60.0  # and their time


class SubtitleParser:
    """Reads what is said, streaming; some cues that follow one another make a section."""

    name = "subtitles-1"
    suffixes = frozenset({".srt", ".vtt"})
    media_types = frozenset({"application/x-subrip", "text/vtt"})
    signature = b""

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield sections with `time` and `until`, in seconds from the beginning."""
        return lay_out(_parts(lines(decode(stream, encoding))))


def _parts(source: Iterator[str]) -> Iterator[tuple[str, dict[str, Json]]]:
    said, size, begun, until = list[str](), 0, 0.0, 0.0
    cues = 0
    for start, end, text in _cues(source):
        cues += 1
        if said and (size + len(text) > _LONGEST or end - begun > _SECONDS):
            yield "\n".join(said), {"time": begun, "until": until}
            said, size = [], 0
        begun = begun if said else start
        until = end
        said.append(text)
        size += len(text)
    if said:
        yield "\n".join(said), {"time": begun, "until": until}
    if not cues:
        raise DocumentUnreadable(
            "it has no times such as 00:01:02,500 --> 00:01:04,000; name it .txt if it is text"
        )


def _cues(source: Iterator[str]) -> Iterator[tuple[float, float, str]]:
    """Yield (start, end, text); what stands before the first time, or behind an empty line, is no speech."""
    start, end, held = 0.0, 0.0, None
    for line in source:
        found = _CUE.match(line)
        text = "" if found else _plain(line)
        if held is not None and (found or not text):
            yield start, end, " ".join(held)
            held = None
        if found:
            start, end, held = _seconds(*found.groups()[:4]), _seconds(*found.groups()[4:]), list[str]()
        elif held is not None:
            held.append(text)
    if held:
        yield start, end, " ".join(held)


def _seconds(hours: str | None, minutes: str, seconds: str, thousandths: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(thousandths) / 1000


def _plain(line: str) -> str:
    return " ".join(_MARKUP.sub("", _SPEAKER.sub(r"\1: ", line)).split())
