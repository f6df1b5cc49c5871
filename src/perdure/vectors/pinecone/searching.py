"""Search by meaning: Pinecone finds, the heads decide who is shown.

A namespace also holds chunks of drafts and of versions that were replaced. No filter can leave them out, for what is published
changes in one step, at the head; so the heads of all documents that were hit are read after the query. What they do not show is left
out of the next query, until nothing else is left.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias

from pinecone.models.vectors.responses import QueryResponse

from perdure.domain.errors import InvalidInput
from perdure.domain.search import Hit, SearchQuery, matches
from perdure.domain.vector import check_query, check_vector, required_vector
from perdure.vectors.pinecone.chunks import Chunks
from perdure.vectors.pinecone.documents import Documents
from perdure.vectors.pinecone.filters import Native, compiled, every
from perdure.vectors.pinecone.index import MOST_HITS, Index
from perdure.vectors.pinecone.names import ChunkName, chunks_of, document_key, parse_chunk
from perdure.vectors.pinecone.values import Head

Found: TypeAlias = tuple[float, ChunkName]
"""(score, chunk)"""

_MORE: Final = 16
"""Hits beyond the limit, so that one query mostly does."""


class Search:
    """One search."""

    def __init__(self, index: Index, documents: Documents, chunks: Chunks, query: SearchQuery) -> None:
        self._index = index
        self._documents = documents
        self._chunks = chunks
        self._query = query
        self._vector = required_vector(query)
        self._native, self._exact = compiled(query.where)
        self._known: dict[str, set[str]] = {}
        """document → editions that were hit."""
        self._depth = query.limit + _MORE

    async def run(self) -> list[Hit]:
        """Find the nearest."""
        check_vector(self._vector, len(self._vector) // 4, "the query's vector")
        hits = list[Hit]()
        if len(self._vector) // 4 <= self._index.dimension:
            hits = await self._index.until("one version of each document that was found", self._attempt)
        if not hits:
            await self._check_empty()
        return hits

    async def _check_empty(self) -> None:
        """Whether nothing was found because the vector is not of the namespace's model."""
        query = self._query
        model = await self._documents.model(query.tenant, query.namespace)
        if model is not None and await self._documents.keys(query.tenant, query.namespace, 1):
            check_query(query, self._vector, model)

    async def _attempt(self) -> list[Hit] | None:
        """The hits; None: once more."""
        hidden = frozenset[str]()
        while (where := self._where(hidden)) is not False:
            answer = await self._index.query(
                chunks_of(self._query.tenant, self._query.namespace),
                self._depth,
                where if isinstance(where, dict) else None,
                self._vector,
            )
            found = [(match.score, parse_chunk(match.id)) for match in answer.matches]
            heads = await self._heads(found)
            for head in heads.values():
                check_query(self._query, self._vector, (head.stored.model, head.stored.dimension))
            hidden, before = self._hidden(heads), hidden
            if hidden != before:
                continue
            if not _whole(answer, heads):
                return None
            best = await self._best(found, heads)
            if best is None or self._enough(best, found):
                return best
        return []

    def _where(self, hidden: Collection[str]) -> Native:
        parts: list[Native] = [self._native]
        if self._query.document_ids:
            keys = {document_key(one) for one in self._query.document_ids}
            parts.append({"document": {"$in": sorted(keys)}})
        if hidden:
            parts.append({"edition": {"$nin": sorted(hidden)}})
        return every(parts)

    async def _heads(self, found: Sequence[Found]) -> dict[str, Head]:
        for _, name in found:
            self._known.setdefault(name.document, set()).add(name.edition)
        return await self._documents.heads(self._query.tenant, self._query.namespace, sorted(self._known))

    def _hidden(self, heads: Mapping[str, Head]) -> frozenset[str]:
        """What was hit though nobody may see it."""
        return frozenset(
            f"{document}/{edition}/"
            for document, editions in self._known.items()
            for edition in editions
            if document not in heads or heads[document].edition != edition
        )

    async def _best(self, found: Sequence[Found], heads: Mapping[str, Head]) -> list[Hit] | None:
        """The hits among what was found; None: some are gone meanwhile."""
        query = self._query
        nearest = sorted(found, key=lambda one: (-one[0], one[1].chunk_id))
        if self._exact:
            nearest = nearest[: query.limit]
        chunks = await self._chunks.read(query.tenant, query.namespace, [name for _, name in nearest])
        if len(chunks) < len(nearest):
            return None
        hits = [
            Hit.of(
                max(-1.0, min(1.0, score)),
                copy.deepcopy(heads[name.document].stored.document),
                chunks[name.record],
            )
            for score, name in nearest
        ]
        fitting = [hit for hit in hits if matches(query.where, hit.chunk_metadata | hit.metadata)]
        return fitting[: query.limit]

    def _enough(self, best: Sequence[Hit], found: Sequence[Found]) -> bool:
        """Whether no other chunk can be among the best; if not, the next query goes deeper.

        Raises:
            InvalidInput: none can go deeper.
        """
        limit = self._query.limit
        if len(found) < self._depth or (len(best) == limit and found[-1][0] < best[-1].score):
            return True
        if self._depth >= MOST_HITS:
            if len(best) == limit:
                return True  # among equals without number
            raise InvalidInput(
                f"of the {MOST_HITS:,} nearest chunks {len(best)} pass the filter, and Pinecone tells no more; name the values "
                "that are wanted instead of a range of texts, or large numbers"
            )
        self._depth = min(MOST_HITS, 4 * self._depth)
        return False


def _whole(answer: QueryResponse, heads: Mapping[str, Head]) -> bool:
    """Whether the query saw all chunks of what the heads show; unknown, where Pinecone does not tell."""
    seen = answer.response_info.lsn_reconciled if answer.response_info else None
    return seen is None or all(head.lsn is None or head.lsn <= seen for head in heads.values())
