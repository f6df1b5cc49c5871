"""A retriever for Haystack (extra `haystack`)."""

from __future__ import annotations

from typing import Any

from haystack import Document, component

from perdure.app import App
from perdure.domain.search import Hit
from perdure.integrations import Loop, told


@component
class PerdureRetriever:
    """The chunks that answer a question best, best first.

    Make it where the app is open. In that event loop use `AsyncPipeline`; other threads may use `Pipeline`.

    Args:
        app: open; see `perdure.open`.
        top_k: at most so many.
        options: further arguments of `App.search`: `where`, `mode`, `document_ids`, `threshold`, `effort`.
    """

    def __init__(
        self,
        app: App,
        *,
        namespace: str = "default",
        tenant: str = "default",
        top_k: int = 10,
        **options: Any,
    ) -> None:
        self._app, self._loop, self._top_k = app, Loop(), top_k
        self._options = {"namespace": namespace, "tenant": tenant, **options}

    async def _search(self, query: str, top_k: int | None) -> list[Hit]:
        return await self._app.search(query, limit=top_k or self._top_k, **self._options)

    @component.output_types(documents=list[Document])
    async def run_async(self, query: str, top_k: int | None = None) -> dict[str, list[Document]]:
        """The documents for a query, in the app's own event loop."""
        return {"documents": [_document(hit) for hit in await self._search(query, top_k)]}

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None) -> dict[str, list[Document]]:
        """The documents for a query, in another thread than the app's."""
        hits = self._loop.wait(self._search(query, top_k), "AsyncPipeline")
        return {"documents": [_document(hit) for hit in hits]}


def _document(hit: Hit) -> Document:
    return Document(id=hit.chunk_id, content=hit.chunk_text, meta=told(hit), score=hit.score)
