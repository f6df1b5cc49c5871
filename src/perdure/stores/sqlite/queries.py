"""The statements, read from the .sql files beside this module."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, TypeAlias

import apsw

Row: TypeAlias = tuple[Any, ...]
Values: TypeAlias = Sequence[Any] | Mapping[str, Any]

_SECTION: Final = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
_COMMENT: Final = re.compile(r"^--.*\n", re.MULTILINE)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _statements(text: str) -> dict[str, str]:
    """Name → statement, without the comments and the semicolon at the end."""
    return {name: _COMMENT.sub("", body).strip().removesuffix(";") for name, body in _SECTION.findall(text)}


SQL: Final[Mapping[str, str]] = _statements(_read("jobs.sql"))
"""Every statement of jobs.sql by its name."""

COMPONENT: Final = "jobs"
STEPS: Final = (_read("schema.sql"), _read("values.sql"), _read("unique.sql"))
"""The schema, step by step: what is released is never changed, a new version is one step more."""


def fetch(connection: apsw.Connection, name: str, values: Values = ()) -> list[Row]:
    """Run a statement by its name; all its rows."""
    return connection.execute(SQL[name], values).fetchall()


def fetch_value(connection: apsw.Connection, name: str, values: Values = ()) -> Any:
    """Run a statement by its name; the first column of its first row, None if there is no row."""
    return connection.execute(SQL[name], values).get
