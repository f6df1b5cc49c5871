"""A retriever for LlamaIndex (extra `llama-index`)."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from perdure.app import App
from perdure.domain.search import Hit
from perdure.integrations import Loop, told


class PerdureRetriever(BaseRetriever):
    """The chunks that answer a question best, best first.

    Make it where the app is open. In that event loop use `aretrieve`; other threads may use `retrieve`.

    Args:
        app: open; see `perdure.open`.
        limit: at most so many.
        options: further arguments of `App.search`: `where`, `mode`, `document_ids`, `threshold`, `effort`.
    """

    def __init__(
        self,
        app: App,
        *,
        namespace: str = "default",
        tenant: str = "default",
        limit: int = 10,
        **options: Any,
    ) -> None:
        super().__init__()
        self._app, self._loop = app, Loop()
        self._options = {"namespace": namespace, "tenant": tenant, "limit": limit, **options}

    async def _search(self, query: QueryBundle) -> list[Hit]:
        return await self._app.search(query.query_str, **self._options)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [_node(hit) for hit in await self._search(query_bundle)]

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [_node(hit) for hit in self._loop.wait(self._search(query_bundle), "aretrieve")]


def _node(hit: Hit) -> NodeWithScore:
    return NodeWithScore(
        node=TextNode(id_=hit.chunk_id, text=hit.chunk_text, metadata=told(hit)), score=hit.score
    )
