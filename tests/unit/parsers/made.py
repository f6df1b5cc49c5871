"""Documents with real text in them, made by the libraries that people make theirs with."""

from __future__ import annotations

import csv
import io
import textwrap
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from email.message import EmailMessage
from html import escape
from pydoc_data import topics

import docx
import openpyxl
import pptx
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

TOPICS = {name: topics.topics[name] for name in ("assert", "async", "class", "with", "formatstrings", "if")}
"""Chapters of Python's own reference: prose and code, 60,000 characters."""


def words(text: str) -> list[str]:
    return text.split()


def pages(text: str) -> Iterator[list[str]]:
    lines = [
        part for line in text.splitlines() for part in textwrap.wrap(line, 90, break_on_hyphens=False) or [""]
    ]
    for start in range(0, len(lines), 60):
        yield lines[start : start + 60]


def pdf(chapters: dict[str, str], *, password: str | None = None) -> bytes:
    """A bookmark for each chapter, which begins on a page of its own."""
    data = io.BytesIO()
    lock = StandardEncryption(password, "owner") if password else None
    canvas = Canvas(data, pagesize=A4, encrypt=lock, invariant=True)
    canvas.setTitle("The Reference")
    for name, text in chapters.items():
        canvas.bookmarkPage(name)
        canvas.addOutlineEntry(name, name, level=0)
        for lines in pages(text):
            place = canvas.beginText(50, 780)
            place.setFont("Courier", 9)
            for line in lines:
                place.textLine(line)
            canvas.drawText(place)
            canvas.showPage()
    canvas.save()
    return data.getvalue()


def word(chapters: dict[str, str]) -> bytes:
    """A heading for each chapter, and a paragraph for each of its own."""
    document = docx.Document()
    document.add_heading("The Reference", 0)
    for name, text in chapters.items():
        document.add_heading(name, 1)
        for paragraph in text.split("\n\n"):
            if paragraph.strip():
                document.add_paragraph(paragraph)
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


def slides(chapters: dict[str, str]) -> bytes:
    """A slide for each chapter: its title, its text, and where it came from in the speaker's notes."""
    deck = pptx.Presentation()
    for name, text in chapters.items():
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        assert slide.shapes.title is not None
        slide.shapes.title.text = name
        slide.placeholders[1].text_frame.text = text
        slide.notes_slide.notes_text_frame.text = f"notes-{name}"
    data = io.BytesIO()
    deck.save(data)
    return data.getvalue()


def sheets(tables: Mapping[str, Sequence[Sequence[object]]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in tables.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def page(title: str, text: str) -> str:
    paragraphs = "".join(f"<pre>{escape(part)}</pre>" for part in text.split("\n\n"))
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1>{paragraphs}</body></html>"


CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""


def book(chapters: dict[str, str], extra: Mapping[str, str] = {}) -> bytes:
    """A page for each chapter, a table of contents, and a cover without text."""
    pages = {
        f"text/{number} {name}.xhtml": page(name, text)
        for number, (name, text) in enumerate(chapters.items())
    }
    items = "".join(
        f'<item id="c{number}" href="{name.replace(" ", "%20")}" media-type="application/xhtml+xml"/>'
        for number, name in enumerate(pages)
    )
    order = "".join(f'<itemref idref="c{number}"/>' for number in range(len(pages)))
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Reference</dc:title></metadata>'
        '<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        f'<item id="cover" href="cover.xhtml" media-type="application/xhtml+xml"/>{items}</manifest>'
        f'<spine><itemref idref="nav"/><itemref idref="cover"/>{order}</spine></package>'
    )
    contents = {
        "META-INF/container.xml": CONTAINER,
        "OEBPS/content.opf": package,
        "OEBPS/nav.xhtml": page("Contents", "not this"),
        "OEBPS/cover.xhtml": "<html><body><img src='cover.png'/></body></html>",
        **{f"OEBPS/{name}": text for name, text in pages.items()},
        **extra,
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        for name, text in contents.items():
            file.writestr(name, text)
    return data.getvalue()


def mail(subject: str, text: str, html: str | None = None) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Ann Ä <ann@example.org>"
    message["To"] = "bob@example.org"
    message["Date"] = "Mon, 06 May 2024 10:00:00 +0000"
    message["Subject"] = subject
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


def table(rows: Sequence[Sequence[object]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


def subtitles(sentences: Sequence[str], *, web: bool = False) -> bytes:
    """One every five seconds."""

    def time(second: int) -> str:
        return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{'.' if web else ','}000"

    cues = (
        f"{number + 1}\n{time(number * 5)} --> {time(number * 5 + 4)}\n<i>{sentence}</i>\n"
        for number, sentence in enumerate(sentences)
    )
    return (("WEBVTT\n\nNOTE by hand\n\n" if web else "") + "\n".join(cues)).encode()


def samples() -> dict[str, tuple[str, bytes]]:
    """For each parser a document of some pages with the same text, and a file name for it."""
    sentences = [
        " ".join(text.split()).replace("|", "") for text in TOPICS["with"].split("\n\n") if text.strip()
    ]
    rows = [("Number", "Sentence"), *enumerate(sentences)]
    attached = mail("Chapters", TOPICS["with"])
    attached.add_attachment(pdf(TOPICS), maintype="application", subtype="pdf", filename="all.pdf")
    markdown = "\n\n".join(f"# {name}\n\n{text}" for name, text in TOPICS.items())
    return {
        "text-1": ("a.txt", TOPICS["with"].encode()),
        "markdown-1": ("a.md", markdown.encode()),
        "rst-1": ("a.rst", TOPICS["with"].encode()),
        "html-2": ("a.html", page("with", TOPICS["with"]).encode()),
        "pdf-1": ("a.pdf", pdf(TOPICS)),
        "docx-1": ("a.docx", word(TOPICS)),
        "pptx-1": ("a.pptx", slides(TOPICS)),
        "spreadsheet-1": ("a.xlsx", sheets({"Sentences": rows})),
        "epub-1": ("a.epub", book(TOPICS)),
        "mail-1": ("a.eml", attached.as_bytes()),
        "table-1": ("a.csv", table(rows)),
        "subtitles-1": ("a.srt", subtitles(sentences)),
        "code-1": ("a.py", TOPICS["with"].encode()),
    }
