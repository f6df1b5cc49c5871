"""E-mail (.eml)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from email import policy
from email.message import EmailMessage, MIMEPart
from email.parser import BytesParser
from io import BytesIO
from typing import BinaryIO, Final, cast

from perdure.domain.errors import DocumentError, DocumentUnreadable
from perdure.domain.record import Json
from perdure.parsers.html import HtmlParser
from perdure.parsers.sections import lay_out
from perdure.ports.parser import Section

_SHOWN: Final = ("From", "To", "Cc", "Date", "Subject")
_DEPTH: Final = 3  # messages within messages that are read


class MailParser:
    """Reads the message, its plain text rather than its HTML, and then what is attached in a format that is known.
    Of attachments that cannot be read the names are kept.
    """

    name = "mail-1"
    suffixes = frozenset({".eml"})
    media_types = frozenset({"message/rfc822"})
    signature = b""
    libraries = HtmlParser.libraries

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield sections with `subject`, `from`, `date`, `attachments` (names); those of an attachment with
        `attachment` (its name) and what its own format keeps.
        """
        message = BytesParser(policy=policy.default).parse(stream)
        if not any(message[name] for name in _SHOWN):
            raise DocumentUnreadable(
                "it has no From, To, Date or Subject at its beginning; name it .txt if it is text"
            )
        return lay_out(_parts(message, _DEPTH))


def _parts(message: EmailMessage, depth: int) -> Iterator[tuple[str, dict[str, Json]]]:
    attached = list(message.iter_attachments())
    common = _metadata(message, [name for part in attached if (name := part.get_filename())])
    head = "\n".join(f"{name}: {message[name]}" for name in _SHOWN if message[name])
    for text, metadata in _body(message):
        yield f"{head}\n\n{text}" if head else text, common | metadata
        head = ""
    if head:
        yield head, common
    for part in attached:
        for text, metadata in _attachment(part, depth):
            yield text, {**common, "attachment": part.get_filename() or "", **metadata}


def _metadata(message: EmailMessage, attached: list[str]) -> dict[str, Json]:
    said: dict[str, Json] = {
        name.lower(): str(message[name]) for name in ("Subject", "From", "Date") if message[name]
    }
    return said | ({"attachments": [*attached]} if attached else {})


def _body(message: EmailMessage) -> Iterator[tuple[str, dict[str, Json]]]:
    part = message.get_body(("plain", "html"))
    if part is None:
        return
    if part.get_content_subtype() == "html":
        # Its charset stands in the mail, not in the page.
        with suppress(DocumentError):
            for section in HtmlParser().parse(BytesIO(_text(part).encode(errors="replace")), "utf-8"):
                yield section.text, section.metadata
    else:
        yield _text(part), {}


def _text(part: MIMEPart) -> str:
    try:
        return cast("str", part.get_content())
    except (LookupError, UnicodeError):  # an encoding that nobody knows
        return cast("bytes", part.get_payload(decode=True)).decode(errors="replace")


def _attachment(part: MIMEPart, depth: int) -> Iterator[tuple[str, dict[str, Json]]]:
    if not depth:
        return
    if part.get_content_type() == "message/rfc822":
        yield from _parts(cast("EmailMessage", part.get_content()), depth - 1)
        return
    from perdure.parsers.registry import HEAD, parsers_here

    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return
    with suppress(Exception):  # whatever it is about: the message is there to be read all the same
        parser = parsers_here().choose(part.get_filename() or "", part.get_content_type(), data[:HEAD])
        for section in parser.parse(BytesIO(data), part.get_content_charset()):
            yield section.text, section.metadata
