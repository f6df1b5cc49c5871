"""What every way of cutting promises, and what each is for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.chunkers.code import LANGUAGES
from perdure.chunkers.named import Chunking, chunker, parse
from perdure.chunkers.token import TokenChunker
from perdure.domain.errors import InvalidInput
from perdure.parsers.text import LANGUAGES as PARSED
from tests.unit.embedders.contract import run_python

KINDS = ["fixed", "recursive", "token", "sentence", "markdown", "code"]
MARKDOWN = """# Leave

Everybody has thirty days. Dr. Who has more, e.g. on Mars.

## Sick leave

- tell your manager
- see a doctor

```python
def leave(days: int) -> int:
    return days
```

> Rest well.
"""
PYTHON = '''"""A module."""

import os


class Leave:
    """Days."""

    def days(self) -> int:
        """How many."""
        return 30

    def left(self, taken: int) -> int:
        """Those that remain."""
        return self.days() - taken


def greet(name: str) -> str:
    return f"Hello {name}"
'''

_TEXT = st.one_of(
    st.text(alphabet=st.sampled_from("aB.!? é漢。😀\n\t\r#*`>-()\u00a0\u2028"), max_size=500),
    st.lists(
        st.sampled_from(
            [
                "Dr. Who",
                "Hi! ",
                "one two. ",
                "\n\n",
                "# Head\n",
                "- item\n",
                "```\n",
                "x = 1\n",
                "漢字。",
                " ",
            ]
        )
    ).map("".join),
)


def count(kind: str, piece: str) -> int:
    return len(_TOKENIZER.encode(piece, add_special_tokens=False).ids) if kind == "token" else len(piece)


_TOKENIZER = TokenChunker().tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(
    text=_TEXT,
    size=st.integers(1, 60),
    overlap=st.integers(0, 20),
    language=st.sampled_from(["python", "cobol"]),
)
@settings(max_examples=60)
def test_pieces_lie_where_they_say_fit_hold_text_and_leave_none_out(
    kind: str, text: str, size: int, overlap: int, language: str
) -> None:
    size += 4 if kind == "token" else 0  # one character alone may be four tokens
    cutter = chunker(f"{kind}:{size},overlap={min(overlap, size - 1)}")
    pieces = list(cutter.split(text, {"language": language}))
    covered = set[int]()
    for offset, piece in pieces:
        assert text[offset : offset + len(piece)] == piece
        assert piece.strip()
        assert count(kind, piece) <= size
        covered.update(range(offset, offset + len(piece)))
    assert [offset for offset, _ in pieces] == sorted(offset for offset, _ in pieces)
    assert all(text[place].isspace() for place in set(range(len(text))) - covered)
    assert list(cutter.split(text, {"language": language})) == pieces


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["word and more. " * 20_000, "x" * 250_000, "# a\n" * 60_000, "(" * 100_000, "a. " * 10_000]
)
def test_section_of_any_kind_is_cut_in_good_time(kind: str, text: str) -> None:
    pieces = list(chunker(kind).split(text, {"language": "python"}))
    assert sum(len(piece) for _, piece in pieces) >= len(text) * 0.6
    assert max(count(kind, piece) for _, piece in pieces) <= 1000


@pytest.mark.parametrize("kind", KINDS)
def test_strategy_names_all_that_decides_the_cuts(kind: str) -> None:
    strategies = {
        chunker(f"{kind}:{size},overlap={overlap}").strategy for size in (50, 60) for overlap in (0, 10)
    }
    assert len(strategies) == 4
    assert all(strategy.startswith(f"{kind}:") and "-" in strategy for strategy in strategies)


@pytest.mark.slow  # starts a Python
def test_other_processes_cut_alike() -> None:
    script = (
        "import sys\nfrom perdure.chunkers.named import chunker\n"
        f"cutters = [chunker(kind + ':40,overlap=10') for kind in {KINDS!r}]\n"
        f"cuts = [[c.strategy, *c.split({MARKDOWN + PYTHON!r}, {{'language': 'python'}})] for c in cutters]\n"
        "sys.stdout.write(repr(cuts))"
    )
    here = [
        [cutter.strategy, *cutter.split(MARKDOWN + PYTHON, {"language": "python"})]
        for cutter in (chunker(f"{kind}:40,overlap=10") for kind in KINDS)
    ]
    assert run_python(script) == repr(here)


# --- what each is for -------------------------------------------------------------------------


def pieces_of(name: str, text: str, language: str = "") -> list[str]:
    return [piece for _, piece in chunker(name).split(text, {"language": language})]


def test_fixed_cuts_at_every_so_many_characters() -> None:
    assert pieces_of("fixed:4", "abcdefghij") == ["abcd", "efgh", "ij"]
    assert pieces_of("fixed:4,overlap=2", "abcdefgh") == ["abcd", "cdef", "efgh"]


def test_sentences_are_whole_and_abbreviations_end_none() -> None:
    text = "Dr. Who came. He stayed, e.g. in London.  Then he left! Why?"
    assert pieces_of("sentence:20", text) == [
        "Dr. Who came.",
        "He stayed, e.g. in",
        "London.",
        "Then he left! Why?",
    ]
    assert pieces_of("sentence:30", text) == [
        "Dr. Who came.",
        "He stayed, e.g. in London.",
        "Then he left! Why?",
    ]
    overlapping = pieces_of("sentence:30,overlap=14", "One is here. Two is here. Three is here. Four.")
    assert overlapping == ["One is here. Two is here.", "Two is here. Three is here.", "Three is here. Four."]


def test_language_decides_what_is_an_abbreviation() -> None:
    text = "Er kam ca. Mittwoch an. Danke."
    assert pieces_of("sentence:24,language=de", text) == ["Er kam ca. Mittwoch an.", "Danke."]
    assert ":de:" in chunker("sentence,language=de").strategy


def test_markdown_is_cut_before_headings_and_between_blocks() -> None:
    pieces = pieces_of("markdown:100", MARKDOWN)
    assert pieces[0].startswith("# Leave")
    assert any(piece.startswith("## Sick leave") for piece in pieces)
    [code] = [piece for piece in pieces if "```" in piece]
    assert code.count("```") == 2


def test_code_is_cut_between_functions_of_the_language_that_the_parser_named() -> None:
    pieces = pieces_of("code:130", PYTHON, "python")
    assert any(piece.startswith("def left") and piece.endswith("- taken") for piece in pieces)
    assert pieces[-1].startswith("def greet")
    assert pieces_of("code:130", PYTHON, "cobol") == pieces_of("recursive:130", PYTHON)


def test_tokens_are_those_of_the_bundled_model() -> None:
    sizes = [count("token", piece) for piece in pieces_of("token:20", MARKDOWN)]
    assert max(sizes) <= 20
    assert sum(sizes) / len(sizes) > 8
    alone, overlapping = pieces_of("token:20", MARKDOWN * 9), pieces_of("token:20,overlap=19", MARKDOWN * 9)
    assert len(alone) < len(overlapping) < 3 * len(alone)


def test_every_grammar_is_of_a_language_that_a_parser_names() -> None:
    assert LANGUAGES.keys() <= PARSED.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_chunkers_cut_their_own_source(kind: str) -> None:
    for path in Path(sys.modules["perdure.chunkers.named"].__file__ or "").parent.glob("*.py"):
        text = path.read_text()
        for offset, piece in chunker(f"{kind}:200,overlap=20").split(text, {"language": "python"}):
            assert text[offset : offset + len(piece)] == piece


# --- names ------------------------------------------------------------------------------------


def test_names_have_usual_sizes() -> None:
    assert parse("recursive") == Chunking(kind="recursive", size=1000)
    assert parse("token") == Chunking(kind="token", size=256)
    assert parse("markdown:1200,overlap=100") == Chunking(kind="markdown", size=1200, overlap=100)
    assert chunker("recursive").strategy == chunker("recursive:1000,overlap=0").strategy


@pytest.mark.parametrize(
    "name",
    [
        "", "magic", "fixed:", "fixed:0", "fixed:x", "fixed:-1", "fixed:10,overlap=10", "fixed:10,overlap=-1", "fixed:10,colour=red",
        "fixed:10,overlap=1,overlap=2", "fixed:10,language=en", "sentence,language=../x", "fixed:100001", "fixed:1.5", "size=3",
        "fixed,kind=code", "fixed,size=10",
    ],
)  # fmt: skip
def test_name_that_cannot_be_read_says_what_may(name: str) -> None:
    with pytest.raises(InvalidInput, match="for example markdown:1200,overlap=100"):
        parse(name)


@pytest.mark.parametrize(("kind", "module"), [("sentence:7", "sentencex"), ("code:7", "tree_sitter_bash")])
def test_missing_library_says_what_to_install(
    kind: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidInput, match=r'pip install "perdure\[chunkers\]"'):
        chunker(kind)
