"""A multipart upload read as it arrives: fields, and one file piece by piece, never whole.

A form that is parsed first and stored afterwards needs its file twice on disk (the framework spools it to a temporary
one), and where the temporary folder lives in memory, once in memory. Here the bytes go from the socket to the
blob store; what is held is one network read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Self

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from perdure.domain.errors import DocumentEmpty, InvalidInput

MAX_FIELDS: Final = 100
MAX_FIELD_BYTES: Final = 1_000_000
"""Of all fields together, the file aside."""


class _Head(NamedTuple):
    """A part begins."""

    name: str
    filename: str | None
    media_type: str | None


class _Parts:
    """Turns the parser's callbacks into a stream of part heads and pieces of their content."""

    def __init__(self, boundary: bytes) -> None:
        self.ended = False
        self._headers: dict[str, bytes] = {}
        self._name = self._value = b""
        self._found: list[_Head | bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> list[_Head | bytes]:
        """Parse what arrived; give what it completes, in order."""
        self._parser.write(data)
        found, self._found = self._found, []
        return found

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        headers, self._headers = self._headers, {}
        _, options = parse_options_header(headers.get("content-disposition"))
        if b"name" not in options:
            raise InvalidInput(
                "a part of the upload has no name; expected Content-Disposition: form-data; name=…"
            )
        filename, media_type = options.get(b"filename"), headers.get("content-type")
        head = _Head(
            name=_decode(options[b"name"], "a field's name"),
            filename=None if filename is None else _decode(filename, "the file's name"),
            media_type=None if media_type is None else media_type.decode("latin-1"),
        )
        self._found.append(head)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._found.append(data[start:end])

    def _on_end(self) -> None:
        self.ended = True


class Upload:
    """One file, with fields before and after it.

    Attributes:
        name: of the file, as the client calls it.
        media_type: what the client says the file is; None where it says nothing of use.
    """

    def __init__(self, request: Request) -> None:
        self.name = ""
        self.media_type: str | None = None
        self._fields: dict[str, bytearray] = {}
        self._content = self._walk(request)

    @classmethod
    async def open(cls, request: Request) -> Self:
        """Read up to where the file's content begins.

        Raises:
            InvalidInput: the form is malformed, or holds no file.
        """
        upload = cls(request)
        if await anext(upload._content, None) is None:
            raise InvalidInput(
                "the upload holds no file; send the document as the part `file`, with a file name"
            )
        return upload

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes as they arrive. Whoever reads them must take none for whole before the end.

        Raises:
            DocumentEmpty: there are none.
            InvalidInput: the form is malformed, cut short, or holds another file.
        """
        empty = True
        async for piece in self._content:
            empty = False
            yield piece
        if empty:
            raise DocumentEmpty(f"the file {self.name!r} is empty; nothing was stored")

    def fields(self) -> dict[str, str]:
        """The fields so far, field → value; an empty value counts as not given."""
        return {name: _decode(value, f"the field {name!r}") for name, value in self._fields.items() if value}

    async def _walk(self, request: Request) -> AsyncIterator[bytes]:
        """Keep the fields; yield nothing (b"") where the file begins, then its content."""
        current: bytearray | None = None
        size = 0
        async for event in _events(request):
            if isinstance(event, _Head) and event.filename is not None:
                self._begin_file(event)
                current = None
                yield b""
            elif isinstance(event, _Head):
                if event.name in self._fields:
                    raise InvalidInput(f"the field {event.name!r} is given twice")
                current = self._fields[event.name] = bytearray()
            elif current is None:
                yield event
            else:
                current += event
                size += len(event)
            if size > MAX_FIELD_BYTES or len(self._fields) > MAX_FIELDS:
                raise InvalidInput(
                    f"there are more than {MAX_FIELDS} fields or {MAX_FIELD_BYTES:,} bytes beside the file; "
                    "send the document as the part `file`, with a file name"
                )

    def _begin_file(self, head: _Head) -> None:
        if self.name:
            raise InvalidInput("the upload holds more than one file; send each in a request of its own")
        if head.name != "file":
            raise InvalidInput(f"the file comes as the part {head.name!r}; expected `file`")
        if not head.filename:
            raise InvalidInput("the part `file` names no file; was one chosen?")
        self.name = head.filename
        self.media_type = None if head.media_type == "application/octet-stream" else head.media_type


async def _events(request: Request) -> AsyncIterator[_Head | bytes]:
    """Parse the body as it arrives."""
    _, options = parse_options_header(request.headers.get("content-type"))
    if b"boundary" not in options:
        raise InvalidInput("the Content-Type of the upload names no boundary; let your HTTP client set it")
    try:
        parts = _Parts(options[b"boundary"])
        async for data in request.stream():
            for event in parts.feed(data):
                yield event
    except FormParserError as error:
        raise InvalidInput(f"the upload is no valid multipart/form-data: {error}") from None
    if not parts.ended:
        raise InvalidInput("the upload ends before its last boundary: it was cut short; send it again")


def _decode(value: bytes | bytearray, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{what} is not UTF-8") from None
