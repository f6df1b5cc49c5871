"""RabbitMQ and NATS for tests, from Debian's packages, and a peer of Kafka; `PERDURE_TEST_AMQP_URL`, `PERDURE_TEST_NATS_URL` and
`PERDURE_TEST_KAFKA_URL` are used instead where given.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 100.0


@contextmanager
def rabbitmq_url() -> Iterator[str]:
    """A server of its own, with all that it writes in a temporary folder."""
    if given := os.environ.get("PERDURE_TEST_AMQP_URL"):
        yield given
        return
    with _folder() as folder:
        port, mapper, far = (_free_port() for _ in range(3))
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": f"perdure{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(far),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }
        # It starts a process that maps names to ports, which outlives it: this one is ours, and is asked to end.
        with _serving(["/usr/lib/rabbitmq/bin/rabbitmq-server"], folder, environ, port):
            yield f"amqp://guest:guest@127.0.0.1:{port}/"
        subprocess.run(["epmd", "-port", str(mapper), "-kill"], check=False, capture_output=True, env=environ)


@contextmanager
def nats_url() -> Iterator[str]:
    """A server with JetStream."""
    if given := os.environ.get("PERDURE_TEST_NATS_URL"):
        yield given
        return
    with _folder() as folder:
        port = _free_port()
        command = [
            "nats-server",
            *("--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", str(folder)),
        ]
        with _serving(command, folder, dict(os.environ), port):
            yield f"nats://127.0.0.1:{port}"


@contextmanager
def kafka_url() -> Iterator[str]:
    """A peer in a process of its own, that ends with ours. A topic comes with its first message, in four partitions."""
    if given := os.environ.get("PERDURE_TEST_KAFKA_URL"):
        yield given
        return
    command = [sys.executable, str(Path(__file__).with_name("kafka_peer.py"))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        if not (address := process.stdout.readline().strip()):
            raise RuntimeError("the peer of Kafka did not start")
        yield f"kafka://{address}"


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="perdure-broker-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _serving(command: list[str], folder: Path, environ: dict[str, str], port: int) -> Iterator[None]:
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            command, env=environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{(folder / 'out').read_text()[-3000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
