"""What a parsing process and the process that waits for it say to each other."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

import msgspec

from perdure.domain.record import Record
from perdure.ports.parser import Section

LARGEST: Final = 16_000_000
"""Bytes of a frame: a parser that hostile content took over must not fill the memory of who listens."""

_LENGTH: Final = struct.Struct(">I")


class Request(Record):
    """What is to be parsed, beside the file itself.

    Attributes:
        parser: ``package.module:Class`` of a `Parser` that is made without arguments.
        memory: most bytes of address space.
        cpu: most seconds of processor time.
    """

    parser: str
    encoding: str | None
    memory: int
    cpu: int


class Sections(Record, tag=True):
    """Some sections that follow one another."""

    sections: list[Section]


class Refused(Record, tag=True):
    """The document cannot be read; `error` names a class of `perdure.domain.errors`."""

    error: str
    message: str


class Finished(Record, tag=True):
    """All was said. Without this frame, whatever came is not the whole document."""


Frame = Sections | Refused | Finished

encode_request: Final = msgspec.msgpack.Encoder().encode
decode_request: Final = msgspec.msgpack.Decoder(Request).decode
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Frame).decode


def write_frame(stream: BinaryIO, frame: Frame) -> None:
    """Send a frame."""
    data = _encode(frame)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_frames(stream: BinaryIO) -> Iterator[Frame]:
    """Receive frames until the stream ends, in the middle of one or not.

    Raises:
        ValueError: it is not a frame that came.
    """
    while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        if length > LARGEST:
            raise ValueError(f"a frame of {length:,} bytes")
        if len(data := stream.read(length)) < length:
            return
        yield _decode(data)
