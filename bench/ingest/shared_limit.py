"""Four worker processes that share one limit of a provider, and want more than it allows.

    python -m bench.ingest.shared_limit [--limit 600rpm] [--windows 3] [--workers 4] [--store sqlite|postgresql]

Each process embeds as fast as it is let, through a server of this benchmark's own, which notes when each request arrives. Printed are
the most requests that arrived within any window of the limit's length, wherever it begins, and what share of the limit was used from the
first request on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.ingest.bad_provider import BadProvider
from perdure import bootstrap, wiring
from perdure.core.jobs import JobService
from perdure.domain.errors import RetryAfter
from perdure.domain.limits import Limit, parse_limits
from perdure.pipeline.governor import Governor
from perdure.settings import Settings
from tests.servers.postgres import fresh_database, postgres_server

UNDER_WAY = 2
"""Batches that one process has under way."""


class NotingProvider(BadProvider):
    """A provider in health that notes when each request arrives."""

    def __init__(self) -> None:
        super().__init__(random.Random(1), {})
        self.arrived: list[float] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.arrived.append(time.monotonic())
        return await super().answer(request)


async def embed(url: str, name: str, limit: str, seconds: float) -> None:
    """What one worker process does: embed without a pause, through the governor that jobs go through."""
    store = bootstrap.job_store(Settings(store=url))
    await store.setup()
    jobs = JobService(store)
    await jobs.start()
    governor = Governor(
        store.values,
        "openai",
        lambda: jobs.clock.now().timestamp(),
        limits=parse_limits(f"openai={limit}", "")["openai"],
    )
    model = wiring.embedder(name, gate=governor)
    end = time.monotonic() + seconds

    async def ask() -> None:
        while time.monotonic() < end:
            with suppress(RetryAfter):
                await model.embed(["a text"], "document")

    await asyncio.gather(*(ask() for _ in range(UNDER_WAY)))
    await model.close()
    await jobs.close()
    await store.close()


def most_in_a_window(arrived: list[float], seconds: float) -> int:
    """The most that arrived within any `seconds`."""
    most = begin = 0
    for place, at in enumerate(arrived):
        while at - arrived[begin] > seconds:
            begin += 1
        most = max(most, place - begin + 1)
    return most


async def run(url: str, limit: Limit, told: str, windows: float, workers: int) -> dict[str, Any]:
    """Let the processes work for so many windows; what arrived."""
    provider, seconds = NotingProvider(), windows * limit.seconds
    runner = await provider.serve()
    command = [sys.executable, "-m", "bench.ingest.shared_limit", "--child", url, f"openai:m@{provider.url}"]
    command += [told, str(seconds)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    started = await asyncio.to_thread(
        lambda: [subprocess.Popen(command, env=environ) for _ in range(workers)]
    )
    try:
        for worker in started:
            await asyncio.to_thread(worker.wait, seconds + 120)
    finally:
        for worker in started:
            worker.kill()
        await runner.cleanup()
    arrived = sorted(provider.arrived)
    used = [at for at in arrived if at - arrived[0] <= seconds]
    return {
        "limit": str(limit),
        "allowed": limit.count,
        "workers": workers,
        "seconds": seconds,
        "requests": len(arrived),
        "most_in_any_window": most_in_a_window(arrived, limit.seconds),
        "share_used": round(len(used) / (limit.count * windows), 3),
        "exit_codes": [worker.returncode for worker in started],
    }


@asynccontextmanager
async def store(brand: str, folder: Path) -> AsyncIterator[str]:
    if brand == "sqlite":
        yield f"sqlite:///{folder / 'p.db'}"
    else:
        with postgres_server() as server:
            async with fresh_database(server.url) as url:
                yield url


async def measured(brand: str, limit: str, windows: float, workers: int) -> dict[str, Any]:
    """One run on a new store."""
    [parsed] = parse_limits(f"openai={limit}", "--limit")["openai"]
    with tempfile.TemporaryDirectory(prefix="perdure-limit-") as folder:
        async with store(brand, Path(folder)) as url:
            return {"store": brand, **await run(url, parsed, limit, windows, workers)}


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        url, name, limit, seconds = sys.argv[2:]
        asyncio.run(embed(url, name, limit, float(seconds)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", default="600rpm")
    parser.add_argument("--windows", type=float, default=3)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    asked = parser.parse_args()
    told = asyncio.run(measured(asked.store, asked.limit, asked.windows, asked.workers))
    print(json.dumps(told))
    return int(told["share_used"] < 0.95 or told["most_in_any_window"] > told["allowed"])


if __name__ == "__main__":
    sys.exit(main())
