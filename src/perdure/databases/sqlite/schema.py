"""Versions of the tables in one file, counted per component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from perdure.domain.errors import SchemaMismatch

CREATE_VERSIONS: Final = (
    "CREATE TABLE IF NOT EXISTS perdure_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
)
HAS_VERSIONS: Final = "SELECT count(*) FROM sqlite_schema WHERE name = 'perdure_schema'"
"""Asked of the file: `Connection.table_exists` answers from memory, unaware of what others have created."""

FIND_VERSION: Final = "SELECT version FROM perdure_schema WHERE component = ?"
SET_VERSION: Final = "INSERT OR REPLACE INTO perdure_schema (component, version) VALUES (?, ?)"


def migrate(connection: apsw.Connection, path: str, component: str, steps: Sequence[str]) -> None:
    """Run inside a write transaction: whoever comes second finds the work done."""
    version = version_of(connection, component)
    if version > len(steps):
        raise SchemaMismatch(
            f"{path} holds {component} of schema version {version}, this Perdure knows versions up to {len(steps)}; "
            "run the newer Perdure that wrote it (pip install --upgrade perdure), or name another file"
        )
    if version == len(steps):
        return
    connection.execute(CREATE_VERSIONS)
    for step in steps[version:]:
        connection.execute(step)
    connection.execute(SET_VERSION, (component, len(steps)))


def version_of(connection: apsw.Connection, component: str) -> int:
    """The version that the file is at; 0 if the component was never there."""
    if not connection.execute(HAS_VERSIONS).get:
        return 0
    version: int | None = connection.execute(FIND_VERSION, (component,)).get
    return version or 0
