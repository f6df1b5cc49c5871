"""Pieces of source code that end where its syntax does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

from perdure.chunkers.recursive import RecursiveChunker
from perdure.domain.packages import needed
from perdure.domain.record import Json

LANGUAGES: Final = {
    "bash": "bash",
    "c": "c",
    "cpp": "cpp",
    "csharp": "c_sharp",
    "go": "go",
    "java": "java",
    "javascript": "javascript",
    "kotlin": "kotlin",
    "lua": "lua",
    "php": "php:language_php",
    "python": "python",
    "ruby": "ruby",
    "rust": "rust",
    "scala": "scala",
    "swift": "swift",
    "typescript": "typescript:language_tsx",
}
"""Language, as the parser names it → its grammar's module, and the function there where it is not `language`."""


class CodeChunker(RecursiveChunker):
    """Cut between the largest parts of the syntax tree that fit: classes, functions, statements (libraries:
    semantic-text-splitter, tree-sitter grammars). What is in no known language is cut as by `RecursiveChunker`.
    """

    kind = "code"
    window = 16

    def __init__(self, capacity: int = 1000, overlap: int = 0) -> None:
        super().__init__(capacity, overlap)
        self._splitters = {language: self._splitter(grammar) for language, grammar in LANGUAGES.items()}

    def made_by(self) -> str:
        """Name the splitter, and the releases of all grammars together."""
        releases = ",".join(
            version(f"tree-sitter-{_module(g).replace('_', '-')}") for g in LANGUAGES.values()
        )
        return f"{super().made_by()}+grammars-{hashlib.sha256(releases.encode()).hexdigest()[:8]}"

    def splitter(self, metadata: Mapping[str, Json]) -> Any:
        """Give the splitter for the language that the parser named."""
        return self._splitters.get(str(metadata.get("language"))) or super().splitter(metadata)

    def _splitter(self, grammar: str) -> Any:
        from semantic_text_splitter import CodeSplitter

        with needed("this way of cutting needs", "chunkers"):
            module = import_module(f"tree_sitter_{_module(grammar)}")
        language = getattr(module, grammar.partition(":")[2] or "language")
        return CodeSplitter(language(), self._capacity, overlap=self._overlap)


def _module(grammar: str) -> str:
    return grammar.partition(":")[0]
