"""A provider's bad day: 20,000 chunks of real documents, embedded by a server that throttles, breaks and refuses.

    python -m bench.ingest.bad_provider [--chunks 20000] [--workers 2] [--store sqlite|postgresql] [--seed 1]

The server answers a share of the requests by 429 with `Retry-After`, by 500, later than the client waits (the work is done), with a vector
too few, and refuses each batch with one certain text. Worker processes of `perdure worker` do the rest. Then everything is read back: every chunk but
the poisoned one is there once, with its own vector; the poisoned one is named by its job; no job lost an attempt to a 429; nobody asked
while the server had asked to wait; and the requests are compared with as many as full batches would have taken.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

import perdure
from bench.corpus import documents
from perdure.app import App, FileItem
from perdure.chunkers.recursive import RecursiveChunker
from perdure.domain.document import Draft
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.embedders.hashing import HashingEmbedder
from tests.servers.postgres import fresh_database, postgres_server

BATCH = 32
TIMEOUT = 2.0
WAIT = 1
DIMENSION = 64
POISON = "the text that no provider takes"
ODDS = {"throttled": 0.04, "broken": 0.04, "late": 0.01, "truncated": 0.03}


class BadProvider:
    """Speaks OpenAI's embeddings call.

    Attributes:
        odds: share of the requests that each trouble befalls.
        befell: how often each did.
        early: requests that came before the moment that a 429 had named, though their sender could know of it.
    """

    def __init__(self, chance: random.Random, odds: dict[str, float] | None = None) -> None:
        self.chance = chance
        self.odds = ODDS if odds is None else odds
        self.befell: Counter[str] = Counter()
        self.early = 0
        self.until = 0.0
        self.told = 0.0
        self.url = ""
        self._model = HashingEmbedder(DIMENSION)

    def trouble(self, texts: Sequence[str]) -> str:
        """What befalls this request."""
        if any(POISON in text for text in texts):
            return "refused"
        at = self.chance.random()
        for what, odds in self.odds.items():
            if (at := at - odds) < 0:
                return what
        return "answered"

    async def answer(self, request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        now = time.monotonic()
        # A second after it was told everybody knows; what was sent before that is no fault.
        self.early += self.told + 1 < now < self.until
        what = self.trouble(texts)
        self.befell[what] += 1
        match what:
            case "refused":
                return _error(400, "the input holds something that is not allowed")
            case "throttled":
                self.told, self.until = now, now + WAIT
                return _error(429, "rate limit reached", {"Retry-After": str(WAIT)})
            case "broken":
                return _error(500, "the server had an error")
        vectors = await self._model.embed(texts, "document")
        if what == "late":
            await asyncio.sleep(TIMEOUT + 0.5)
        rows = [
            {"index": place, "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()}
            for place, row in enumerate(vectors)
        ]
        kept = rows[:-1] if what == "truncated" and len(rows) > 1 else rows
        tokens = sum(len(text) // 4 for text in texts)
        return web.json_response({"object": "list", "data": kept, "usage": {"prompt_tokens": tokens}})

    async def serve(self) -> web.AppRunner:
        """Listen on a free port."""
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/embeddings", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


def write_documents(folder: Path, chunks: int, texts: Iterable[str]) -> dict[str, list[str]]:
    """Documents that make so many chunks, or a few more: name → its chunks. One of them holds the poison."""
    chunker = RecursiveChunker()
    made: dict[str, list[str]] = {}
    count = 0
    for number, text in enumerate(texts):
        if count >= chunks:
            break
        content = f"{text}\n\n{POISON}" if number == 7 else text
        name = f"document-{number:05}.txt"
        (folder / name).write_text(content)
        made[name] = [piece for _, piece in chunker.split(content)]
        count += len(made[name])
    return made


@contextmanager
def workers(count: int, folder: Path, settings: dict[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes with these settings, ended at last."""
    environ = {**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "perdure", "worker"]
    with (folder / "workers.log").open("ab") as log:
        started = [
            subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log) for _ in range(count)
        ]
    try:
        yield started
    finally:
        for worker in started:
            worker.terminate()
        for worker in started:
            worker.wait(60)


async def run(
    folder: Path, url: str, written: dict[str, list[str]], count: int, provider: BadProvider
) -> dict[str, Any]:
    """The whole load of documents that were written there; what it showed."""
    runner = await provider.serve()
    embedder = f"openai:m@{provider.url}?batch={BATCH}&timeout={TIMEOUT}"
    settings = {"PERDURE_STORE": url, "PERDURE_EMBEDDER": embedder}
    try:
        async with perdure.open(url, embedder=embedder, worker=False) as app:
            begun = time.monotonic()
            jobs = await app.ingest_many(FileItem(path=folder / name, document_id=name) for name in written)
            with workers(count, folder, settings):
                ended = [await app.wait(job.id, timeout=900) for job in jobs]
            seconds = time.monotonic() - begun
            return {
                "chunks": sum(map(len, written.values())),
                "documents": len(jobs),
                "workers": count,
                "seconds": round(seconds, 1),
                **await judge(app, written, ended),
                **bill(provider, sum(map(len, written.values()))),
            }
    finally:
        await runner.cleanup()


async def judge(app: App, written: dict[str, list[str]], jobs: Sequence[Job]) -> dict[str, Any]:
    """Compare what is stored with what must be there."""
    good = {name: [text for text in texts if POISON not in text] for name, texts in written.items()}
    missing = doubled = wrong = 0
    for name, texts in good.items():
        stored = await app.vectors.chunks("default", "default", name, 100_000)
        found, wanted = Counter(chunk.chunk_text for chunk in stored), Counter(texts)
        missing += (wanted - found).total()
        doubled += (found - wanted).total()
        wrong += await _wrong_vectors(app, name, {chunk.chunk_hash: chunk.chunk_text for chunk in stored})
    named = [
        failed["reason"][:90]
        for job in jobs
        if isinstance(result := job.result, dict)
        for failed in json.loads(json.dumps(result["failed_chunks"]))
    ]
    told = [str(job.failure.message) for job in jobs if job.failure is not None]
    return {
        "states": dict(Counter(str(job.state) for job in jobs)),
        "missing": missing,
        "stored_twice_or_wrong_text": doubled,
        "wrong_vectors": wrong,
        "poison_named": named,
        "attempts_beyond_the_first": sum(job.attempt - 1 for job in jobs),
        "failures_for_429": sum("429" in message for message in told),
        "unfinished": await app.jobs.count(JobFilter(tenant="default", states=(JobState.PENDING,))),
    }


async def _wrong_vectors(app: App, name: str, texts: dict[str, str]) -> int:
    stored = await app.vectors.document("default", "default", name)
    assert stored is not None
    draft = Draft(
        document=stored.document,
        epoch=10**6,
        model=stored.model,
        dimension=stored.dimension,
        strategy=stored.strategy,
    )
    vectors = await app.vectors.vectors(draft, texts.keys())
    right = await HashingEmbedder(DIMENSION).embed([texts[hashed] for hashed in vectors], "document")
    got = [np.frombuffer(vector, dtype="<f4") for vector in vectors.values()]
    return sum(not np.allclose(one, other, atol=1e-6) for one, other in zip(got, right, strict=True)) + len(
        texts.keys() - vectors.keys()
    )


def bill(provider: BadProvider, chunks: int) -> dict[str, Any]:
    requests, ideal = provider.befell.total(), ceil(chunks / BATCH)
    return {
        "befell": dict(provider.befell),
        "asked_too_early": provider.early,
        "requests": requests,
        "ideal": ideal,
        "requests_over_ideal": round(requests / ideal, 3),
    }


def right(told: dict[str, Any]) -> bool:
    """Whether all that is promised was kept."""
    zero = (
        "missing",
        "stored_twice_or_wrong_text",
        "wrong_vectors",
        "failures_for_429",
        "unfinished",
        "asked_too_early",
    )
    return not any(told[what] for what in zero) and len(told["poison_named"]) == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    provider = BadProvider(random.Random(asked.seed))

    async def measured(folder: Path) -> dict[str, Any]:
        written = write_documents(folder, asked.chunks, documents(asked.chunks))
        if asked.store == "sqlite":
            return await run(folder, f"sqlite:///{folder / 'p.db'}", written, asked.workers, provider)
        with postgres_server() as server:
            async with fresh_database(server.url) as url:
                return await run(folder, url, written, asked.workers, provider)

    with tempfile.TemporaryDirectory(prefix="perdure-bad-") as folder:
        told = asyncio.run(measured(Path(folder)))
    print(json.dumps({"store": asked.store, **told}))
    return int(not right(told))


if __name__ == "__main__":
    sys.exit(main())
