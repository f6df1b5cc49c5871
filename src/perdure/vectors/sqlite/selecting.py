"""Which chunks may be hits: what is published, narrowed by the query."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import apsw

from perdure.domain.search import SearchQuery, matches
from perdure.vectors.sqlite.chunks import to_json, to_metadata
from perdure.vectors.sqlite.filters import Condition, Inexpressible, Values

PUBLISHED: Final = "d.namespace = :namespace AND c.edition = d.published"
OF_DOCUMENTS: Final = "d.document_id IN (SELECT value FROM json_each(:document_ids))"
AMONG: Final = "c.id IN (SELECT value FROM json_each(:among))"
CANDIDATES: Final = """
SELECT {columns} FROM {documents} d JOIN vector_chunks c ON c.document = d.id WHERE {conditions}
"""
# With a limit, SQLite works the facts out once for each document, and not again for each of its chunks.
DOCUMENTS: Final = "(SELECT d.*, {facts} FROM vector_documents d WHERE d.namespace = :namespace LIMIT -1)"


class Selection(NamedTuple):
    """Which chunks may be hits, in SQL over `d` (document) and `c` (chunk).

    Attributes:
        namespace: its row.
        conditions: where `d` is the table of documents.
        documents, prepared: what `d` may be instead, and the conditions then, which are quicker where many are looked at.
        narrowed: whether less than all that is published.
    """

    namespace: int
    conditions: str
    documents: str
    prepared: str
    values: Values
    narrowed: bool

    def candidates(self) -> str:
        """A statement that gives their rows."""
        return CANDIDATES.format(columns="c.id", documents=self.documents, conditions=self.prepared)


def select(connection: apsw.Connection, query: SearchQuery, namespace: int) -> Selection:
    """Put the query's conditions into SQL."""
    conditions, values = PUBLISHED, dict[str, Any](namespace=namespace)
    if query.document_ids:
        conditions += f" AND {OF_DOCUMENTS}"
        values["document_ids"] = to_json(query.document_ids)
    documents, prepared = "vector_documents", conditions
    if query.where is not None:
        try:
            where = Condition(query.where)
            if where.facts:
                named = ", ".join(f"{fact} AS fact{number}" for number, fact in enumerate(where.facts))
                documents = DOCUMENTS.format(facts=named)
            names = [f"d.fact{number}" for number in range(len(where.facts))]
            prepared = f"{conditions} AND ({where.sql.format(*names)})"
            conditions += f" AND ({where.sql.format(*where.facts)})"
            values |= where.values
        except Inexpressible:
            values["among"] = to_json(_matching(connection, query, conditions, values))
            conditions += f" AND {AMONG}"
            prepared = conditions
    return Selection(namespace, conditions, documents, prepared, values, conditions != PUBLISHED)


def _matching(connection: apsw.Connection, query: SearchQuery, conditions: str, values: Values) -> list[int]:
    """The rows that the filter leaves, asked one by one."""
    columns = "c.id, c.metadata, d.metadata"
    rows = connection.execute(
        CANDIDATES.format(columns=columns, documents="vector_documents", conditions=conditions), values
    )
    return [
        row
        for row, of_chunk, of_document in rows
        if matches(query.where, {**to_metadata(of_chunk), **to_metadata(of_document)})
    ]
