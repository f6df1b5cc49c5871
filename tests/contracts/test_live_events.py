"""Events across processes: two API servers and two workers on one PostgreSQL, one server killed while a client listens."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.contracts.test_rest_server import Server
from tests.servers.postgres import vector_schema

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.fault, pytest.mark.xdist_group("postgres")]

WORKER = """
import asyncio, sys
import perdure
from perdure.domain.errors import RetryAfter

async def main():
    app = perdure.open(sys.argv[1], embedder="hashing", poll_seconds=0.05, worker=False)

    @app.handler("steps", max_attempts=5)
    async def steps(ctx, **payload):
        if ctx.job.attempt < 2:
            raise RetryAfter(0.05, counts=True)
        return "done"

    async with app:
        worker = app.make_worker()
        asyncio.get_running_loop().add_signal_handler(15, worker.stop)
        print("ready", flush=True)
        await worker.run()

asyncio.run(main())
"""
LIFE = ["added", "claimed", "retried", "claimed", "retried", "claimed", "completed"]
JOBS = 60


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[str]:
    async with vector_schema(postgres_url) as url:
        yield url


@pytest.fixture
def workers(store: str) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, store], stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.communicate)
            stack.callback(process.terminate)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield


class Listener:
    """Follows a path on whatever server is up, as an `EventSource` does."""

    def __init__(self, url: str, path: str) -> None:
        self.url, self.path = url, path
        self.position = ""
        self.connections = 0
        self.known: set[str] = set()
        self.heard: dict[str, list[str]] = {}

    async def run(self) -> None:
        """Listen, and come back with the position, until all is told."""
        async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=30)) as client:
            while True:
                try:
                    headers = {"Last-Event-ID": self.position} if self.position else {}
                    async with client.stream("GET", self.url + self.path, headers=headers) as answer:
                        if answer.status_code == 204:
                            return
                        assert answer.status_code == 200, await answer.aread()
                        self.connections += 1
                        await self._take(answer)
                except httpx.TransportError:
                    await asyncio.sleep(0.1)

    async def _take(self, answer: httpx.Response) -> None:
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                self.position = value
            elif name == "data":
                event: dict[str, Any] = json.loads(value)
                if event["id"] not in self.known:
                    self.known.add(event["id"])
                    self.heard.setdefault(event["job_id"], []).append(event["event"])


@pytest.mark.usefixtures("workers")
async def test_a_client_hears_all_in_order_although_its_server_is_killed(store: str) -> None:
    with Server(store, worker=False) as one, Server(store, worker=False) as two:
        tenant = Listener(one.url, "/v1/events")
        listening = [asyncio.create_task(tenant.run())]
        while not tenant.connections:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        singles: list[Listener] = []
        again: Server | None = None
        async with httpx.AsyncClient(base_url=two.url, timeout=30) as client:
            for number in range(JOBS):
                answer = await client.post("/v1/jobs", json={"kind": "steps"})
                single = Listener(tenant.url, f"/v1/jobs/{answer.json()['id']}/events")
                listening.append(asyncio.create_task(single.run()))
                singles.append(single)
                await asyncio.sleep(0.05)
                if number == JOBS // 3:
                    one.stop(signal.SIGKILL)
                if number == JOBS // 2:
                    again = Server(store, worker=False)
                    for listener in (tenant, *singles):
                        listener.url = again.url
        assert again is not None
        with again:
            await asyncio.wait_for(asyncio.gather(*listening[1:]), 60)
            async with asyncio.timeout(30):
                while sum(map(len, tenant.heard.values())) < JOBS * len(LIFE):
                    await asyncio.sleep(0.05)
            listening[0].cancel()
    assert tenant.connections >= 2
    assert [heard for heard in tenant.heard.values() if heard != LIFE] == []
    assert len(tenant.heard) == JOBS
    for single in singles:
        assert list(single.heard.values()) == [LIFE]
