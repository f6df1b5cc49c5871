"""What befalls a store under load: its server is killed, answers get lost, the service is overloaded."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from tests.servers import mongodb, postgres, redis
from tests.servers.cosmos_peer import Peer, cosmos_peer
from tests.servers.proxy import Proxy, tcp_proxy

_WRITES = ("create", "batch", "replace", "patch")


class Server(Protocol):
    """What can be killed."""

    url: str
    port: int

    def start(self) -> None: ...
    def kill(self) -> None: ...


class Trouble:
    """Befalls whoever uses `url`.

    Attributes:
        every: seconds from the end of one trouble to the next, unless told otherwise.
        outages: from when to when nobody was there at all.
    """

    every = 6.0

    def __init__(self, url: str) -> None:
        self.url = url
        self.outages: list[tuple[float, float]] = []

    async def befall(self) -> None:
        """Make trouble once; return when it is over."""
        raise NotImplementedError

    def end(self) -> None:
        """Take back what has not befallen anybody yet."""

    @property
    def told(self) -> dict[str, int]:
        """What befell so far."""
        raise NotImplementedError


class Killed(Trouble):
    """The server is ended by SIGKILL and started again on the same data."""

    def __init__(self, url: str, server: Server) -> None:
        super().__init__(url)
        self._server = server

    async def befall(self) -> None:
        away = time.time()
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)
        self.outages.append((away, time.time()))

    @property
    def told(self) -> dict[str, int]:
        return {"kills": len(self.outages)}


class Cut(Trouble):
    """The server does what it was asked; its answer gets lost, and the connection is reset."""

    every = 0.2

    def __init__(self, url: str, proxy: Proxy) -> None:
        super().__init__(url)
        self._proxy = proxy

    async def befall(self) -> None:
        self._proxy.lose(1)

    def end(self) -> None:
        self._proxy.lose(0)

    @property
    def told(self) -> dict[str, int]:
        return {"answers_lost": self._proxy.lost}


class Overloaded(Trouble):
    """Answers of a Cosmos DB get lost, and it answers 429 and 503 for a while."""

    every = 0.5

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer.url.rstrip("/") + "/chaos")
        self._peer = peer
        self._chance = random.Random(5)
        self._storms = 0

    async def befall(self) -> None:
        self._peer.lose(self._chance.choice(_WRITES), 1)
        self._peer.throttle(self._chance.randint(1, 20), after_ms=self._chance.randint(1, 50))
        if self._chance.random() < 0.3:
            self._peer.refusing = (503, 0)
            await asyncio.sleep(self._chance.uniform(0.1, 1.0))
            self._peer.refusing = None
            self._storms += 1

    def end(self) -> None:
        self._peer.throttle(0, after_ms=0)
        for what in _WRITES:
            self._peer.lose(what, 0)

    @property
    def told(self) -> dict[str, int]:
        return {"answers_lost": self._peer.lost, "storms_of_503": self._storms}


async def trouble_for(store: str, *, cut: bool, stack: AsyncExitStack) -> Trouble:
    """A server of its own for the store, until the stack unwinds, and what befalls it."""
    if store == "cosmos":
        return Overloaded(stack.enter_context(cosmos_peer()))
    server: Server
    match store:
        case "postgres":
            server = stack.enter_context(postgres.postgres_server())
            url = server.url
        case "mongodb":
            server = stack.enter_context(mongodb.mongodb_server())
            url = urlunsplit(urlsplit(server.url)._replace(path="/chaos", query="directConnection=true"))
        case _:
            server = stack.enter_context(redis.redis_server(store))
            url = server.url
    if not cut:
        return Killed(url, server)
    proxy = await stack.enter_async_context(tcp_proxy(server.port))
    return Cut(url.replace(f":{server.port}", f":{proxy.port}"), proxy)
