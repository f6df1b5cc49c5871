"""From bytes to text, piece by piece, with errors that say which byte and what to do."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from perdure.domain.errors import DocumentUnreadable, InvalidInput

BLOCK: Final = 1 << 18
"""Bytes that are decoded at once."""

LINE: Final = 1_000_000
"""Characters of the longest line, for readers that need whole lines."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like UTF-16's, so it is tried before it
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Left out are those that texts do hold: tab, line breaks, form feed, escape (terminal colours).
_CONTROL: Final = bytes([*range(0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20)])
_CONTROL_SHARE: Final = 20
"""One control character in so many makes a file binary."""


def decode(stream: BinaryIO, encoding: str | None) -> Iterator[str]:
    """Yield the stream's text; every line break becomes one LF, a byte order mark is dropped.

    How the stream was cut into reads does not show in the text as a whole.

    Raises:
        InvalidInput: there is no such encoding.
        DocumentUnreadable: the bytes are binary, or not in that encoding.
    """
    block = _read(stream)
    codec = _codec(block[:4], encoding)
    decoder = codecs.getincrementaldecoder(codec)()
    lines = io.IncrementalNewlineDecoder(None, translate=True)
    offset, first = 0, True
    while True:
        # What the decoder still holds from the block before counts in the positions of its errors.
        base = offset - len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
            binary = looks_binary(text.encode())
        except UnicodeDecodeError as error:
            raise _undecodable(error, codec, base, block) from None
        except UnicodeError as error:  # such as a lone surrogate, which UTF-7 can hold and no store can
            raise DocumentUnreadable(f"the content is not valid {codec}: {error}") from None
        if binary:
            raise _binary()
        if first:
            text = text.removeprefix("\ufeff")
        yield lines.decode(text, final=not block)
        if not block:
            return
        offset, first = offset + len(block), False
        block = _read(stream)


def lines(texts: Iterable[str]) -> Iterator[str]:
    """Cut a stream of text into its lines, each with its line break.

    Raises:
        DocumentUnreadable: one is longer than `LINE`, which nobody wrote by hand.
    """
    held = ""
    for text in texts:
        *whole, held = (held + text).split("\n")
        yield from (line + "\n" for line in whole)
        if len(held) > LINE:
            raise DocumentUnreadable(
                f"it has a line of more than {LINE:,} characters, as no file of this kind should; "
                "name it .txt to have it read as plain text"
            )
    if held:
        yield held


def looks_binary(data: bytes) -> bool:
    """Whether bytes are no text in UTF-8 or an encoding that extends ASCII."""
    controls = len(data) - len(data.translate(None, _CONTROL))
    return b"\x00" in data or controls * _CONTROL_SHARE > len(data)


def is_encoding(name: str) -> bool:
    """Whether text can be in an encoding of this name."""
    try:
        " ".encode(name)
    except (LookupError, ValueError):  # unknown, or a codec of another kind; or no name at all
        return False
    return True


def _read(stream: BinaryIO) -> bytes:
    """Read a full block even where the stream gives less at a time; only the last is shorter."""
    block = stream.read(BLOCK)
    while len(block) < BLOCK and (more := stream.read(BLOCK - len(block))):
        block += more
    return block


def _codec(head: bytes, encoding: str | None) -> str:
    if encoding is None:
        return next((codec for mark, codec in _MARKS if head.startswith(mark)), "utf-8")
    if not is_encoding(encoding):
        raise InvalidInput(
            f"encoding {encoding!r} is not known; expected a name such as utf-8, latin-1, cp1252 or shift_jis"
        )
    return encoding


def _undecodable(error: UnicodeDecodeError, codec: str, base: int, block: bytes) -> DocumentUnreadable:
    if looks_binary(block):
        return _binary()
    byte = error.object[error.start]
    return DocumentUnreadable(
        f"byte {base + error.start} (0x{byte:02x}) is not valid {codec}; name the file's own encoding "
        "(for example --encoding latin-1), or convert it: iconv -f LATIN1 -t UTF-8"
    )


def _binary() -> DocumentUnreadable:
    return DocumentUnreadable(
        "the content is binary, not text (it holds NUL or many control characters); convert it to text first, "
        "or name its encoding if it is UTF-16 without a byte order mark (--encoding utf-16-le)"
    )
