"""Embedders behind HTTP, against a peer that answers as the servers do, and oddly."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from perdure.domain.errors import (
    EmbedderError,
    EmbedderSpent,
    Fatal,
    InvalidInput,
    PerdureError,
    RetryAfter,
    TextRejected,
)
from perdure.embedders.hashing import HashingEmbedder
from perdure.embedders.named import parse
from perdure.embedders.ollama import OllamaEmbedder
from perdure.embedders.openai import URL, OpenAIEmbedder
from perdure.embedders.remote import RemoteEmbedder
from perdure.pipeline.embedding import EmbeddingBatcher
from perdure.settings import Settings
from perdure.wiring import embedder as named
from tests.servers.embedding_peer import CONTEXT, KEY, EmbeddingPeer, Oddity, failed, serving

TEXTS = ["how many days of leave", "the kitchen is cleaned", "salaries are paid", "ünïcode 漢字 😀"]
MADE: list[RemoteEmbedder] = []
LONG = " ".join(f"word{number}" for number in range(3 * CONTEXT))


@pytest.fixture
async def peer() -> AsyncIterator[EmbeddingPeer]:
    async with serving(EmbeddingPeer()) as peer:
        yield peer
        while MADE:
            await MADE.pop().close()


def openai(peer: EmbeddingPeer, options: str = "", *, model: str = "m", key: str = KEY) -> RemoteEmbedder:
    MADE.append(OpenAIEmbedder(parse(f"{model}@{peer.url}/v1{options}", URL), key))
    return MADE[-1]


def ollama(peer: EmbeddingPeer, options: str = "", *, model: str = "nomic-like:latest") -> RemoteEmbedder:
    MADE.append(OllamaEmbedder(parse(f"{model}@{peer.url}{options}", URL)))
    return MADE[-1]


@pytest.fixture(params=["openai", "openai-float", "ollama"])
async def embedder(request: pytest.FixtureRequest, peer: EmbeddingPeer) -> AsyncIterator[RemoteEmbedder]:
    match request.param:
        case "openai":
            made: RemoteEmbedder = openai(peer)
        case "openai-float":
            made = openai(peer, "?encoding=float")
        case _:
            made = ollama(peer)
    yield made
    await made.close()


async def hashed(*texts: str) -> np.ndarray:
    return await HashingEmbedder(8).embed(texts, "document")


def odd_answer(**changes: Any) -> Oddity:
    def change(body: Any) -> web.Response:
        rows = [
            {"object": "embedding", "index": index, "embedding": [1.0] * 8}
            for index in range(len(body["input"]))
        ]
        answer = {"object": "list", "data": rows, "usage": {"prompt_tokens": 1}}
        return web.json_response(
            {key: value for key, value in (answer | changes).items() if value is not ...}
        )

    return change


# --- the usual -------------------------------------------------------------------------------


async def test_vectors_come_in_order_of_length_one_with_the_tokens(embedder: RemoteEmbedder) -> None:
    await embedder.prepare()
    vectors, tokens = await embedder.embed_metered(TEXTS, "document")
    assert embedder.dimension == 8
    assert vectors == pytest.approx(await hashed(*TEXTS), abs=1e-6)
    assert vectors.dtype == np.float32
    assert sum(tokens) == sum(len(text.split()) for text in TEXTS)
    assert len(tokens) == len(TEXTS)
    assert min(tokens) > 0


async def test_dimension_is_asked_for_once_however_many_begin(
    peer: EmbeddingPeer, embedder: RemoteEmbedder
) -> None:
    await asyncio.gather(*(embedder.embed([text], "document") for text in TEXTS))
    assert len(peer.calls) == 1 + len(TEXTS)


async def test_model_is_named_by_provider_model_and_dimension_but_not_by_place(peer: EmbeddingPeer) -> None:
    one = openai(peer, "?dimensions=4")
    with pytest.raises(InvalidInput, match=r"await prepare\(\) first"):
        _ = one.model
    await one.prepare()
    assert one.model == "openai:m:4"
    assert peer.calls == [{"model": "m", "input": ["perdure"], "encoding_format": "base64", "dimensions": 4}]
    other = ollama(peer)
    await other.prepare()
    assert other.model == "ollama:nomic-like:latest:8"
    assert peer.calls[1:] == [{"model": "nomic-like:latest", "input": ["perdure"], "truncate": False}]


async def test_server_that_ignores_the_dimensions_is_found_out(peer: EmbeddingPeer) -> None:
    peer.always = odd_answer()
    with pytest.raises(Fatal, match="8 dimensions though 4 were asked for"):
        await openai(peer, "?dimensions=4").prepare()


async def test_prefixes_stand_before_documents_and_questions(peer: EmbeddingPeer) -> None:
    embedder = openai(peer, "?document_prefix=passage:%20&query_prefix=query:%20")
    await embedder.embed(["leave"], "document")
    await embedder.embed(["leave"], "query")
    assert peer.texts == [["passage: leave"], ["query: leave"]]
    assert embedder.model == "openai:m:8:passage:"


def test_models_that_want_prefixes_are_known() -> None:
    assert parse("nomic-embed-text").prefixes() == ("search_document: ", "search_query: ")
    assert parse("intfloat/multilingual-e5-large").prefixes() == ("passage: ", "query: ")
    assert parse("BAAI/bge-small-en-v1.5?query_prefix=").prefixes() == ("", "")
    assert parse("text-embedding-3-small").prefixes() == ("", "")


async def test_large_batch_is_refused(embedder: RemoteEmbedder) -> None:
    with pytest.raises(InvalidInput, match="at most 32"):
        await embedder.embed(["x"] * 33, "document")


# --- texts that are too long ------------------------------------------------------------------


async def test_text_that_the_server_finds_too_long_is_embedded_in_parts(
    peer: EmbeddingPeer, embedder: RemoteEmbedder
) -> None:
    batcher = EmbeddingBatcher(embedder)
    await embedder.prepare()
    async with batcher.embed([*TEXTS, LONG]) as answer:
        pass
    vectors = np.array([np.frombuffer(item, "<f4") for item in answer.outcomes if isinstance(item, bytes)])
    assert len(vectors) == len(TEXTS) + 1
    assert vectors[:-1] == pytest.approx(await hashed(*TEXTS), abs=1e-6)
    assert np.linalg.norm(vectors[-1]) == pytest.approx(1.0, abs=1e-6)
    # Every word was read, and none was read twice.
    told = " ".join(text for (text,) in peer.texts[-7:] if len(text.split()) <= CONTEXT)
    assert told.split() == LONG.split()
    assert answer.tokens[-1] == 3 * CONTEXT


async def test_text_that_is_too_long_is_refused_where_that_is_wished(peer: EmbeddingPeer) -> None:
    for embedder in (openai(peer, "?long=refuse"), ollama(peer, "?long=refuse")):
        await embedder.prepare()
        async with EmbeddingBatcher(embedder).embed([*TEXTS, LONG]) as answer:
            assert [isinstance(outcome, bytes) for outcome in answer.outcomes] == [True] * 4 + [False]
            assert "context length" in str(answer.outcomes[-1])


async def test_server_that_cuts_silently_is_never_given_more_than_it_reads(peer: EmbeddingPeer) -> None:
    peer.cuts = True
    embedder = openai(peer, "?max_characters=150")
    vectors, tokens = await embedder.embed_metered([TEXTS[0], LONG, TEXTS[1]], "document")
    assert vectors[[0, 2]] == pytest.approx(await hashed(*TEXTS[:2]), abs=1e-6)
    assert max(len(text) for call in peer.texts for text in call) <= 150
    assert "".join(text for call in peer.texts for text in call[1:-1]) == LONG
    assert sum(tokens) == len(LONG.split()) + 9
    with pytest.raises(TextRejected, match="is given at most 150"):
        await openai(peer, "?max_characters=150&long=refuse").embed([LONG], "document")


# --- odd answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("oddity", "told"),
    [
        (odd_answer(data=[{"index": 0, "embedding": [1.0] * 8}]), "gave 1 vectors for 4 texts"),
        (odd_answer(data=[]), "gave 0 vectors for 4 texts"),
        (odd_answer(data=[{"index": 0, "embedding": [1.0] * 8}] * 4), "each index from 0 on"),
        (
            odd_answer(data=[{"index": n, "embedding": [1.0] * 7} for n in range(4)]),
            r"\[7\] numbers; expected 8",
        ),
        (
            odd_answer(data=[{"index": n, "embedding": [1.0] * (8 - n)} for n in range(4)]),
            r"\[5, 6, 7, 8\] numbers",
        ),
        (odd_answer(data=[{"index": n, "embedding": ["x"] * 8} for n in range(4)]), "cannot be read"),
        (odd_answer(data=[{"index": n, "embedding": "!!!!"} for n in range(4)]), "cannot be read"),
        (odd_answer(data=[{"index": n, "embedding": "AAAA"} for n in range(4)]), "cannot be read"),
        (odd_answer(data=[{"index": n, "embedding": [[1.0]]} for n in range(4)]), "a vector of shape"),
        (odd_answer(data=...), "cannot be read: KeyError"),
        (odd_answer(data=None), "cannot be read"),
        (lambda _: web.json_response([1, 2]), "says 500"),
        (lambda _: web.Response(text="<html>busy</html>"), "says 500: <html>busy"),
        (lambda _: web.Response(text='{"data": [{"embedding": [0.1'), "says 500"),
        (
            lambda _: web.json_response({"error": {"message": "overloaded", "code": 503}}),
            "says 503: overloaded",
        ),
        (lambda _: web.json_response({"error": "the engine stopped"}), "says 500: the engine stopped"),
        (lambda _: failed(500, "The server had an error while processing your request."), "says 500"),
        (lambda _: web.Response(status=502, text="Bad Gateway"), "says 502: Bad Gateway"),
        (lambda _: web.Response(status=504), "says 504: nothing more"),
        (lambda _: web.Response(status=408), "says 408"),
    ],
)
async def test_odd_answer_is_an_error_that_may_pass(peer: EmbeddingPeer, oddity: Oddity, told: str) -> None:
    embedder = openai(peer)
    peer.odd = [oddity]
    with pytest.raises(EmbedderError, match=told) as caught:
        await embedder.embed(TEXTS, "document")
    assert not isinstance(caught.value, TextRejected)
    assert await embedder.embed(TEXTS, "document") == pytest.approx(await hashed(*TEXTS), abs=1e-6)


async def test_vectors_are_put_in_the_order_of_their_index_and_read_in_either_form(
    peer: EmbeddingPeer,
) -> None:
    rows = await hashed(*TEXTS)
    data = [
        {"index": index, "embedding": base64.b64encode(row.tobytes()).decode() if index % 2 else row.tolist()}
        for index, row in enumerate(rows)
    ]
    embedder = openai(peer)
    peer.odd = [
        odd_answer(data=data[::-1], usage=...),
        odd_answer(data=[row | {"index": 0} for row in data[:1]]),
    ]
    vectors, tokens = await embedder.embed_metered(TEXTS, "document")
    assert vectors == pytest.approx(rows, abs=1e-6)
    assert tokens == [0, 0, 0, 0]


@pytest.mark.parametrize("row", [[float("nan")] * 8, [0.0] * 8, [float("inf")] + [0.0] * 7])
async def test_vector_that_is_none_fails_its_text_and_no_other(peer: EmbeddingPeer, row: list[float]) -> None:
    embedder = openai(peer)
    await embedder.prepare()
    peer.odd = [odd_answer(data=[{"index": n, "embedding": [1.0] * 8 if n else row} for n in range(4)])]
    async with EmbeddingBatcher(embedder).embed(TEXTS) as answer:
        assert [isinstance(outcome, bytes) for outcome in answer.outcomes] == [False, True, True, True]


async def test_text_of_which_ollama_makes_no_number_is_found_by_halving(peer: EmbeddingPeer) -> None:
    def refuse(body: Any) -> web.Response | None:
        told = {"error": "failed to encode response: json: unsupported value: NaN"}
        return web.json_response(told, status=500) if TEXTS[2] in body["input"] else None

    embedder = ollama(peer)
    peer.always = refuse
    await embedder.prepare()
    async with EmbeddingBatcher(embedder).embed(TEXTS) as answer:
        assert [isinstance(outcome, bytes) for outcome in answer.outcomes] == [True, True, False, True]


@pytest.mark.parametrize(
    "refusal",
    [
        lambda: failed(400, "'$.input' is invalid. Please check the API reference.", "invalid_value"),
        lambda: web.Response(status=413, text="Payload Too Large"),
        lambda: web.json_response({"detail": [{"msg": "string is no text"}]}, status=422),
        lambda: web.json_response(
            {"object": "error", "message": "no such text", "code": 400}
        ),  # vLLM, with 200
    ],
)
async def test_refused_batch_is_halved_until_the_poison_text_stands_alone(
    peer: EmbeddingPeer, refusal: Any
) -> None:
    embedder = openai(peer)
    texts = [f"text number {number}" for number in range(8)]
    peer.always = lambda body: refusal() if texts[5] in body["input"] else None
    await embedder.prepare()
    async with EmbeddingBatcher(embedder).embed(texts) as answer:
        assert [isinstance(outcome, bytes) for outcome in answer.outcomes] == [n != 5 for n in range(8)]
        assert answer.tokens == [3] * 5 + [0] + [3] * 2
    assert len(peer.texts) == 7


@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        (429, {"Retry-After": "7"}, 7, 7),
        (429, {"Retry-After": "0.5"}, 0.5, 0.5),
        (
            429,
            {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:28:33 GMT"},
            33,
            33,
        ),
        (
            429,
            {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:27:00 GMT"},
            0,
            0,
        ),
        (429, {}, 1, 2),
        (429, {"Retry-After": "soon"}, 1, 2),
        (429, {"Retry-After": "inf"}, 1, 2),
        (503, {"Retry-After": "3"}, 3, 3),
    ],
)
async def test_asked_to_wait_it_says_how_long(
    peer: EmbeddingPeer, status: int, headers: dict[str, str], least: float, most: float
) -> None:
    embedder = openai(peer)
    peer.odd = [lambda _: failed(status, "Rate limit reached for m", headers=headers)]
    with pytest.raises(RetryAfter, match="Rate limit reached") as caught:
        await embedder.embed(TEXTS, "document")
    assert least <= caught.value.seconds <= most
    assert caught.value.counts is (status != 429)  # being throttled is no fault of the job


async def test_a_server_that_does_not_say_how_long_is_given_more_time_each_time(peer: EmbeddingPeer) -> None:
    embedder = openai(peer)
    await embedder.prepare()
    waits = []
    for _ in range(8):
        peer.odd = [lambda _: failed(429, "Rate limit reached for m")]
        with pytest.raises(RetryAfter) as caught:
            await embedder.embed(TEXTS, "document")
        waits.append(caught.value.seconds)
    assert all(2**n <= wait <= 2 ** (n + 1) for n, wait in enumerate(waits[:5]))
    assert all(30 <= wait <= 60 for wait in waits[6:])
    assert len(set(waits)) == 8  # two workers do not come back at the same moment
    await embedder.embed(TEXTS, "document")
    peer.odd = [lambda _: failed(429, "Rate limit reached for m")]
    with pytest.raises(RetryAfter) as caught:
        await embedder.embed(TEXTS, "document")
    assert caught.value.seconds <= 2


@pytest.mark.parametrize(("status", "code"), [(429, "insufficient_quota"), (402, "payment_required")])
async def test_a_spent_account_is_told_with_the_remedy(peer: EmbeddingPeer, status: int, code: str) -> None:
    embedder = openai(peer)
    peer.odd = [lambda _: failed(status, "You exceeded your current quota", code, {"Retry-After": "1"})]
    with pytest.raises(
        EmbedderSpent, match="exceeded your current quota; the account is used up: add credit"
    ):
        await embedder.embed(TEXTS, "document")


async def test_wrong_key_is_fatal_and_told_without_it(peer: EmbeddingPeer) -> None:
    with pytest.raises(Fatal, match="check the key") as caught:
        await openai(peer, key="sk-secret").prepare()
    assert "sk-secret" not in str(caught.value)


async def test_unknown_model_or_place_is_fatal(peer: EmbeddingPeer) -> None:
    with pytest.raises(Fatal, match="does not exist"):
        await openai(peer, model="gone").prepare()
    with pytest.raises(Fatal, match="try pulling it first"):
        await ollama(peer, model="gone").prepare()
    with pytest.raises(Fatal, match="check the model's name and the URL"):
        await openai(peer, "/nowhere").prepare()


async def test_server_that_refuses_even_one_word_is_fatal(peer: EmbeddingPeer) -> None:
    peer.always = lambda _: failed(400, "unknown parameter: dimensions")
    with pytest.raises(Fatal, match="refuses even one word"):
        await openai(peer).prepare()


async def test_slow_server_and_none_at_all_may_pass(peer: EmbeddingPeer) -> None:
    embedder = openai(peer, "?timeout=0.05")
    peer.gate.clear()
    with pytest.raises(EmbedderError, match=r"did not answer within 0\.05 s"):
        await embedder.prepare()
    peer.gate.set()
    MADE.append(OpenAIEmbedder(parse("m@http://127.0.0.1:9/v1", URL)))
    with pytest.raises(EmbedderError, match="is the server running"):
        await MADE[-1].prepare()


async def test_answer_that_breaks_off_may_pass(peer: EmbeddingPeer) -> None:
    def cut_short(_: Any) -> web.Response:
        response = web.Response(body=b'{"data": [', headers={"Content-Length": "1000"})
        response.force_close()
        return response

    embedder = openai(peer)
    peer.odd = [cut_short]
    with pytest.raises(EmbedderError, match="broke off"):
        await embedder.embed(TEXTS, "document")
    assert len(await embedder.embed(TEXTS, "document")) == 4


# --- names and keys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "model", "url", "key"),
    [
        (
            "openai:text-embedding-3-small",
            OpenAIEmbedder,
            "text-embedding-3-small",
            "https://api.openai.com/v1",
            "own",
        ),
        ("openai:BAAI/bge-m3@http://tei:8080/v1/", OpenAIEmbedder, "BAAI/bge-m3", "http://tei:8080/v1", ""),
        ("ollama:bge-m3:567m", OllamaEmbedder, "bge-m3:567m", "http://127.0.0.1:11434", ""),
        ("ollama:m@https://h?batch=4", OllamaEmbedder, "m", "https://h", ""),
    ],
)
def test_names_say_provider_model_and_place(name: str, kind: type, model: str, url: str, key: str) -> None:
    made = named(name, Settings(openai_api_key="own"))
    assert isinstance(made, RemoteEmbedder)
    assert isinstance(made, kind)
    assert (made.named.model, made.named.url) == (model, url)
    # OpenAI's key goes to OpenAI alone; the embedder's own goes wherever the embedder is.
    assert made._headers == ({"Authorization": f"Bearer {key}"} if key else {})
    made = named(name, Settings(openai_api_key="own", embedder_key="given"))
    assert isinstance(made, RemoteEmbedder)
    assert made._headers == {"Authorization": "Bearer given"}


def test_key_comes_from_the_environment() -> None:
    assert Settings.from_environ({"OPENAI_API_KEY": "k"}).openai_api_key == "k"
    assert Settings.from_environ({"OPENAI_API_KEY": "k", "PERDURE_OPENAI_API_KEY": "l"}).openai_api_key == "l"
    with pytest.raises(InvalidInput, match="copy it again"):
        named("ollama:m", Settings(embedder_key="a\nb"))


@pytest.mark.parametrize(
    "name",
    [
        "openai:",
        "openai:m@http://",
        "openai:m@http://h:port/v1",
        "openai:m@http://user:secret@h/v1",
        "openai:m?colour=red",
        "openai:m?batch=0",
        "openai:m?batch=x",
        "openai:m?long=cut",
        "openai:m?timeout=-1",
        "openai:m?nonsense",
        "sentence-transformers:m@http://h",
        "minilm?long=cut",
    ],
)
def test_name_that_cannot_be_read_says_what_may(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PerdureError, match=r"expected|pip install") as caught:
        named(name)
    assert "secret" not in str(caught.value)
