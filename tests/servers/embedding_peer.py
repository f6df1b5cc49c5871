"""A peer that speaks OpenAI's and Ollama's embedding calls, as those servers answer them, and oddly when told to."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiohttp import web

from perdure.embedders.hashing import HashingEmbedder

Json = dict[str, Any]
Oddity = Callable[[Json], web.StreamResponse | Json | None]
"""Makes an answer of the request: a whole response, or what the usual answer's body is instead; None: the usual one."""

KEY = "sk-test"
CONTEXT = 40
"""Most words of a text."""


class EmbeddingPeer:
    """Vectors of hashed words.

    Attributes:
        url: where it listens; OpenAI's calls are below ``/v1``.
        calls: the bodies of all requests that were let in, in order.
        odd: answers to the next calls that hold more than one word, one each.
        always: answers to every call, while it is set.
        gate: while it is closed, calls wait.
        key: that must be sent; None: none.
        cuts: whether it silently cuts texts that are too long, as TEI does by default.
    """

    def __init__(self, dimension: int = 8) -> None:
        self.url = ""
        self.calls: list[Json] = []
        self.odd: list[Oddity] = []
        self.always: Oddity | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.key: str | None = KEY
        self.cuts = False
        self.dimension = dimension

    @property
    def texts(self) -> list[list[str]]:
        """The texts of every call but the first, which asks for the dimension."""
        return [call["input"] for call in self.calls if call["input"] != ["perdure"]]

    async def _vectors(self, texts: list[str], dimension: int) -> np.ndarray:
        kept = [" ".join(text.split()[:CONTEXT]) for text in texts]
        return await HashingEmbedder(dimension).embed(kept, "document")

    async def openai(self, request: web.Request) -> web.StreamResponse:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return failed(
                401, "Incorrect API key provided: sk-***. You can find your API key at …", "invalid_api_key"
            )
        body = await self._let_in(request)
        if (told := self._odd(body)) is not None:
            return told if isinstance(told, web.StreamResponse) else web.json_response(told)
        if body["model"] == "gone":
            return failed(
                404, "The model `gone` does not exist or you do not have access to it.", "model_not_found"
            )
        longest = max(len(text.split()) for text in body["input"])
        if longest > CONTEXT and not self.cuts:
            return failed(
                400,
                f"This model's maximum context length is {CONTEXT} tokens, however you requested {longest} tokens "
                f"({longest} in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
            )
        return web.json_response(await self.usual(body))

    async def ollama(self, request: web.Request) -> web.StreamResponse:
        body = await self._let_in(request)
        if (told := self._odd(body)) is not None:
            return told if isinstance(told, web.StreamResponse) else web.json_response(told)
        if body["model"] == "gone":
            return web.json_response({"error": 'model "gone" not found, try pulling it first'}, status=404)
        if any(len(text.split()) > CONTEXT for text in body["input"]) and not body.get("truncate", True):
            return web.json_response({"error": "the input length exceeds the context length"}, status=400)
        vectors = await self._vectors(body["input"], body.get("dimensions", self.dimension))
        return web.json_response(
            {
                "model": body["model"],
                "embeddings": vectors.tolist(),
                "total_duration": 14143917,
                "load_duration": 1019500,
                "prompt_eval_count": sum(len(text.split()) for text in body["input"]),
            }
        )

    async def usual(self, body: Json) -> Json:
        """What OpenAI answers."""
        vectors = await self._vectors(body["input"], body.get("dimensions", self.dimension))
        tokens = sum(len(text.split()) for text in body["input"])
        written = [
            base64.b64encode(row.astype("<f4").tobytes()).decode()
            if body.get("encoding_format") == "base64"
            else row.tolist()
            for row in vectors
        ]
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(written)
            ],
            "model": body["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    async def _let_in(self, request: web.Request) -> Json:
        body: Json = await request.json()
        self.calls.append(body)
        await self.gate.wait()
        return body

    def _odd(self, body: Json) -> web.StreamResponse | Json | None:
        if self.always is not None:
            return self.always(body)
        return self.odd.pop(0)(body) if self.odd and body["input"] != ["perdure"] else None


def failed(status: int, message: str, code: str | None = None, headers: Any = None) -> web.Response:
    """An error as OpenAI writes it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


@asynccontextmanager
async def serving(peer: EmbeddingPeer) -> AsyncIterator[EmbeddingPeer]:
    """Listen on a free port of this machine."""
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/embeddings", peer.openai)
    app.router.add_post("/api/embed", peer.ollama)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        peer.url = site.name
        yield peer
    finally:
        peer.gate.set()
        await runner.cleanup()
