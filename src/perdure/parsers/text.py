"""Plain text of any size, and source code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from perdure.domain.record import Json
from perdure.parsers.decoding import decode
from perdure.parsers.sections import stream_sections
from perdure.ports.parser import Section


class TextParser:
    """Reads text as it is, streaming: memory does not grow with the file."""

    name = "text-1"
    suffixes = frozenset({".txt", ".text", ".log"})
    media_types = frozenset({"text/plain"})
    signature = b""

    def __init__(self) -> None:
        self._metadata: dict[str, Json] = {}

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield the text in sections cut between paragraphs where there are any."""
        return stream_sections(decode(stream, encoding), self._metadata)


class CodeParser(TextParser):
    """Reads source code as it is, with `language`."""

    name = "code-1"
    media_types = frozenset[str]()

    def __init__(self, language: str, suffixes: str) -> None:
        super().__init__()
        self.suffixes = frozenset(suffixes.split())
        self._metadata = {"language": language}


# Styles, data and what is generated (.css, .json, .xml, .svg, …) are left out: in a folder they are not what anybody
# looks for. Named one by one they are read as plain text.
LANGUAGES: Final = {
    "bash": ".sh .bash",
    "c": ".c .h",
    "cpp": ".cpp .cc .cxx .hpp .hh",
    "csharp": ".cs",
    "go": ".go",
    "java": ".java",
    "javascript": ".js .mjs .cjs .jsx",
    "kotlin": ".kt .kts",
    "lua": ".lua",
    "perl": ".pl .pm",
    "php": ".php",
    "python": ".py .pyi",
    "r": ".r",
    "ruby": ".rb",
    "rust": ".rs",
    "scala": ".scala",
    "sql": ".sql",
    "swift": ".swift",
    "typescript": ".ts .tsx",
}
"""Language, as tree-sitter names it → how its files end."""
