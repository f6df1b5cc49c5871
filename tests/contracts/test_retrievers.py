"""The retrievers answer in the current releases of their frameworks, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, sys
import perdure

ASK = "How many days of leave?"


async def langchain(app):
    from perdure.integrations.langchain import PerdureRetriever

    retriever = PerdureRetriever(app=app, limit=1, options={"where": {"lang": "en"}})
    [found] = await retriever.ainvoke(ASK)
    assert await asyncio.to_thread(retriever.invoke, ASK) == [found]
    return found.page_content, found.metadata


async def llama_index(app):
    from perdure.integrations.llama_index import PerdureRetriever

    retriever = PerdureRetriever(app, limit=1, where={"lang": "en"})
    [found] = await retriever.aretrieve(ASK)
    [same] = await asyncio.to_thread(retriever.retrieve, ASK)
    assert same.node.node_id == found.node.node_id
    return found.node.text, found.node.metadata


async def haystack(app):
    from haystack import Pipeline
    from perdure.integrations.haystack import PerdureRetriever

    retriever = PerdureRetriever(app, top_k=1, where={"lang": "en"})
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    answer = await asyncio.to_thread(pipeline.run, {"retriever": {"query": ASK}})
    [found] = answer["retriever"]["documents"]
    assert (await retriever.run_async(ASK))["documents"] == [found]
    return found.content, found.meta


async def main(name):
    async with perdure.open("memory:", embedder="hashing", worker=False) as app, app.testing():
        await app.ingest_text("Thirty days of leave.", document_id="leave", metadata={"lang": "en"})
        await app.ingest_text("Dreissig Tage Urlaub.", document_id="urlaub", metadata={"lang": "de"})
        text, metadata = await globals()[name](app)
    assert text == "Thirty days of leave.", text
    assert (metadata["document_id"], metadata["lang"], metadata["end"]) == ("leave", "en", 21), metadata
    print("answered")


asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("name", ["langchain", "llama_index", "haystack"])
def test_a_query_is_answered(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path), "HAYSTACK_TELEMETRY_ENABLED": "False"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("answered")
