"""Questions in, chunks out: by meaning, by words, or by both."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, get_args

from msgspec.structs import replace

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput, TextRejected
from perdure.domain.search import MAX_LIMIT, Filter, Hit, SearchQuery
from perdure.pipeline.embedding import checked
from perdure.ports.embedder import Embedder, MeteredEmbedder, metered
from perdure.ports.vector_store import VectorStore

Mode: TypeAlias = Literal["hybrid", "vector", "text"]

MAX_QUERY: Final = 10_000
"""Most characters of a question."""
MEANING: Final = 0.8
"""What meaning counts for in `fuse`, and words the rest; the value of its authors."""
_DEPTH: Final = 100
_TRIES: Final = 2
"""How often both are asked again where a document is published between them."""


class Searcher:
    """Finds published chunks.

    Args:
        spent: where the tokens of its questions are added up: (tenant, model) → tokens.
    """

    def __init__(
        self, vectors: VectorStore, embedder: Embedder, spent: Counter[tuple[str, str]] | None = None
    ) -> None:
        self._vectors = vectors
        self._embedder = embedder
        self._spent = Counter() if spent is None else spent

    async def search(
        self,
        text: str,
        *,
        tenant: str,
        namespace: str,
        limit: int = 10,
        where: Filter | None = None,
        document_ids: Sequence[str] = (),
        mode: Mode = "hybrid",
        threshold: float | None = None,
        effort: int | None = None,
    ) -> list[Hit]:
        """Find the chunks that answer `text` best.

        Args:
            limit: 1 to 1,000 hits.
            where: which chunks may be hits; see `perdure.domain.search.parse_filter`.
            document_ids: only chunks of these; empty: of all.
            mode: ``vector`` by meaning, ``text`` by words, ``hybrid`` by both (by meaning alone where the store
                has no full text).
            threshold: least cosine similarity, -1 to 1; with ``vector`` only, for the other scores have no scale.
            effort: how hard an approximate index looks, where there is one; see `SearchQuery`.

        Returns:
            Best first; an unknown namespace has no hits.

        Raises:
            InvalidInput: an argument does not fit.
            ModelMismatch: the namespace was filled by another model.
            EmbedderError, RetryAfter, EmbedderRefused: the model did not answer, or not with a vector.
        """
        self._refuse(text, mode, threshold)
        query = SearchQuery(
            tenant=tenant,
            namespace=namespace,
            limit=limit,
            where=where,
            document_ids=tuple(document_ids),
            effort=effort,
        )
        if mode == "text":
            return await self._vectors.search_text(replace(query, text=text))
        if mode == "vector" or not self._vectors.capabilities.full_text:
            hits = await self._by_meaning(query, text)
            return [hit for hit in hits if threshold is None or hit.score >= threshold]
        # Deeper than asked: a chunk that is eleventh in both lists may be better than the first of one.
        deep = replace(query, limit=min(MAX_LIMIT, max(_DEPTH, 2 * limit)))
        near, worded = await self._both(deep, text)
        for _ in range(_TRIES):
            if _mixed(near, worded):
                near, worded = await self._both(deep, text)
        return fuse(*_newest(near, worded))[:limit]

    async def _both(self, query: SearchQuery, text: str) -> tuple[list[Hit], list[Hit]]:
        return await asyncio.gather(
            self._by_meaning(query, text), self._vectors.search_text(replace(query, text=text))
        )

    async def _by_meaning(self, query: SearchQuery, text: str) -> list[Hit]:
        if isinstance(self._embedder, MeteredEmbedder):
            await self._embedder.prepare()
        vectors, tokens = await metered(self._embedder, [text], "query")
        self._spent[query.tenant, self._embedder.model] += sum(tokens)
        [vector] = checked(vectors, 1, self._embedder)
        if isinstance(vector, TextRejected):
            raise vector
        return await self._vectors.search(replace(query, vector=vector))

    def _refuse(self, text: str, mode: str, threshold: float | None) -> None:
        if mode not in get_args(Mode):
            raise InvalidInput(f"mode is {mode!r}; expected hybrid, vector or text")
        if mode == "text" and not self._vectors.capabilities.full_text:
            raise InvalidInput("this vector store has no full text search; use mode 'vector'")
        if threshold is not None and (mode != "vector" or not -1 <= threshold <= 1):
            raise InvalidInput(
                f"threshold is {threshold} with mode {mode!r}; expected a cosine similarity, -1 to 1, with mode "
                "'vector'"
            )
        check.text(text, "the query", MAX_QUERY)
        if not text.strip():
            raise InvalidInput("the query is empty; ask something")


def _mixed(near: Sequence[Hit], worded: Sequence[Hit]) -> bool:
    """Whether both show a document, in two versions."""
    versions = {hit.document_id: hit.version for hit in near}
    return any(versions.get(hit.document_id, hit.version) != hit.version for hit in worded)


def _newest(near: Sequence[Hit], worded: Sequence[Hit]) -> tuple[list[Hit], list[Hit]]:
    """Leave out what belongs to an older version than another hit of its document."""
    versions: dict[str, int] = {}
    for hit in (*near, *worded):
        versions[hit.document_id] = max(hit.version, versions.get(hit.document_id, hit.version))
    kept = [[hit for hit in hits if hit.version == versions[hit.document_id]] for hits in (near, worded)]
    return kept[0], kept[1]


def fuse(near: Sequence[Hit], worded: Sequence[Hit], meaning: float = MEANING) -> list[Hit]:
    """Merge what was found by meaning (scores of -1 to 1) and by words (above 0), each best first, by the weighted sum of
    both scores, each as a share of the way from the least that there can be to the best that was found (Bruch, Gai and
    Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", ACM TOIS 2023). What only words found counts, by
    meaning, as the last that meaning found.

    Returns:
        Every hit once, best first, ties as they were found; its score is the sum, 0 to 1.
    """
    best_near, best_worded = (hits[0].score if hits else 0.0 for hits in (near, worded))
    last = near[-1].score if near else -1.0
    hits = {hit.chunk_id: hit for hit in [*worded, *near]}
    by_meaning = {hit.chunk_id: hit.score for hit in near}
    by_words = {hit.chunk_id: hit.score for hit in worded}

    def score(chunk_id: str) -> float:
        nearness = (by_meaning.get(chunk_id, last) + 1) / ((best_near + 1) or 1)
        return meaning * nearness + (1 - meaning) * by_words.get(chunk_id, 0.0) / (best_worded or 1)

    scored = [replace(hit, score=score(chunk_id)) for chunk_id, hit in hits.items()]
    return sorted(scored, key=lambda hit: -hit.score)
