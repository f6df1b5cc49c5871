"""What comes back."""

from __future__ import annotations

import unicodedata

from msgspec.structs import replace

from perdure.domain.document import Chunk, Namespace
from perdure.domain.search import Hit, SearchQuery
from perdure.ports.vector_store import Audit
from tests.wrong.vectors.base import WrongVectors


class NormalisesText(WrongVectors):
    """Texts come back in another form of Unicode."""

    caught_by = "test_any_text_comes_back_as_it_was"

    async def chunks(
        self, tenant: str, namespace: str, document_id: str, limit: int, after: int = -1
    ) -> list[Chunk]:
        chunks = await super().chunks(tenant, namespace, document_id, limit, after)
        return [replace(chunk, chunk_text=unicodedata.normalize("NFC", chunk.chunk_text)) for chunk in chunks]


class SkipsOnePerPage(WrongVectors):
    """Pages are off by one."""

    caught_by = "test_chunks_come_in_pages_by_index"

    async def chunks(
        self, tenant: str, namespace: str, document_id: str, limit: int, after: int = -1
    ) -> list[Chunk]:
        return await super().chunks(tenant, namespace, document_id, limit, after if after < 0 else after + 1)


class MendsWhatIsWhole(WrongVectors):
    """A document is called incomplete although nothing of it is gone."""

    caught_by = "test_what_was_published_drafted_replaced_and_deleted_is_as_it_should_be"

    async def mend(self, tenant: str, namespace: str, document_id: str) -> Audit:
        audit = await super().mend(tenant, namespace, document_id)
        return replace(audit, stored=audit.stored and replace(audit.stored, complete=False))


class CountsDrafts(WrongVectors):
    """What nobody sees is counted."""

    caught_by = "test_namespaces_count_what_readers_see"

    async def namespaces(self, tenant: str) -> list[Namespace]:
        return [
            replace(namespace, documents=len(self._shelf(tenant, namespace.name).entries))
            for namespace in await super().namespaces(tenant)
        ]


class HandsOutItsOwn(WrongVectors):
    """What a caller changes in a hit is changed for everybody."""

    caught_by = "test_what_the_caller_changes_later_changes_nothing"

    async def search(self, query: SearchQuery) -> list[Hit]:
        hits = await super().search(query)
        own = {
            chunk_id: item.chunk.metadata
            for edition in self._shelf(query.tenant, query.namespace).published()
            for chunk_id, item in edition.chunks.items()
        }
        return [replace(hit, chunk_metadata=own[hit.chunk_id]) for hit in hits]
