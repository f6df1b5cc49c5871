"""A receiver that fails half of the time, and dies twice: it hears everything, in order for each job."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from msgspec.structs import replace
from standardwebhooks.webhooks import Webhook

import perdure
from perdure.core.context import Context
from perdure.core.webhooks import RETRY
from perdure.domain.state import JobState
from perdure.settings import Settings

pytestmark = [pytest.mark.fault, pytest.mark.slow]

JOBS = 334
STATES = ["pending", "running", "completed"]


class Receiver:
    """An HTTP server that breaks off, refuses or takes each request by chance."""

    def __init__(self, chance: random.Random) -> None:
        self.secret = ""
        self.port = 0
        self.requests = 0
        self.taken: dict[str, dict[str, str]] = {}
        self._chance = chance
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        assert self._server is not None
        # What was accepted just now begins first: a server that is closed before would leave its socket open.
        asyncio.get_running_loop().remove_reader(self._server.sockets[0].fileno())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
            headers = {name.lower(): value for name, _, value in lines}
            body = await reader.readexactly(int(headers["content-length"]))
            writer.write(self._answer(headers, body))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, headers: dict[str, str], body: bytes) -> bytes:
        self.requests += 1
        Webhook(self.secret).verify(body, headers)
        fate = self._chance.random()
        if fate < 0.25:
            return b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        if fate < 0.4:
            return b""
        # Taken, but one in six of these answers gets lost.
        data = json.loads(body)["data"]
        self.taken.setdefault(headers["webhook-id"], {"job": data["job_id"], "status": data["status"]})
        return b"" if fate > 0.9 else b"HTTP/1.1 204 Thanks\r\nConnection: close\r\n\r\n"

    def heard(self, job_id: str) -> list[str]:
        return [one["status"] for one in self.taken.values() if one["job"] == job_id]


async def test_everything_arrives_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.app.WEBHOOK_RETRY", replace(RETRY, base=0.05, ceiling=0.5))
    receiver = Receiver(random.Random(26))
    await receiver.start()
    settings = Settings(
        store=f"sqlite:///{tmp_path}/jobs.db",
        vectors="memory:",
        embedder="hashing",
        poll_seconds=0.05,
        webhook_allow_private=True,
    )
    async with perdure.open(settings=settings) as app:

        @app.handler("work")
        async def work(ctx: Context) -> None:
            await asyncio.sleep(0.01)

        hook = await app.webhooks.subscribe(
            f"http://127.0.0.1:{receiver.port}/hook", tenant="default", states=STATES
        )
        receiver.secret = hook.secret
        jobs = []
        for number in range(JOBS):
            jobs.append(await app.submit("work"))
            if number in (100, 200):
                await receiver.die()
                await asyncio.sleep(0.5)
                await receiver.start()
        async with asyncio.timeout(120):
            while any(receiver.heard(job.id) != STATES for job in jobs):
                assert len(receiver.taken) <= JOBS * len(STATES)
                await asyncio.sleep(0.05)
            while (await app.jobs.stats("default")).unfinished:
                await asyncio.sleep(0.05)
        deliveries = (await app.jobs.stats("default")).counts["webhook"]
        newest = await app.webhooks.deliveries(hook.id, tenant="default", limit=1000)
    await receiver.die()
    assert deliveries == {JobState.COMPLETED: JOBS * len(STATES)}
    assert {job.state for job in newest} == {JobState.COMPLETED}
    assert receiver.requests > 1.5 * JOBS * len(STATES)
