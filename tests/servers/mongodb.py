"""A server that speaks MongoDB's protocol, from the package `SecantusDB`; `PERDURE_TEST_MONGO_URL` is used instead where given.

It presents itself as a replica set of one member. Each test gets a database of its own in it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

from pymongo import AsyncMongoClient

PATIENCE = 100.0
_serial = count(1)

_SERVE = """
import json, signal, sys, threading
from secantus import SecantusDBServer

end = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: end.set())
# It waits for the journal after a transaction, too, only if told to: a `mongod` does so where a client asks with `j`.
durable = {"ttl_sweep_seconds": 1.0, "sync_on_commit": True}
with SecantusDBServer(storage_path=sys.argv[1], port=int(sys.argv[2]), **durable, **json.loads(sys.argv[3])):
    end.wait()
"""


class MongoServer:
    """A server on a free port of the loopback, in a temporary folder. Ended by its own process id.

    Attributes:
        options: more of `SecantusDBServer`, from the next start on.
    """

    def __init__(self, folder: Path) -> None:
        self.options: dict[str, object] = {}
        self.folder = folder
        self.port = _free_port()
        self.url = f"mongodb://127.0.0.1:{self.port}/"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(data), str(self.port), json.dumps(self.options)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SecantusDB did not start:\n{(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:  # a clean end waits for its clients
                self._process.kill()
                self._process.wait(PATIENCE)
            self._process = None


@contextmanager
def mongodb_server() -> Iterator[MongoServer]:
    """Run a new server."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-mongodb-"))
    server = MongoServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mongodb_url() -> Iterator[str]:
    """The URL of a server that tests may fill with databases."""
    given = os.environ.get("PERDURE_TEST_MONGO_URL")
    if given:
        yield given
        return
    with mongodb_server() as server:
        yield server.url


@asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[str]:
    """The name of an empty database on the server. It is dropped in the end."""
    name = f"perdure_test_{os.getpid()}_{next(_serial)}"
    yield name
    async with AsyncMongoClient[dict[str, object]](server_url) as client:
        await client.drop_database(name)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
