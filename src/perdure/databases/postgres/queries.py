"""Statements in named files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_PART = re.compile(r"\{(\w+)\}")


def load_queries(package: str, file: str) -> Mapping[str, str]:
    """Read a file of statements, each after a line ``-- name: x``; ``{y}`` stands for the text of the statement y."""
    _, *pieces = _NAME.split((files(package) / file).read_text("utf-8"))
    texts = dict(zip(pieces[::2], map(str.strip, pieces[1::2]), strict=True))
    return {name: _PART.sub(lambda part: texts[part[1]], text) for name, text in texts.items()}
