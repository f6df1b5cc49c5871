"""A retriever for LangChain (extra `langchain`)."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, PrivateAttr

from perdure.domain.search import Hit
from perdure.integrations import Loop, told


class PerdureRetriever(BaseRetriever):
    """The chunks that answer a question best, best first.

    Make it where the app is open. In that event loop use `ainvoke`; other threads may use `invoke`.

    Attributes:
        app: open; see `perdure.open`.
        limit: at most so many.
        options: further arguments of `App.search`: `where`, `mode`, `document_ids`, `threshold`, `effort`.
    """

    app: Any
    namespace: str = "default"
    tenant: str = "default"
    limit: int = 10
    options: dict[str, Any] = Field(default_factory=dict)
    _loop: Loop = PrivateAttr(default_factory=Loop)

    async def _search(self, query: str) -> list[Hit]:
        where = {"namespace": self.namespace, "tenant": self.tenant, "limit": self.limit}
        hits: list[Hit] = await self.app.search(query, **where, **self.options)
        return hits

    async def _aget_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return [_document(hit) for hit in await self._search(query)]

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return [_document(hit) for hit in self._loop.wait(self._search(query), "ainvoke")]


def _document(hit: Hit) -> Document:
    return Document(page_content=hit.chunk_text, id=hit.chunk_id, metadata=told(hit) | {"score": hit.score})
