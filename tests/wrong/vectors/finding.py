"""What a search finds."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.domain.document import StoredDocument
from perdure.domain.errors import StoreError
from perdure.domain.search import MAX_LIMIT, Compare, Hit, SearchQuery, matches
from tests.wrong.vectors.base import WrongVectors


class LeaksTenants(WrongVectors):
    """Everybody's namespace of that name is searched."""

    caught_by = "test_no_read_goes_through"

    async def search(self, query: SearchQuery) -> list[Hit]:
        hits: list[Hit] = []
        for tenant, namespace in self._shelves:
            if namespace == query.namespace:
                hits += await super().search(replace(query, tenant=tenant))
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))[: query.limit]


class LeaksDocuments(WrongVectors):
    """A document is found by its id, whoever asks."""

    caught_by = "test_no_read_goes_through"

    async def document(self, tenant: str, namespace: str, document_id: str) -> StoredDocument | None:
        for owner, space in self._shelves:
            if (found := await super().document(owner, space, document_id)) is not None:
                return found
        return None


class FiltersAfterTheLimit(WrongVectors):
    """What the filter takes out of the best is not made up for."""

    caught_by = "test_a_filter_narrows_before_the_limit"

    async def search(self, query: SearchQuery) -> list[Hit]:
        hits = await super().search(replace(query, where=None))
        return [hit for hit in hits if matches(query.where, {**hit.chunk_metadata, **hit.metadata})]


class TakesTrueForOne(WrongVectors):
    """Equality as in Python, where True is 1."""

    caught_by = "test_every_value_is_found_by_itself"

    async def search(self, query: SearchQuery) -> list[Hit]:
        match query.where:
            case Compare(op="eq", key=key, value=value):
                hits = await super().search(replace(query, where=None))
                return [hit for hit in hits if key in hit.metadata and hit.metadata[key] == value]
            case _:
                return await super().search(query)


class LetsTheChunkWin(WrongVectors):
    """Of the same key, the chunk's metadata counts."""

    caught_by = "test_the_documents_metadata_lies_over_the_chunks"

    async def search(self, query: SearchQuery) -> list[Hit]:
        hits = await super().search(replace(query, where=None, limit=MAX_LIMIT))
        kept = [hit for hit in hits if matches(query.where, {**hit.metadata, **hit.chunk_metadata})]
        return kept[: query.limit]


class TurnsTiesRound(WrongVectors):
    """Equals come in any order."""

    caught_by = "test_equals_come_by_chunk_id"

    async def search(self, query: SearchQuery) -> list[Hit]:
        hits = await super().search(replace(query, limit=MAX_LIMIT))
        hits.sort(key=lambda hit: hit.chunk_id, reverse=True)
        hits.sort(key=lambda hit: hit.score, reverse=True)
        return hits[: query.limit]


class GivesOneTooFew(WrongVectors):
    """The limit is off by one."""

    caught_by = "test_the_limit_is_kept"

    async def search(self, query: SearchQuery) -> list[Hit]:
        return (await super().search(query))[: max(1, query.limit - 1)]


class ComparesByDotProduct(WrongVectors):
    """Long vectors are near to everything."""

    caught_by = "test_the_nearest_come_first"

    async def search(self, query: SearchQuery) -> list[Hit]:
        hits = await super().search(replace(query, limit=MAX_LIMIT))
        lengths = {
            chunk_id: sum(item.vector)
            for edition in self._shelf(query.tenant, query.namespace).published()
            for chunk_id, item in edition.chunks.items()
        }
        return sorted(hits, key=lambda hit: -hit.score * lengths[hit.chunk_id])[: query.limit]


class TakesQuotesForSyntax(WrongVectors):
    """A query is handed to the engine as it came."""

    caught_by = "test_no_query_is_an_error"

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        if '"' in (query.text or ""):
            raise StoreError("unterminated string")
        return await super().search_text(query)


class FindsAllWordsOnly(WrongVectors):
    """A question of ten words finds nothing."""

    caught_by = "test_any_of_the_words_will_do_and_more_are_better"

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        hits = await super().search_text(query)
        words = (query.text or "").casefold().split()
        return [hit for hit in hits if all(word in hit.chunk_text.casefold() for word in words)]
