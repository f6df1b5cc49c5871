"""Identifiers: UUIDv7 for jobs and history entries, UUIDv5 for chunks."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from perdure.domain.errors import InvalidInput

CHUNK_SPACE: Final = uuid.UUID("6f0f2a39-3a3b-5c7e-9d53-7f5e2c1f9a11")
"""The UUIDv5 namespace of chunk ids. Changing it would duplicate every stored chunk."""

_VARIANT: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


def uuid7(now: datetime, random: int) -> str:
    """Build a UUIDv7 (RFC 9562 §5.7) in canonical lower case.

    Args:
        now: aware time; its milliseconds lead the id, so that ids sort by age.
        random: at least 74 random bits; higher bits are ignored.

    Within one millisecond order is random; twelve bits of the sub-millisecond part
    (RFC 9562 §6.2, method 3) keep ids of one process in the order of their times.
    """
    microseconds = int(now.timestamp() * 1_000_000)
    milliseconds, rest = divmod(microseconds, 1000)
    fraction = (rest << 12) // 1000
    return (
        f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{fraction:03x}-"
        f"{0x8000 | random >> 48 & 0x3FFF:04x}-{random & 0xFFFF_FFFF_FFFF:012x}"
    )


def uuid5(*parts: str) -> str:
    """Build the UUIDv5 of `parts`; the same parts always give the same id.

    Each part is prefixed by its length, so that ("ab", "c") and ("a", "bc") differ.
    """
    return uuid5_under(*parts)()


def uuid5_under(*first: str) -> Callable[..., str]:
    """Give what builds the UUIDv5 of these parts with more behind them: what they have in common is hashed once.

    Written out (RFC 9562 §5.5), because a document has hundreds of chunks and `uuid.uuid5` takes three times as long.
    """
    common = hashlib.sha1(CHUNK_SPACE.bytes + _measured(first), usedforsecurity=False)

    def build(*parts: str) -> str:
        digest = common.copy()
        digest.update(_measured(parts))
        text = digest.hexdigest()
        return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"

    return build


def _measured(parts: Iterable[str]) -> bytes:
    return "".join([f"{len(part)}:{part}" for part in parts]).encode()


def parse_uuid(text: str, what: str = "id") -> str:
    """Return `text` as a canonical lower-case UUID.

    Raises:
        InvalidInput: it is no UUID.
    """
    try:
        return str(uuid.UUID(text))
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(
            f"{what} {text!r} is not a UUID; expected the form 0198c0de-7a3e-7abc-8def-0123456789ab"
        ) from None
