from __future__ import annotations

import pytest

from perdure.domain.errors import DocumentEmpty, DocumentUnreadable
from perdure.parsers.epub import EpubParser
from perdure.parsers.mail import MailParser
from tests.unit.parsers import made
from tests.unit.parsers.streams import headings, parsed

EPUB, MAIL = EpubParser(), MailParser()


def test_pages_come_in_reading_order_without_contents_and_cover() -> None:
    sections = parsed(EPUB, made.book(made.TOPICS))
    assert headings(sections) == [[name] for name in made.TOPICS]
    assert {section.metadata["title"] for section in sections} == {"The Reference"}
    assert "not this" not in "".join(section.text for section in sections)


def test_locked_book_says_so() -> None:
    rights = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
        '<enc:EncryptedData><enc:CipherData><enc:CipherReference URI="{}"/></enc:CipherData></enc:EncryptedData></encryption>'
    )
    fonts = {"META-INF/encryption.xml": rights.format("OEBPS/font.otf")}
    assert parsed(EPUB, made.book({"a": "text"}, fonts))
    pages = {"META-INF/encryption.xml": rights.format("OEBPS/text/0%20a.xhtml")}
    with pytest.raises(DocumentUnreadable, match="locked"):
        parsed(EPUB, made.book({"a": "text"}, pages))


def test_book_of_pictures_has_no_text() -> None:
    with pytest.raises(DocumentEmpty):
        parsed(EPUB, made.book({}))


def test_page_that_is_missing_is_named() -> None:
    data = made.book({"gone": "text"}).replace(b"OEBPS/text/0 gone.xhtml", b"OEBPS/text/0 lost.xhtml")
    with pytest.raises(DocumentUnreadable, match=r"no 'OEBPS/text/0 gone\.xhtml' inside"):
        parsed(EPUB, data)


# --- mail ---------------------------------------------------------------------------------------


def test_message_has_its_head_and_its_plain_text() -> None:
    (section,) = parsed(MAIL, made.mail("Leave – 2024", "Thirty days.\n", "<p>no</p>").as_bytes())
    assert section.text.rstrip() == (
        "From: Ann Ä <ann@example.org>\nTo: bob@example.org\nDate: Mon, 06 May 2024 10:00:00 +0000\n"
        "Subject: Leave – 2024\n\nThirty days."
    )
    assert section.metadata == {
        "subject": "Leave – 2024",
        "from": "Ann Ä <ann@example.org>",
        "date": "Mon, 06 May 2024 10:00:00 +0000",
    }


def test_html_is_read_where_there_is_no_plain_text() -> None:
    message = made.mail("s", "")
    message.set_content("<h1>Leave</h1><p>Thirty d&auml;ys</p>", subtype="html", charset="iso-8859-1")
    (section,) = parsed(MAIL, message.as_bytes())
    assert section.text.endswith("Leave\n\nThirty däys")
    assert section.metadata["heading"] == ["Leave"]


def test_attachments_are_read_in_their_own_formats_and_messages_within_too() -> None:
    message = made.mail("With all", "See below.")
    message.add_attachment(
        made.pdf({"One": "in the pdf"}), maintype="application", subtype="pdf", filename="a.pdf"
    )
    message.add_attachment(b"\x89PNG\x00", maintype="image", subtype="png", filename="b.png")
    message.add_attachment(b"%PDF-broken", maintype="application", subtype="pdf", filename="c.pdf")
    message.add_attachment(made.mail("Inner", "in the mail"))
    sections = parsed(MAIL, message.as_bytes())
    assert [section.metadata.get("attachment") for section in sections] == [None, "a.pdf", ""]
    assert sections[1].text == "in the pdf"
    assert sections[1].metadata["page"] == 1
    assert sections[2].text.rstrip().endswith("in the mail")
    assert sections[2].metadata["subject"] == "Inner"
    assert sections[0].metadata["attachments"] == ["a.pdf", "b.png", "c.pdf"]


def test_messages_within_messages_are_read_so_deep_and_no_deeper() -> None:
    message = made.mail("0", "text 0")
    for depth in range(1, 100):
        outer = made.mail(str(depth), f"text {depth}")
        outer.add_attachment(message)
        message = outer
    assert [section.metadata["subject"] for section in parsed(MAIL, message.as_bytes())] == [
        "99",
        "98",
        "97",
        "96",
    ]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"Content-Type: text/plain; charset=no-such\n\ncaf\xc3\xa9", "café"),
        (b"Content-Type: text/plain; charset=utf-8\n\ncaf\xe9!", "caf\ufffd!"),
        (
            b"Content-Type: text/plain; charset=latin-1\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9",
            "café",
        ),
        (b"\ncaf\xe9", "caf\ufffd"),
    ],
    ids=["unknown charset", "wrong charset", "quoted-printable", "8 bit without charset"],
)
def test_mixed_and_wrong_encodings_lose_no_more_than_the_character(body: bytes, text: str) -> None:
    (section,) = parsed(MAIL, b"From: a@example.org\nSubject: s\n" + body)
    assert section.text.endswith(text)


def test_text_in_the_name_of_a_mail_is_refused() -> None:
    with pytest.raises(DocumentUnreadable, match="no From, To, Date or Subject"):
        parsed(MAIL, "Just some words.\n")
