"""The rows of documents and their namespaces: read together in one step of SQLite, written together in one.

Between two steps every other thread may take the interpreter, and ours waits for it: many small steps would take longer
than the work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import apsw
import msgspec

from perdure.databases.sqlite import write_rows
from perdure.domain.document import StoredDocument
from perdure.domain.heads import Head, Place, Shelf
from perdure.domain.moments import micros
from perdure.vectors.sqlite.chunks import from_metadata, to_json

# A head as JSON; its time in seconds, which msgspec reads to the microsecond.
_READ: Final = {name: f"d.{name}" for name in Head.__struct_fields__} | {
    "source_metadata": "json(d.metadata)",
    "published_at": "json((d.published_at / 1000000) || printf('.%06d', d.published_at % 1000000))",
}
_HEADS: Final = """
SELECT json_group_array(json_object({head})) FROM {source}
"""
_HEAD: Final = ", ".join(f"'{name}', {value}" for name, value in _READ.items())
HEADS: Final = _HEADS.format(
    head=_HEAD,
    source="""
json_each(?) AS wanted CROSS JOIN vector_documents d
WHERE d.namespace = wanted.value ->> 0 AND d.document_id = wanted.value ->> 1
""",
)
STORED: Final = _HEADS.format(
    head=_HEAD,
    source="""(
SELECT * FROM vector_documents
WHERE namespace = (SELECT id FROM vector_namespaces WHERE tenant = ? AND name = ?)
  AND document_id > ? AND published IS NOT NULL
ORDER BY document_id LIMIT ?
) AS d
""",
)
SHELF: Final = "SELECT id, documents, model, dimension FROM vector_namespaces WHERE tenant = ? AND name = ?"

LAST_ID: Final = "SELECT ifnull(max(id), 0) FROM vector_documents"

# A statement that SQLite may have to undo halfway (of several rows, or RETURNING, ON CONFLICT) makes the index of words write
# out what it gathered, as a savepoint does (see `batches`): `save` comes before the words.
ADD_NAMESPACE: Final = "INSERT INTO vector_namespaces (tenant, name) VALUES (?, ?)"
_COLUMNS: Final = [name.replace("source_", "") for name in Head.__struct_fields__]
ADD: Final = """
INSERT INTO vector_documents ({columns})
VALUES {{rows}}
""".format(columns=", ".join(_COLUMNS))
_SAVED: Final = [
    f"{column} = head.column{number}"
    for number, column in enumerate(_COLUMNS, 1)
    if column not in {"id", "namespace", "document_id"}
]
SAVE: Final = """
UPDATE vector_documents SET {values} FROM (VALUES {{rows}}) AS head WHERE vector_documents.id = head.column{id}
""".format(values=", ".join(_SAVED), id=_COLUMNS.index("id") + 1)
COUNT: Final = """
UPDATE vector_namespaces
SET documents = documents + ?, chunks = chunks + ?, model = ifnull(?, model), dimension = ifnull(?, dimension)
WHERE id = ?
"""

_decode: Final[Callable[[str], list[Head]]] = msgspec.json.Decoder(list[Head], strict=False).decode


def head_of(connection: apsw.Connection, place: Place) -> Head:
    """Where the document stands."""
    return Documents(connection, [place]).head(place)


def stored_documents(
    connection: apsw.Connection, tenant: str, namespace: str, limit: int, after: str | None
) -> list[StoredDocument]:
    """A page of what readers see, by id."""
    [(heads,)] = connection.execute(STORED, (tenant, namespace, after or "", limit))
    found = (head.stored(tenant, namespace) for head in _decode(heads))
    return [stored for stored in found if stored is not None]


class Documents:
    """Documents within one transaction: those that are changed go back with `save`.

    Args:
        places: all that will be asked for.
    """

    def __init__(self, connection: apsw.Connection, places: Collection[Place]) -> None:
        self._connection = connection
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._heads: dict[Place, Head] = {}
        self._new: dict[Place, Head] = {}
        self._changed: dict[Place, Head] = {}
        self._last_id = 0
        for tenant, namespace in {place[:2] for place in places}:
            row = connection.execute(SHELF, (tenant, namespace)).fetchone()
            self._shelves[tenant, namespace] = Shelf(*row or ())
        wanted = {(self._shelves[place[:2]].id, place[2]): place for place in places}
        [(heads,)] = connection.execute(HEADS, (to_json(list(wanted)),))
        for head in _decode(heads):
            self._heads[wanted[head.namespace, head.document_id]] = head

    def head(self, place: Place) -> Head:
        """Where the document stands; change it, and say so."""
        return self._heads.setdefault(place, Head(document_id=place[2]))

    def shelf(self, place: Place) -> Shelf:
        """What readers see in its namespace."""
        return self._shelves[place[:2]]

    def change(self, place: Place) -> Head:
        """A head that is about to be changed; it has its rows from then on."""
        head, shelf = self.head(place), self._shelves[place[:2]]
        if not head.id:
            if not shelf.id:
                self._connection.execute(ADD_NAMESPACE, place[:2])
                shelf.id = self._connection.last_insert_rowid()
            head.namespace, head.id = shelf.id, self._next_id()
            self._new[place] = head
        elif place not in self._new:
            self._changed[place] = head
        return head

    def save(self) -> None:
        """Write what was changed."""
        for statement, heads in ((ADD, self._new), (SAVE, self._changed)):
            write_rows(self._connection, statement, [_row(head) for head in heads.values()])
            heads.clear()
        for shelf in self._shelves.values():
            if shelf.shown or shelf.grown != (0, 0):
                model, dimension = shelf.shown or (None, None)
                self._connection.execute(COUNT, (*shelf.grown, model, dimension, shelf.id))
                shelf.grown = (0, 0)

    def _next_id(self) -> int:
        if not self._new:
            [(self._last_id,)] = self._connection.execute(LAST_ID)
        self._last_id += 1
        return self._last_id


def _row(head: Head) -> tuple[object, ...]:
    row = msgspec.structs.asdict(head)
    row["source_metadata"] = from_metadata(head.source_metadata or {})
    row["published_at"] = None if head.published_at is None else micros(head.published_at)
    return tuple(row.values())
