"""The rows of chunks: text, vector and words of each go in and out together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

import apsw
import msgspec

from perdure.databases.sqlite import write_rows
from perdure.domain.document import Chunk, EmbeddedChunk
from perdure.domain.heads import Edition
from perdure.domain.record import Json
from perdure.vectors.sqlite.schema import embeddings

LAST_ID: Final = "SELECT ifnull(max(id), 0) FROM vector_chunks"
INSERT_CHUNK: Final = """
INSERT INTO vector_chunks
       (id, document, edition, chunk_id, chunk_index, hash, strategy, first, past, metadata, text)
VALUES {rows}
"""
INSERT_VECTOR: Final = "INSERT INTO {table} (rowid, namespace, embedding) VALUES {{rows}}"
INSERT_WORDS: Final = "INSERT INTO vector_words (rowid, namespace, body) VALUES {rows}"

DELETE_CHUNK: Final = "DELETE FROM vector_chunks WHERE id = ?"
DELETE_VECTOR: Final = "DELETE FROM {table} WHERE rowid = ?"
DELETE_WORDS: Final = "DELETE FROM vector_words WHERE rowid = ?"

ALL_ROWS: Final = """
SELECT chunk_id, id FROM vector_chunks WHERE document = ? AND edition = ? ORDER BY chunk_id
"""
ROWS_AMONG: Final = """
SELECT id FROM vector_chunks
WHERE document = ? AND edition = ? AND chunk_id IN (SELECT value FROM json_each(?))
"""
SOME_ROWS: Final = "SELECT id FROM vector_chunks WHERE document = ? AND edition = ? LIMIT ?"
MOVE: Final = "UPDATE vector_chunks SET edition = ? WHERE id = ?"


def namespace_word(namespace: int) -> str:
    """The word that marks a namespace's rows in the index of words."""
    return f"n{namespace}"


class ChunkRows:
    """The rows of chunks within one transaction.

    New rows are gathered and written together, whatever documents they belong to: for small documents that saves a third.
    So all access to them goes through here.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._last_id: int | None = None
        self._chunks: list[tuple[int | str | None, ...]] = []
        self._vectors: defaultdict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
        self._words: list[tuple[int, str, str]] = []

    def insert(self, edition: Edition, chunks: Iterable[EmbeddedChunk]) -> None:
        """Write chunks that the edition does not have, at the latest by `flush`."""
        word, vectors = namespace_word(edition.namespace), self._vectors[edition.dimension]
        for item in chunks:
            row = self._next_id()
            self._chunks.append(_values(row, edition, item.chunk))
            vectors.append((row, edition.namespace, item.vector))
            self._words.append((row, word, item.chunk.chunk_text))

    def flush(self) -> None:
        """Write what was gathered. Call it at the end of the transaction."""
        if not self._chunks:
            return
        write_rows(self._connection, INSERT_CHUNK, self._chunks)
        for dimension, vectors in self._vectors.items():
            write_rows(self._connection, INSERT_VECTOR.format(table=embeddings(dimension)), vectors)
        write_rows(self._connection, INSERT_WORDS, self._words)
        for gathered in (self._chunks, self._vectors, self._words):
            gathered.clear()

    def remove(self, dimension: int, rows: Iterable[int]) -> None:
        """Remove rows, whatever edition they belong to."""
        keys = [(row,) for row in rows]
        if keys:
            self.flush()
            self._connection.executemany(DELETE_CHUNK, keys)
            self._connection.executemany(DELETE_VECTOR.format(table=embeddings(dimension)), keys)
            self._connection.executemany(DELETE_WORDS, keys)

    def remove_some(self, edition: Edition, limit: int) -> int:
        """Remove up to `limit` of the edition's; how many."""
        self.flush()
        found = self._connection.execute(SOME_ROWS, (edition.document, edition.number, limit))
        rows = [row for (row,) in found]
        self.remove(edition.dimension, rows)
        return len(rows)

    def move(self, rows: Iterable[int], number: int) -> None:
        """Make rows belong to another edition of their document."""
        self.flush()
        self._connection.executemany(MOVE, ((number, row) for row in rows))

    def all(self, edition: Edition) -> Iterator[tuple[str, int]]:
        """What the edition has (chunk id, row), ids ascending. Change nothing before the end."""
        self.flush()
        return self._connection.execute(ALL_ROWS, (edition.document, edition.number))

    def among(self, edition: Edition, chunk_ids: Iterable[str]) -> list[int]:
        """The rows of those of `chunk_ids` that the edition has."""
        self.flush()
        values = (edition.document, edition.number, to_json(list(chunk_ids)))
        return [row for (row,) in self._connection.execute(ROWS_AMONG, values)]

    def _next_id(self) -> int:
        if self._last_id is None:
            [(self._last_id,)] = self._connection.execute(LAST_ID)
        self._last_id += 1
        return self._last_id


def to_json(value: object) -> str:
    """Write as JSON."""
    return msgspec.json.encode(value).decode()


def to_metadata(text: str | None) -> dict[str, Json]:
    """Read metadata that was stored; most chunks have none."""
    metadata: dict[str, Json] = {} if text is None else msgspec.json.decode(text)
    return metadata


def from_metadata(metadata: dict[str, Json]) -> str | None:
    """Write metadata to be stored."""
    return to_json(metadata) if metadata else None


def _values(row: int, edition: Edition, chunk: Chunk) -> tuple[int | str | None, ...]:
    return (
        row,
        edition.document,
        edition.number,
        chunk.chunk_id,
        chunk.chunk_index,
        chunk.chunk_hash,
        chunk.chunk_strategy,
        chunk.start,
        chunk.end,
        from_metadata(chunk.metadata),
        chunk.chunk_text,
    )
