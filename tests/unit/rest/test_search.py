"""Searching by what was ingested."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from fastapi import FastAPI

import perdure
from perdure.app import App
from perdure.domain.search import Hit, SearchQuery
from tests.servers.embedding_peer import EmbeddingPeer, serving
from tests.unit.rest.calls import assert_problem, finished, ingest

Client = httpx.AsyncClient


@pytest.fixture
async def library(client: Client, worker: None) -> None:
    """Three documents of one tenant."""
    texts = {
        "leave": "Everybody has thirty days of leave.",
        "food": "Lunch is at noon.",
        "cat": "The cat sleeps.",
    }
    for document_id, text in texts.items():
        accepted = await ingest(
            client, text, document_id=document_id, namespace="hr", version=3, metadata={"length": len(text)}
        )
        await finished(client, accepted["job_id"])


@pytest.mark.usefixtures("library")
async def test_a_hit_tells_where_it_comes_from(client: Client) -> None:
    answer = await client.post("/v1/search", json={"query": "thirty days of leave", "namespace": "hr"})
    assert answer.status_code == 200
    hit = answer.json()["hits"][0]
    assert hit["text"] == "Everybody has thirty days of leave."
    assert (hit["document_id"], hit["version"], hit["chunk_index"]) == ("leave", 3, 0)
    assert hit["span"] == {"start": 0, "end": 35}
    assert hit["metadata"] == {"length": 35}
    assert hit["score"] > 0


@pytest.mark.usefixtures("library")
async def test_limit_filter_and_documents_narrow(client: Client) -> None:
    async def found(**fields: object) -> set[str]:
        body = {"query": "the leave of the cat at noon", "namespace": "hr", **fields}
        answer = await client.post("/v1/search", json=body)
        assert answer.status_code == 200, answer.text
        return {hit["document_id"] for hit in answer.json()["hits"]}

    assert await found(mode="vector") == {"leave", "food", "cat"}
    assert len(await found(limit=1)) == 1
    assert await found(filter={"length": {"gt": 20}}) == {"leave"}
    assert await found(document_ids=["cat"]) == {"cat"}
    assert await found(mode="vector", threshold=1.0) == set()
    assert await found(namespace="elsewhere") == set()


@pytest.mark.usefixtures("library")
async def test_another_tenant_finds_nothing(client: Client) -> None:
    body = {"query": "thirty days of leave", "namespace": "hr"}
    answer = await client.post("/v1/search", json=body, headers={"X-Tenant": "other"})
    assert answer.json() == {"hits": []}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "a", "limit": 0}, "limit"),
        ({"query": "a", "limit": 1001}, "limit"),
        ({"query": "a", "mode": "magic"}, "mode"),
        ({"query": "a", "filter": {"page": {"near": 3}}}, "near"),
        ({"query": "a", "filter": []}, "filter"),
        ({"query": "a", "namespace": "no spaces"}, "namespace"),
        ({"query": "a", "threshold": 2}, "threshold"),
        ({"query": "a", "effort": 0}, "effort"),
        ({"query": "a", "effort": 32_769}, "effort"),
        ({"query": "a", "where": {}}, "where"),
    ],
)
async def test_a_search_that_does_not_fit_is_refused(client: Client, body: object, told: str) -> None:
    problem = assert_problem(await client.post("/v1/search", json=body), 400, "invalid-request")
    assert told in problem["detail"]


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
async def test_effort_reaches_the_store(
    client: Client, app: App, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    asked: list[int | None] = []

    async def search(query: SearchQuery) -> list[Hit]:
        asked.append(query.effort)
        return []

    monkeypatch.setattr(app.vectors, "search", search)
    for effort in (None, 400):
        answer = await client.post("/v1/search", json={"query": "a", "mode": mode, "effort": effort})
        assert answer.json() == {"hits": []}
    assert asked == [None, 400]


async def test_a_key_that_the_embedder_refuses_is_a_problem_that_tells_the_remedy(
    calls: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(EmbeddingPeer()) as peer,
        perdure.open(
            "memory:", worker=False, embedder=f"openai:m@{peer.url}/v1", embedder_key="sk-wrong"
        ) as app,
        Client(transport=httpx.ASGITransport(app=calls), base_url="http://test") as client,
    ):
        calls.state.perdure, calls.state.stopping = app, asyncio.Event()
        with caplog.at_level(logging.ERROR, "perdure.rest"):
            answer = await client.post("/v1/search", json={"query": "days of leave"})
        problem = assert_problem(answer, 502, "embedder-refused")
        assert "PERDURE_EMBEDDER_KEY" in problem["detail"]
        assert peer.url not in answer.text
        assert f"m at {peer.url}" in caplog.text
        answer = await client.post("/v1/search", json={"query": "days of leave", "mode": "text"})
        assert answer.json() == {"hits": []}
