from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import pytest
from docx.document import Document
from docx.oxml.parser import parse_xml

from perdure.domain.errors import DocumentEmpty, DocumentUnreadable
from perdure.parsers import archive
from perdure.parsers.docx import DocxParser
from tests.unit.parsers import made
from tests.unit.parsers.streams import headings, parsed

DOCX = DocxParser()
NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
)


def saved(document: Document) -> bytes:
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


def body(xml: str) -> bytes:
    """A document whose body is this."""
    document = docx.Document()
    element = document.element.body
    for child in parse_xml(f"<w:body {NAMESPACES}>{xml}</w:body>"):
        element.insert(len(element) - 1, child)
    return saved(document)


def rewritten(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with one entry changed."""
    made_anew = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(made_anew, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            content = old.read(entry)
            new.writestr(entry, change(content) if entry == name else content)
    return made_anew.getvalue()


def texts(data: bytes) -> list[str]:
    return [section.text for section in parsed(DOCX, data)]


def test_every_word_is_read_under_its_heading() -> None:
    sections = parsed(DOCX, made.word(made.TOPICS))
    assert headings(sections) == [["The Reference", name] for name in made.TOPICS]
    assert made.words(" ".join(section.text for section in sections)) == [
        "The",
        "Reference",
        *(word for name, text in made.TOPICS.items() for word in (name, *made.words(text))),
    ]


def test_headings_nest_and_one_without_text_belongs_to_what_follows() -> None:
    document = docx.Document()
    for level, title in ((1, "One"), (2, "One A"), (3, "Deep")):
        document.add_heading(title, level)
    document.add_paragraph("text of deep")
    document.add_heading("One B", 2)
    document.add_paragraph("text of B")
    sections = parsed(DOCX, saved(document))
    assert [section.text for section in sections] == [
        "One\n\nOne A\n\nDeep\n\ntext of deep",
        "One B\n\ntext of B",
    ]
    assert headings(sections) == [["One", "One A", "Deep"], ["One", "One B"]]


def test_style_that_is_based_on_a_heading_is_one() -> None:
    document = docx.Document()
    style = document.styles.add_style("Chapter of ACME", 1)
    style.base_style = document.styles["Heading 2"]
    document.add_paragraph("Own", style="Chapter of ACME")
    document.add_paragraph("text")
    assert headings(parsed(DOCX, saved(document))) == [["Own"]]


def test_tables_keep_rows_and_cells_and_their_place() -> None:
    document = docx.Document()
    document.add_paragraph("before")
    table = document.add_table(2, 3)
    for row, values in zip(table.rows, (("Name", "Days", "From"), ("Ann", "30", "May")), strict=True):
        for cell, value in zip(row.cells, values, strict=True):
            cell.text = value
    document.add_paragraph("after")
    assert texts(saved(document)) == ["before\n\nName | Days | From\nAnn | 30 | May\n\nafter"]


def test_lists_links_tabs_and_breaks() -> None:
    document = docx.Document()
    document.add_paragraph("Take:")
    for item in ("salt", "pepper"):
        document.add_paragraph(item, style="List Bullet")
    paragraph = document.add_paragraph("a\tb\nc")
    assert "\t" in paragraph.text
    assert texts(saved(document)) == ["Take:\n\nsalt\n\npepper\n\na\tb\nc"]


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        (
            "<w:p><w:r><w:t>kept</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>",
            "kept",
        ),
        ("<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins></w:p>", "new"),
        (
            "<w:sdt><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>",
            "in a control",
        ),
        ("<w:p><w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink></w:p>", "link"),
        (
            "<w:p><w:r><mc:AlternateContent><mc:Choice><w:t>once</w:t></mc:Choice>"
            "<mc:Fallback><w:t>twice</w:t></mc:Fallback></mc:AlternateContent></w:r></w:p>",
            "once",
        ),
        ("<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>no tab</w:t></w:r></w:p>", "no tab"),
        ("<w:p><w:r><w:instrText>PAGE</w:instrText><w:t>7</w:t></w:r></w:p>", "7"),
    ],
    ids=["deleted", "inserted", "control", "link", "alternative", "tab stops", "field"],
)
def test_text_is_what_a_reader_sees(xml: str, text: str) -> None:
    assert texts(body(xml)) == [text]


def test_the_empty_template_has_no_text() -> None:
    template = Path(docx.__file__).parent / "templates" / "default.docx"
    with pytest.raises(DocumentEmpty):
        parsed(DOCX, template.read_bytes())


# --- bad input ----------------------------------------------------------------------------------


def bomb(size: int) -> bytes:
    data = io.BytesIO()
    with (
        zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("word/document.xml", "w") as entry,
    ):
        for _ in range(size // 1_000_000):
            entry.write(b" " * 1_000_000)
    return data.getvalue()


def test_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(DocumentUnreadable, match=r"would unpack to 50,000,000 bytes from .* made to do harm"):
        parsed(DOCX, bomb(50_000_000))


def test_archive_whose_directory_lies_about_sizes_is_damaged() -> None:
    data = bomb(50_000_000)
    size = (50_000_000).to_bytes(4, "little")
    assert data.count(size) >= 1
    with pytest.raises(DocumentUnreadable, match=r"damaged|would unpack|no element"):
        parsed(DOCX, data.replace(size, (9_000_000).to_bytes(4, "little")))


def test_too_many_entries_or_too_large_a_whole_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made.word({"a": "b"})
    monkeypatch.setattr(archive, "ENTRIES", 5)
    with pytest.raises(DocumentUnreadable, match="entries; at most 5 are read"):
        parsed(DOCX, data)
    monkeypatch.setattr(archive, "ENTRIES", 100)
    monkeypatch.setattr(archive, "UNPACKED", 1000)
    with pytest.raises(DocumentUnreadable, match=r"would unpack to .* at most 1,000 are read"):
        parsed(DOCX, data)


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("entry", ["word/document.xml", "word/styles.xml", "_rels/.rels"])
def test_xml_with_entities_is_refused(entry: str) -> None:
    def declare(xml: bytes) -> bytes:
        head, _, rest = xml.partition(b"?>")
        return head + b"?>" + ENTITIES + rest

    with pytest.raises(DocumentUnreadable, match="declares a document type"):
        parsed(DOCX, rewritten(made.word({"a": "b"}), entry, declare))


def test_truncated_archive_is_damaged() -> None:
    data = made.word(made.TOPICS)
    with pytest.raises(DocumentUnreadable, match="damaged or cut off"):
        parsed(DOCX, data[: len(data) // 2])


def test_damage_inside_is_named_with_its_place() -> None:
    with pytest.raises(DocumentUnreadable, match=r"'word/document.xml' inside it is damaged"):
        parsed(DOCX, rewritten(made.word({"a": "b"}), "word/document.xml", lambda xml: xml[:-9]))


def test_archive_of_another_kind_is_not_what_its_name_says() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("notes.txt", "words")
    with pytest.raises(DocumentUnreadable, match=r"no 'word/' inside, so it is not what its name says"):
        parsed(DOCX, data.getvalue())


def test_encrypted_archive_says_so() -> None:
    data = bytearray(made.word({"a": "b"}))
    place = data.rfind(b"PK\x01\x02")
    data[place + 8] |= 1
    with pytest.raises(DocumentUnreadable, match="encrypted; save it without a password"):
        parsed(DOCX, bytes(data))
