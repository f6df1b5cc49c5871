from __future__ import annotations

import pytest

from perdure.domain.errors import DocumentEmpty, DocumentUnreadable
from perdure.parsers.html import DEPTH, LIMIT, HtmlParser
from tests.unit.parsers.streams import headings, parsed

HTML = HtmlParser()

PAGE = """\
<!doctype html><html><head><meta charset="utf-8"><title>Leave –
 Handbook</title><style>p { color: red }</style></head>
<body><header>ACME Inc.</header><nav>Home | Pay</nav>
<main>
  <h1>Leave<a class="headerlink" href="#leave">¶</a></h1>
  <p>You have <b>thirty</b> days
     a year.</p>
  <h2>Sick <em>leave</em></h2><p>Tell us.</p><script>track()</script>
  <ul><li>by phone</li><li>by mail</li></ul>
</main>
<footer>Imprint</footer></body></html>
"""


def text_of(html: str | bytes, encoding: str | None = None) -> str:
    return "".join(section.text for section in parsed(HTML, html, encoding))


def test_main_part_is_read_with_heading_paths_and_title() -> None:
    sections = parsed(HTML, PAGE)
    assert [section.text.strip() for section in sections] == [
        "Leave\n\nYou have thirty days a year.",
        "Sick leave\n\nTell us.\n\nby phone\nby mail",
    ]
    assert headings(sections) == [["Leave"], ["Leave", "Sick leave"]]
    assert {section.metadata["title"] for section in sections} == {"Leave – Handbook"}


def test_sections_follow_one_another() -> None:
    sections = parsed(HTML, PAGE)
    assert sections[0].start == 0
    assert sections[1].start == len(sections[0].text)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a</p><p>b</p>", "a\n\nb"),
        ("<p>a<br>b<br/>c</p>", "a\nb\nc"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("<p>a <i> b </i> c</p>", "a b c"),
        ("<p>a<i>b</i>c</p>", "abc"),
        ("<p>x &lt; y &amp; z</p>", "x < y & z"),
        ("<table><tr><th>k</th><th>v</th></tr><tr><td>a</td><td>1</td></tr></table>", "k | v\na | 1"),
        ("<p>code:</p><pre>if x:\n    <b>go</b>()\n</pre><p>done</p>", "code:\n\nif x:\n    go()\n\n\ndone"),
        ("<dl><dt>job</dt><dd>work</dd></dl>", "job\nwork"),
        ("a<!-- hidden -->b", "ab"),
        ("<p>a<p>b<p>c", "a\n\nb\n\nc"),
    ],
)
def test_text_reads_as_a_browser_lays_it_out(html: str, text: str) -> None:
    assert text_of(html) == text


@pytest.mark.parametrize(
    "noise",
    [
        "<script>no()</script>",
        "<style>no {}</style>",
        "<nav>no</nav>",
        "<header>no</header>",
        "<footer>no</footer>",
        "<aside>no</aside>",
        "<template><p>no</p></template>",
        "<noscript>no</noscript>",
        "<svg><text>no</text></svg>",
        "<div hidden>no</div>",
        '<div class="wide navheader">no</div>',
        '<ol class="breadcrumb"><li>no</li></ol>',
        '<div role="navigation">no</div>',
        '<span aria-hidden="true">no</span>',
    ],
)
def test_what_surrounds_the_content_is_left_out(noise: str) -> None:
    assert text_of(f"<body><p>before</p>{noise}<p>after</p></body>") == "before\n\nafter"


def test_header_of_an_article_is_content() -> None:
    html = "<body><header>site</header><article><header><h1>Title</h1></header><p>text</p></article></body>"
    assert text_of(html) == "Title\n\ntext"


def test_page_whose_main_part_is_empty_is_read_whole() -> None:
    assert text_of("<body><main></main><p>elsewhere</p></body>") == "elsewhere"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ('<meta charset="windows-1252"><p>“café”</p>'.encode("cp1252"), None),
        (
            '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>“café”'.encode(
                "cp1252"
            ),
            None,
        ),
        ('<?xml version="1.0" encoding="ISO-8859-15"?><p>café</p>'.encode("iso8859-15"), None),
        ("<p>“café”</p>".encode("cp1252"), "cp1252"),
        ('<meta charset="utf-16"><p>“café”</p>'.encode(), None),
        ('<meta charset="no-such"><p>“café”</p>'.encode(), None),
        ('<meta charset="latin1"><p>“café”</p>'.encode("utf-16"), None),
    ],
    ids=["meta", "http-equiv", "xml", "named", "utf-16 is not", "unknown", "byte order mark"],
)
def test_encoding(data: bytes, encoding: str | None) -> None:
    assert "café" in text_of(data, encoding)


def test_wrong_encoding_is_an_error() -> None:
    with pytest.raises(DocumentUnreadable, match=r"byte 3 \(0xe9\)"):
        parsed(HTML, b"<p>\xe9</p>")


def test_deeply_nested_page_is_read() -> None:
    assert text_of("<div>" * (DEPTH // 2) + "deep" + "</div>" * (DEPTH // 2)) == "deep"


def test_too_deeply_nested_page_is_refused_before_it_takes_for_ever() -> None:
    with pytest.raises(DocumentUnreadable, match="nested more than 10,000 deep near character 50,000"):
        parsed(HTML, "<div>" * 2_000_000)


def test_elements_that_close_one_another_are_not_nested() -> None:
    assert len(text_of("<ul>" + "<li><a name=x>item<br>" * 20_000).split()) == 20_000


def test_too_large_a_page_is_refused_with_the_limit() -> None:
    with pytest.raises(DocumentUnreadable, match="larger than 16 MB; split it"):
        parsed(HTML, b"<p>" + b"x" * LIMIT)


@pytest.mark.parametrize(
    "html", ["", "<html></html>", "<title>only</title>", "<body> &nbsp; <script>x</script>"]
)
def test_page_without_text_is_empty(html: str) -> None:
    with pytest.raises(DocumentEmpty):
        parsed(HTML, html)
