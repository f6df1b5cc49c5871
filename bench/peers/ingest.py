"""Other ingestion systems on the same texts and the same database; runs in an environment of their own, without Perdure.

    COCOINDEX_DB=/tmp/state build/peers/bin/python bench/peers/ingest.py NAME URL FOLDER

`bench.ingest.peers` starts it. Each takes in the text files of the folder, with an embedder that costs nothing and the
splitter that it has for about 1,000 characters, as its documentation says, and then the same files again. Prints a JSON
line: the seconds of both, and how many chunks it stored.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

os.environ.update(
    HF_HUB_OFFLINE="1",
    HAYSTACK_TELEMETRY_ENABLED="False",
    LANGSMITH_TRACING="false",
    COCOINDEX_DISABLE_USAGE_TRACKING="1",
    DO_NOT_TRACK="1",
)
VECTOR = [1.0] + [0.0] * 255
SIZE = 1000
Pass = Callable[[], object]


def texts(folder: Path) -> list[tuple[str, str]]:
    return [(path.name, path.read_text()) for path in sorted(folder.glob("*.txt"))]


def langchain(url: str, folder: Path) -> Iterator[Pass | str]:
    from langchain_classic.indexes import SQLRecordManager
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.indexing import index
    from langchain_postgres import PGVector
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    class Free(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [VECTOR for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            return VECTOR

    where = url.replace("postgresql://", "postgresql+psycopg://")
    records = SQLRecordManager("bench", db_url=where)
    records.create_schema()
    store = PGVector(Free(), connection=where, collection_name="bench", embedding_length=len(VECTOR))
    splitter = RecursiveCharacterTextSplitter(chunk_size=SIZE, chunk_overlap=0)

    def take_in() -> None:
        documents = [Document(page_content=text, metadata={"source": name}) for name, text in texts(folder)]
        index(
            splitter.split_documents(documents),
            records,
            store,
            cleanup="incremental",
            source_id_key="source",
            batch_size=1000,
            key_encoder="sha256",
        )

    yield "langchain_pg_embedding"
    yield take_in
    yield take_in


def cocoindex(url: str, folder: Path) -> Iterator[Pass | str]:
    import asyncpg
    import cocoindex as coco
    import numpy as np
    from cocoindex.connectors import localfs, postgres
    from cocoindex.ops.text import RecursiveSplitter
    from cocoindex.resources.schema import VectorSchema
    from numpy.typing import NDArray

    schema = VectorSchema(dtype=np.dtype(np.float32), size=len(VECTOR))
    fields = [("id", str), ("filename", str), ("body", str), ("embedding", Annotated[NDArray[Any], schema])]
    row_type = make_dataclass("Row", fields)
    key = coco.ContextKey("bench")
    splitter, vector = RecursiveSplitter(), np.array(VECTOR, dtype=np.float32)

    @coco.lifespan  # type: ignore[untyped-decorator]
    async def lifespan(builder: Any) -> Any:
        async with asyncpg.create_pool(url, min_size=2, max_size=10) as pool:
            builder.provide(key, pool)
            yield

    @coco.fn(memo=True)  # type: ignore[untyped-decorator]
    async def one(file: Any, table: Any) -> None:
        name = str(file.file_path.path)
        for place, chunk in enumerate(splitter.split(await file.read_text(), SIZE)):
            table.declare_row(row=row_type(f"{name}:{place}", name, chunk.text, vector))

    @coco.fn  # type: ignore[untyped-decorator]
    async def everything(source: Path) -> None:
        rows = await postgres.TableSchema.from_class(row_type, primary_key=["id"])
        table = await postgres.mount_table_target(key, "docs", rows)
        await coco.mount_each(one, localfs.walk_dir(source).items(), table)

    app = coco.App(coco.AppConfig(name="bench"), everything, source=folder)
    yield "docs"
    yield app.update_blocking
    yield app.update_blocking


def haystack(url: str, folder: Path) -> Iterator[Pass | str]:
    from haystack import Document, Pipeline, component
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.types import DuplicatePolicy
    from haystack.utils import Secret
    from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

    class Free:
        def run(self, documents: list[Document]) -> dict[str, list[Document]]:
            return {"documents": [replace(document, embedding=VECTOR) for document in documents]}

    Free.run.__annotations__ = {"documents": list[Document], "return": dict[str, list[Document]]}
    Free.run = component.output_types(documents=list[Document])(Free.run)  # type: ignore[method-assign]
    store = PgvectorDocumentStore(
        connection_string=Secret.from_token(url), embedding_dimension=len(VECTOR), recreate_table=True
    )
    pipe = Pipeline()
    pipe.add_component("split", DocumentSplitter(split_by="word", split_length=150))
    pipe.add_component("embed", component(Free)())
    pipe.add_component("write", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    pipe.connect("split.documents", "embed.documents")
    pipe.connect("embed.documents", "write.documents")

    def take_in() -> None:
        documents = [Document(content=text, meta={"source": name}) for name, text in texts(folder)]
        for start in range(0, len(documents), 500):
            pipe.run({"split": {"documents": documents[start : start + 500]}})

    yield "haystack_documents"
    yield take_in
    yield take_in


def llamaindex(url: str, folder: Path) -> Iterator[Pass | str]:
    import llama_index.core

    # It ships the table that tiktoken would otherwise download.
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(llama_index.core.__file__).parent / "_static/tiktoken_cache")
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import Document
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.vector_stores.postgres import PGVectorStore

    class Free(BaseEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return VECTOR

        def _get_text_embedding(self, text: str) -> list[float]:
            return VECTOR

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return [VECTOR] * len(texts)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return VECTOR

    parts = urlsplit(url)
    store = PGVectorStore.from_params(
        database=parts.path[1:],
        host=parts.hostname,
        port=str(parts.port),
        user=parts.username,
        password=parts.password or "unused",
        table_name="bench",
        embed_dim=len(VECTOR),
    )
    pipe = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=0), Free(embed_batch_size=100)],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=store,
    )

    def take_in() -> None:
        pipe.run(documents=[Document(text=text, id_=name) for name, text in texts(folder)])

    yield "data_bench"
    yield take_in
    yield take_in


PEERS = {each.__name__: each for each in (langchain, cocoindex, haystack, llamaindex)}


async def count(url: str, table: str) -> int:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
        return found
    finally:
        await connection.close()


def main() -> None:
    name, url, folder = sys.argv[1:]
    table, *passes = PEERS[name](url, Path(folder))
    took = []
    for take_in in passes:
        begun = time.perf_counter()
        take_in()  # type: ignore[operator]
        took.append(time.perf_counter() - begun)
    chunks = asyncio.run(count(url, str(table)))
    print(json.dumps({"first": took[0], "unchanged": took[1], "chunks": chunks}))


if __name__ == "__main__":
    main()
