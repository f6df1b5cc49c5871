"""Servers that speak Cosmos DB's REST protocol; `PERDURE_TEST_COSMOS_URL` is used instead where given.

The npm package `@vercel/cosmosdb-server` is the wire test: it was written by others. Where it is wrong (see its class of tests)
the peer of `cosmos_peer.py` does as the service does. Each test gets a database of its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosResourceNotFoundError

from perdure.databases.cosmos.address import parse

ROOT = Path(__file__).parents[2]
EMULATOR = ROOT / "build/cosmos/node_modules/.bin/cosmosdb-server"
KEY = "c2VjcmV0"
PATIENCE = 100.0
_serial = count(1)


def local_url(port: int) -> str:
    """The URL of an account on the loopback."""
    return f"cosmos+http://:{KEY}@127.0.0.1:{port}"


@contextmanager
def emulator_url() -> Iterator[str]:
    """The URL of the account given in the environment, or of an emulator in a process of its own."""
    given = os.environ.get("PERDURE_TEST_COSMOS_URL")
    if given:
        yield given
        return
    if not EMULATOR.exists():
        subprocess.run(["sh", "tools/servers.sh"], cwd=ROOT, check=True)
    port = free_port()
    command = [str(EMULATOR), "--host", "127.0.0.1", "-p", str(port), "--no-ssl"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        yield local_url(port)
    finally:
        process.terminate()
        process.wait(PATIENCE)


@asynccontextmanager
async def fresh_database(url: str) -> AsyncIterator[str]:
    """The name of a database that does not exist yet. It is dropped in the end."""
    name = f"perdure_test_{os.getpid()}_{next(_serial)}"
    yield name
    address = parse(url)
    discover = address.endpoint.startswith("https:")
    async with CosmosClient(address.endpoint, address.key, enable_endpoint_discovery=discover) as client:
        try:
            await client.delete_database(name)
        except CosmosResourceNotFoundError:
            pass


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the Cosmos DB emulator did not start")
        time.sleep(0.02)


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
