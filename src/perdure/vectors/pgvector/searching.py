"""Search by meaning and by words, over what is published only, each one statement on one snapshot.

By meaning, where the namespace has an index, it is asked first, unless the query names its documents or its filter leaves
few of them; where that gives too few, for a filter leaves little of what lies near, all vectors that the filter leaves are
compared. So an answer is never short.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from perdure.databases.postgres import Connection, PostgresDatabase
from perdure.domain.search import Hit, SearchQuery
from perdure.domain.text import joined_pieces
from perdure.domain.vector import check_query, check_vector, required_text, required_vector
from perdure.vectors.pgvector.filters import Condition
from perdure.vectors.pgvector.indexes import Kind, kind_named
from perdure.vectors.pgvector.rows import metadata_of, numbers_of

COLUMNS: Final = """
d.document_id, d.version, d.ingestion_id, c.chunk_id, c.chunk_index, c.chunk_text, c.first, c.past,
d.source_metadata, c.metadata
"""
PUBLISHED: Final = """
FROM perdure_vector_documents d JOIN perdure_vector_chunks c ON c.document = d.id AND c.edition = d.published
"""
EXACT: Final = """
SELECT 1 - (c.embedding <=> $1::real[]::vector) AS score, {columns} {published}
WHERE d.namespace = $2 AND c.namespace = $2 AND c.dimension = {dimension} AND {condition}
ORDER BY c.embedding <=> $1::real[]::vector, c.chunk_id LIMIT $3
"""
# What the filter may leave, as far as documents tell; no more than is few is looked for. Of a CASE the planner expects that it
# leaves half, so that it walks the index up to the limit; of the filter itself hardly anything, so that it would read all.
LEFT: Final = """
SELECT d.id, d.chunk_count FROM perdure_vector_documents d
WHERE d.namespace = $1 AND d.published IS NOT NULL AND CASE WHEN ({condition}) IS NOT FALSE THEN true ELSE false END
ORDER BY d.document_id LIMIT $2
"""
# Of few documents, their chunks by the index of those: the planner, which knows nothing of the filter, would read all vectors
# of the namespace.
AMONG_FEW: Final = """
SELECT 1 - (c.embedding <=> $1::real[]::vector) AS score, {columns}
FROM perdure_vector_documents d CROSS JOIN LATERAL (
    SELECT * FROM perdure_vector_chunks c
    WHERE c.document = d.id AND c.edition = d.published AND c.dimension = {dimension} AND {condition} OFFSET 0
) c
WHERE d.id = ANY ({few}::bigint[]) AND d.namespace = $2
ORDER BY c.embedding <=> $1::real[]::vector, c.chunk_id LIMIT $3
"""
# The index gives equals, and what it holds in half precision, in an order of its own.
INDEXED: Final = """
SELECT * FROM (
    SELECT 1 - (c.embedding <=> $1::real[]::vector) AS score, {columns} {published}
    WHERE c.namespace = $2 AND c.dimension = {dimension} AND {condition}
    ORDER BY (c.embedding::{type}({dimension})) <=> $1::real[]::{type}({dimension}) LIMIT $3
) near
ORDER BY score DESC, chunk_id
"""
# BM25 without its measure of length, for chunks are about equal: of each word that is asked for, how often the chunk has it
# (`ts_rank`: each time more adds less) by how rare it is among the chunks that have any.
WORDS: Final = """
WITH found AS MATERIALIZED (
    SELECT c.document, c.edition, c.chunk_id, w.word, ts_rank(c.words, w.query) AS frequency
    {published} CROSS JOIN (
        SELECT word, word::tsquery AS query FROM unnest($1::text[]) AS word
    ) w
    WHERE c.words @@ ($2::tsquery && $3::tsquery) AND c.words @@ w.query AND d.namespace = $4 AND {condition}
), rarity AS (
    SELECT word, ln(1 + ($6 - count(*) + 0.5) / (count(*) + 0.5)) AS weight FROM found GROUP BY word
), best AS (
    SELECT document, edition, chunk_id, sum(frequency * weight) AS score FROM found JOIN rarity USING (word)
    GROUP BY document, edition, chunk_id ORDER BY score DESC, chunk_id LIMIT $5
)
SELECT score, {columns} FROM best
JOIN perdure_vector_documents d ON d.id = best.document
JOIN perdure_vector_chunks c ON (c.document, c.edition, c.chunk_id) = (best.document, best.edition, best.chunk_id)
ORDER BY score DESC, chunk_id
"""

MOST_WORDS: Final = 64
"""Distinct words of a query that count, the first ones: each costs time, and more hardly change the order."""
FEW_PART: Final = 50
"""One of so many chunks are compared sooner than an index finds those among them that lie near."""
COMMON: Final = 0.15
"""Words that are in more of the chunks than this are left out where there are others: they tell little and cost the most."""
FRESH_SECONDS: Final = 5.0
"""How long it is remembered which index a namespace has."""


class _Place(NamedTuple):
    """Where to search."""

    namespace: int
    documents: int
    chunks: int
    model: str
    dimension: int
    kind: Kind | None


class Searching:
    """The searches over one database."""

    def __init__(self, database: PostgresDatabase, queries: Mapping[str, str]) -> None:
        self._database = database
        self._queries = queries
        self._places: dict[tuple[str, str], tuple[float, _Place]] = {}

    async def search(self, query: SearchQuery) -> list[Hit]:
        """The nearest published chunks."""
        vector = required_vector(query)
        place = await self._place(query, FRESH_SECONDS)
        if place is not None and len(vector) == 4 * place.dimension:
            check_vector(vector, place.dimension, "the query's vector")
            if hits := await self._nearest(query, vector, place):
                return hits
        place = await self._place(query, 0)
        if place is None or place.documents == 0:
            return []
        check_query(query, vector, (place.model, place.dimension))
        return await self._nearest(query, vector, place)

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        """Published chunks with the query's words."""
        text = required_text(query).replace("\0", " ").encode(errors="replace").decode()
        place = await self._place(query, FRESH_SECONDS)
        if place is None:
            return []
        rows = await self._fetch(self._queries["words"], text, MOST_WORDS, joined_pieces(text))
        words = [" <-> ".join(map(_quoted, row["lexemes"])) for row in rows]
        rarest = min((row["frequency"] for row in rows), default=0.0)
        telling = [
            word for word, row in zip(words, rows, strict=True) if row["frequency"] <= max(COMMON, rarest)
        ]
        hits = await self._containing(query, place, telling)
        if len(hits) < query.limit and len(telling) < len(words):
            hits = await self._containing(query, place, words)
        return hits

    # --- behind them ------------------------------------------------------------------------------

    async def _place(self, query: SearchQuery, fresh: float) -> _Place | None:
        """Look up the namespace, or remember it for some seconds; None where there is none."""
        key, now = (query.tenant, query.namespace), time.monotonic()
        known = self._places.get(key)
        if known is not None and now - known[0] < fresh:
            return known[1]
        rows = await self._fetch(self._queries["place"], *key)
        if not rows:
            return None
        facts = dict(rows[0])
        place = _Place(kind=kind_named(facts.pop("index_name")), **facts)
        if len(self._places) > 10_000:
            self._places.clear()
        self._places[key] = (now, place)
        return place

    async def _nearest(self, query: SearchQuery, vector: bytes, place: _Place) -> list[Hit]:
        condition, values = _condition(query, 3)
        values = [numbers_of(vector), place.namespace, query.limit, *values]
        few = await self._few(query, place) if place.kind is not None else None
        if few is not None:
            facts = {"dimension": place.dimension, "condition": condition, "few": f"${len(values) + 1}"}
            return [_hit(row) for row in await self._fetch(_filled(AMONG_FEW, **facts), *values, few)]
        if place.kind is not None and not query.document_ids:
            facts = {"dimension": place.dimension, "condition": condition, "type": place.kind.type}
            rows = await self._fetch(
                _filled(INDEXED, **facts), *values, settings=self._settings(place.kind, query.effort)
            )
            if len(rows) == query.limit:
                return [_hit(row) for row in rows]
        exact = _filled(EXACT, dimension=place.dimension, condition=condition)
        return [_hit(row) for row in await self._fetch(exact, *values)]

    async def _few(self, query: SearchQuery, place: _Place) -> list[int] | None:
        """The documents that the query's filter may leave, where they have surely so few chunks that all of these had better
        be compared.
        """
        if query.where is None or query.document_ids:
            return None
        most = place.chunks // FEW_PART
        limit = most * place.documents // max(1, place.chunks) + 1
        condition = Condition(query.where, 2, documents=True)
        statement = LEFT.format(condition=condition.sql)
        left = await self._fetch(statement, place.namespace, limit, *condition.values)
        few = len(left) < limit and sum(row["chunk_count"] for row in left) <= most
        return [row["id"] for row in left] if few else None

    async def _containing(self, query: SearchQuery, place: _Place, words: Sequence[str]) -> list[Hit]:
        if not words:
            return []
        condition, values = _condition(query, 6)
        mark = _quoted(f" {place.namespace}")
        facts = [words, mark, " | ".join(words), place.namespace, query.limit, float(place.chunks)]
        rows = await self._fetch(_filled(WORDS, condition=condition), *facts, *values)
        return [_hit(row) for row in rows]

    def _settings(self, kind: Kind, effort: int | None) -> dict[str, str]:
        """What is to be set for one statement; nothing where the connection has it already."""
        options = self._database.options
        if effort is None and options.pooler == "none":
            return {}
        usual = options.ef_search if kind.method == "hnsw" else options.probes
        return kind.settings(effort or usual)

    async def _fetch(
        self, statement: str, *values: object, settings: Mapping[str, str] | None = None
    ) -> list[Any]:
        async def work(connection: Connection) -> list[Any]:
            if settings:
                names, wanted = list(settings), list(settings.values())
                await connection.fetch(self._queries["set"], names, wanted)
            return await connection.fetch(statement, *values)

        return await self._database.run(work, atomic=bool(settings))


def _filled(statement: str, **facts: object) -> str:
    return statement.format(columns=COLUMNS, published=PUBLISHED, **facts)


def _condition(query: SearchQuery, taken: int) -> tuple[str, list[Any]]:
    """The query's own conditions, and what is bound for them."""
    conditions, values = ["true"], list[Any]()
    if query.document_ids:
        values.append([name for name in query.document_ids if "\0" not in name])
        conditions.append(f"d.document_id = ANY (${taken + 1}::text[])")
    if query.where is not None:
        where = Condition(query.where, taken + len(values))
        conditions.append(f"({where.sql})")
        values += where.values
    return " AND ".join(conditions), values


def _quoted(word: str) -> str:
    """A word as a query of PostgreSQL has it, whatever is in it."""
    doubled = word.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"


def _hit(row: Any) -> Hit:
    score, document_id, version, ingestion_id, chunk_id, index, text, first, past, of_document, of_chunk = row
    return Hit(
        score=score,
        document_id=document_id,
        version=version,
        ingestion_id=ingestion_id,
        chunk_id=str(chunk_id),
        chunk_index=index,
        chunk_text=text,
        start=first,
        end=past,
        metadata=metadata_of(of_document),
        chunk_metadata=metadata_of(of_chunk),
    )
