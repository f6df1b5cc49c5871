"""The tables.

Chunks of all editions (see `perdure.domain.heads`) are written to all tables as they come, draft or not; what readers see is
decided by one number in the document's row, so that publishing costs the same for three chunks as for a hundred thousand,
and a search leaves out what is not published.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import apsw

from perdure.domain.errors import InvalidInput, StoreError

COMPONENT: Final = "vectors"

TOKENIZER: Final = ("unicode61", "remove_diacritics", "2")
"""How texts are cut into words, here and in the table below. It neither stems nor drops words, which would favour one
language over all others.
"""

STEPS: Final = (
    """
    CREATE TABLE vector_namespaces (
        id INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        -- of what is published, counted as it comes and goes
        documents INTEGER NOT NULL DEFAULT 0,
        chunks INTEGER NOT NULL DEFAULT 0,
        -- of what is published; where nothing is, they say nothing
        model TEXT NOT NULL DEFAULT '',
        dimension INTEGER NOT NULL DEFAULT 0,
        UNIQUE (tenant, name)
    ) STRICT;

    -- A row stays when its document is deleted: it keeps old versions from coming back.
    CREATE TABLE vector_documents (
        id INTEGER PRIMARY KEY,
        namespace INTEGER NOT NULL REFERENCES vector_namespaces (id),
        document_id TEXT NOT NULL,
        deleted_version INTEGER,
        last_edition INTEGER NOT NULL DEFAULT 0,
        -- the draft: `draft` is its edition, once it has chunks
        begun_version INTEGER,
        begun_epoch INTEGER,
        draft_model TEXT,
        draft_dimension INTEGER,
        draft INTEGER,
        -- what readers see
        published INTEGER,
        version INTEGER,
        epoch INTEGER,
        content_hash TEXT,
        ingestion_id TEXT,
        metadata TEXT,
        model TEXT,
        dimension INTEGER,
        strategy TEXT,
        chunk_count INTEGER,
        complete INTEGER,
        published_at INTEGER,  -- microseconds since 1970, UTC
        UNIQUE (namespace, document_id)
    ) STRICT;

    CREATE TABLE vector_chunks (
        id INTEGER PRIMARY KEY,
        document INTEGER NOT NULL REFERENCES vector_documents (id),
        edition INTEGER NOT NULL,
        chunk_id TEXT NOT NULL,
        chunk_index INTEGER NOT NULL,
        hash TEXT NOT NULL,
        strategy TEXT NOT NULL,
        first INTEGER NOT NULL,
        past INTEGER NOT NULL,
        metadata TEXT,
        text TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX vector_chunks_by_id ON vector_chunks (document, edition, chunk_id);
    CREATE INDEX vector_chunks_by_index ON vector_chunks (document, edition, chunk_index);
    CREATE INDEX vector_chunks_by_hash ON vector_chunks (document, edition, hash);

    -- Editions to be swept.
    CREATE TABLE vector_dropped (
        document INTEGER NOT NULL REFERENCES vector_documents (id),
        edition INTEGER NOT NULL,
        dimension INTEGER NOT NULL,
        PRIMARY KEY (document, edition)
    ) STRICT, WITHOUT ROWID;

    -- The text is not stored again. `namespace` holds one word, so that a search touches no other tenant's rows.
    CREATE VIRTUAL TABLE vector_words USING fts5 (
        namespace,
        body,
        content = '',
        contentless_delete = 1,
        tokenize = 'unicode61 remove_diacritics 2'
    );
    -- Clearing deleted rows out of its files when a tenth is deleted, as it does unasked, costs ten times as much.
    INSERT INTO vector_words (vector_words, rank) VALUES ('deletemerge', 50);
    CREATE VIRTUAL TABLE vector_vocabulary USING fts5vocab (vector_words, row);
    """,
)

MAX_DIMENSION: Final = 8192
"""What sqlite-vec takes."""

CREATE_EMBEDDINGS: Final = """
CREATE VIRTUAL TABLE IF NOT EXISTS {table} USING vec0 (
    namespace INTEGER PARTITION KEY,
    embedding FLOAT[{dimension}] DISTANCE_METRIC=cosine,
    CHUNK_SIZE=64
)
"""
"""A partition takes room for 64 vectors at a time: of a namespace with three chunks, not a megabyte is lost."""


def equip(connection: apsw.Connection) -> None:
    """Give the connection the tables and functions of sqlite-vec."""
    connection.enable_load_extension(True)
    try:
        connection.load_extension(_extension())
    finally:
        connection.enable_load_extension(False)


def _extension() -> str:
    """Where sqlite-vec's library lies: asking the package itself would import numpy, which takes longer than most calls."""
    package = find_spec("sqlite_vec")
    if package is None or package.origin is None:
        raise StoreError("the package sqlite-vec is not installed; run: pip install sqlite-vec")
    return str(Path(package.origin).with_name("vec0"))


def embeddings(dimension: int) -> str:
    """Name the table of vectors of this dimension: it is fixed for each table of sqlite-vec.

    Raises:
        InvalidInput: there can be no such table.
    """
    if not isinstance(dimension, int) or not 1 <= dimension <= MAX_DIMENSION:
        raise InvalidInput(
            f"the dimension is {dimension}; SQLite stores vectors of 1 to {MAX_DIMENSION} numbers"
        )
    return f"vector_embeddings_{dimension}"


def create_embeddings(connection: apsw.Connection, dimension: int) -> None:
    """Make the table for vectors of this dimension, if it is not there."""
    table = embeddings(dimension)
    if not connection.table_exists("main", table):
        connection.execute(CREATE_EMBEDDINGS.format(table=table, dimension=dimension))
