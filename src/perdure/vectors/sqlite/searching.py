"""Search by meaning and by words, over what is published only, each on one snapshot.

An index ranks all that it holds, drafts and superseded chunks among them, and gives equals in any order. So it is asked for
more than the limit; only where that does not settle it, what is published is picked out first, which costs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import apsw

from perdure.domain.search import Hit, SearchQuery
from perdure.domain.text import joined_pieces
from perdure.domain.vector import check_query, required_text, required_vector
from perdure.vectors.sqlite.chunks import namespace_word, to_json, to_metadata
from perdure.vectors.sqlite.filters import Values
from perdure.vectors.sqlite.schema import TOKENIZER, embeddings
from perdure.vectors.sqlite.selecting import Selection, select

FIND_NAMESPACE: Final = """
SELECT id, model, dimension FROM vector_namespaces WHERE tenant = ? AND name = ? AND documents > 0
"""

RANKED: Final = """
WITH near AS MATERIALIZED ({ranking})
SELECT near.distance, c.chunk_id, c.id, c.edition IS d.published
FROM near CROSS JOIN vector_chunks c ON c.id = near.rowid CROSS JOIN vector_documents d ON d.id = c.document
"""
NEAREST: Final = """
SELECT rowid, distance FROM {table}
WHERE embedding MATCH :vector AND k = :k AND namespace = :namespace {within}
"""
BEST_WORDS: Final = """
SELECT rowid, bm25(vector_words, 0.0, 1.0) AS distance FROM vector_words
WHERE vector_words MATCH :words ORDER BY distance LIMIT :k
"""
"""BM25 of the texts alone; the better, the less, as a distance."""

SCAN: Final = """
SELECT vec_distance_cosine(v.embedding, :vector) AS distance, c.chunk_id, c.id
FROM {documents} d JOIN vector_chunks c ON c.document = d.id CROSS JOIN {table} v ON v.rowid = c.id
WHERE {conditions} ORDER BY distance, c.chunk_id LIMIT :limit
"""
SCAN_WORDS: Final = """
SELECT bm25(vector_words, 0.0, 1.0) AS distance, c.chunk_id, c.id
FROM vector_words
CROSS JOIN vector_chunks c ON c.id = vector_words.rowid
CROSS JOIN vector_documents d ON d.id = c.document
WHERE vector_words MATCH :words AND {conditions} ORDER BY distance, c.chunk_id LIMIT :limit
"""

IS_COMMON: Final = """
SELECT 1 FROM vector_vocabulary WHERE term = ? AND doc > (SELECT max(id) FROM vector_chunks) / 2
"""
HITS: Final = """
SELECT c.id, d.document_id, d.version, d.ingestion_id, c.chunk_id, c.chunk_index, c.text, c.first, c.past,
       d.metadata, c.metadata
FROM json_each(?) wanted
CROSS JOIN vector_chunks c ON c.id = wanted.value
CROSS JOIN vector_documents d ON d.id = c.document
"""

MOST_NEAREST: Final = 4096
"""Most neighbours that sqlite-vec finds in one go."""

MOST_WORDS: Final = 64
"""Distinct words of a query that count, the first ones: each costs time, and more hardly change the order."""

Ranked: TypeAlias = Sequence[tuple[Any, ...]]
"""Rows of (distance, chunk id, row, …), nearest first."""


def search(connection: apsw.Connection, query: SearchQuery) -> list[Hit]:
    """The nearest published chunks."""
    vector = required_vector(query)
    found = connection.execute(FIND_NAMESPACE, (query.tenant, query.namespace)).fetchone()
    if found is None:
        return []
    namespace, model, dimension = found
    check_query(query, vector, (model, dimension))
    selection = select(connection, query, namespace)
    nearest = _nearest(connection, selection, vector, dimension, query.limit)
    return _hits(connection, [(row, min(1.0, max(-1.0, 1.0 - distance))) for distance, _, row, *_ in nearest])


def search_text(connection: apsw.Connection, query: SearchQuery) -> list[Hit]:
    """Published chunks with the query's words."""
    text = required_text(query)
    words = list(dict.fromkeys(_split_words(connection, text)))[:MOST_WORDS]
    found = connection.execute(FIND_NAMESPACE, (query.tenant, query.namespace)).fetchone()
    if found is None or not words:
        return []
    selection = select(connection, query, found[0])
    phrases = [" ".join(_split_words(connection, piece)) for piece in joined_pieces(text)]
    phrases = [phrase for phrase in phrases if " " in phrase]
    best = _containing(connection, selection, [*_telling(connection, words), *phrases], query.limit)
    if len(best) < query.limit:
        best = _containing(connection, selection, [*words, *phrases], query.limit)
    return _hits(connection, [(row, -distance) for distance, _, row, *_ in best])


# --- by meaning -----------------------------------------------------------------------------


def _nearest(
    connection: apsw.Connection, selection: Selection, vector: bytes, dimension: int, limit: int
) -> Ranked:
    table, values = embeddings(dimension), {**selection.values, "vector": vector}
    for k, published_only in ((_a_few_more(limit), selection.narrowed), (MOST_NEAREST, True)):
        within = f"AND rowid IN ({selection.candidates()})" if published_only else ""
        nearest = _settled(connection, NEAREST.format(table=table, within=within), values, k, limit)
        if nearest is not None:
            return nearest
    scan = SCAN.format(table=table, documents=selection.documents, conditions=selection.prepared)
    return connection.execute(scan, {**values, "limit": limit}).fetchall()


# --- by words -------------------------------------------------------------------------------


def _containing(
    connection: apsw.Connection, selection: Selection, terms: Sequence[str], limit: int
) -> Ranked:
    """The best that hold any of the terms: words, or several that must stand together."""
    if not terms:
        return []
    anything = " OR ".join(f'"{term}"' for term in terms)
    place = namespace_word(selection.namespace)
    values = {**selection.values, "words": f"namespace : {place} AND body : ({anything})"}
    if not selection.narrowed:
        best = _settled(connection, BEST_WORDS, values, _a_few_more(limit), limit)
        if best is not None:
            return best
    scan = SCAN_WORDS.format(conditions=selection.conditions)
    return connection.execute(scan, {**values, "limit": limit}).fetchall()


def _split_words(connection: apsw.Connection, text: str) -> list[str]:
    """The words of a text, as the index has them."""
    name, *options = TOKENIZER
    tokenize = connection.fts5_tokenizer(name, options)
    tokens = tokenize(
        text.encode(errors="replace"),
        apsw.FTS5_TOKENIZE_QUERY,
        None,
        include_offsets=False,
        include_colocated=False,
    )
    return list(map(str, tokens))


def _telling(connection: apsw.Connection, words: Sequence[str]) -> list[str]:
    """Those that tell chunks apart. A word that most chunks hold has no weight in BM25, and costs the most to look for."""
    return [word for word in words if connection.execute(IS_COMMON, (word,)).fetchone() is None]


# --- both -----------------------------------------------------------------------------------


def _a_few_more(limit: int) -> int:
    """How many to ask the index for: room for as many unpublished ones, and for equals."""
    return min(2 * limit + 16, MOST_NEAREST)


def _settled(connection: apsw.Connection, ranking: str, values: Values, k: int, limit: int) -> Ranked | None:
    """The `limit` nearest published rows, if they are certain to be among the k that `ranking` gives.

    Where all k were given, equals of the farthest may have been left out, so that none as far as that is certain.
    """
    rows: list[Any] = connection.execute(RANKED.format(ranking=ranking), {**values, "k": k}).fetchall()
    edge = max(row[0] for row in rows) if len(rows) == k else float("inf")
    certain = sorted(row for row in rows if row[3] and row[0] < edge)[:limit]
    return certain if len(certain) == limit or len(rows) < k else None


def _hits(connection: apsw.Connection, scores: Sequence[tuple[int, float]]) -> list[Hit]:
    rows = connection.execute(HITS, (to_json([row for row, _ in scores]),))
    by_row = {row[0]: row[1:] for row in rows}
    return [_hit(score, by_row[row]) for row, score in scores]


def _hit(score: float, row: tuple[Any, ...]) -> Hit:
    document_id, version, ingestion_id, chunk_id, index, text, first, past, of_document, of_chunk = row
    return Hit(
        score=score,
        document_id=document_id,
        version=version,
        ingestion_id=ingestion_id,
        chunk_id=chunk_id,
        chunk_index=index,
        chunk_text=text,
        start=first,
        end=past,
        metadata=to_metadata(of_document),
        chunk_metadata=to_metadata(of_chunk),
    )
