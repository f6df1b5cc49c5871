"""The REST server as users run it: a process of its own, a socket, a file; stopped, killed and started again."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.server]

PROGRAM = """
import json
import sys

from perdure.rest import serve
from perdure.settings import Settings

worker, overrides = json.loads(sys.argv[1])
settings = {"embedder": "hashing", "port": 0, "lease_seconds": 2, "poll_seconds": 0.1, "grace_seconds": 5}
serve(Settings(**settings | overrides), worker=worker, ready=lambda url: print(url, flush=True))
"""
DOCS = Path(__file__).parents[2] / "docs"
MB = 1_000_000
HEAD = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
FORM = "multipart/form-data; boundary=X"


class Server:
    """A server process on a database file."""

    def __init__(self, store: str, *, worker: bool = True, **overrides: object) -> None:
        command = [sys.executable, "-c", PROGRAM, json.dumps([worker, {"store": store, **overrides}])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.communicate()[1]
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def connect(self) -> closing[HTTPConnection]:
        """A connection on which a call can be begun without waiting for its answer."""
        return closing(HTTPConnection(httpx.URL(self.url).netloc.decode()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        self.process.communicate(timeout=120)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'perdure.db'}"


@pytest.fixture
def server(store: str) -> Iterator[Server]:
    with Server(store) as server:
        yield server


def accepted(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def finished(server: Server, job_id: str) -> dict[str, Any]:
    answer = server.client.get(f"/v1/status/{job_id}", params={"wait": 60})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_document_goes_in_is_found_and_goes_out(server: Server) -> None:
    text = accepted(
        server.client.post("/v1/ingest", json={"text": "Leave is thirty days.", "document_id": "a"})
    )
    file = accepted(
        server.client.post(
            "/v1/ingest",
            data={"document_id": "b/c"},
            files={"file": ("b.md", b"# Food\n\nLunch is at noon.")},
        )
    )
    assert [finished(server, job["job_id"])["status"] for job in (text, file)] == ["completed"] * 2
    hits = server.client.post("/v1/search", json={"query": "when is lunch at noon?", "limit": 1}).json()[
        "hits"
    ]
    assert [hit["document_id"] for hit in hits] == ["b/c"]
    assert server.client.delete("/v1/documents/b%2Fc").json() == {"chunks_deleted": 1}
    listed = server.client.get("/v1/documents").json()["items"]
    assert [document["document_id"] for document in listed] == ["a"]


def test_keys_and_statuses_outlive_the_server(store: str) -> None:
    key = {"Idempotency-Key": "order-1"}
    with Server(store, worker=False) as server:
        text = accepted(server.client.post("/v1/ingest", json={"text": "one"}, headers=key))
        assert server.stop() == 0
    with Server(store) as server:
        again = accepted(server.client.post("/v1/ingest", json={"text": "one"}, headers=key))
        assert again["ingestion_id"] == text["ingestion_id"]
        other = server.client.post("/v1/ingest", json={"text": "two"}, headers=key)
        assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-conflict")
        assert finished(server, text["job_id"])["status"] == "completed"
        assert server.client.get("/v1/jobs/stats").json()["total"] == 1


def test_what_was_accepted_survives_a_kill(store: str) -> None:
    jobs = []
    with Server(store) as server:
        for number in range(20):
            upload = {"file": (f"{number}.txt", f"document number {number}".encode() * 50)}
            jobs.append(accepted(server.client.post("/v1/ingest", files=upload))["job_id"])
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    with Server(store) as server:
        assert {finished(server, job)["status"] for job in jobs} == {"completed"}
        assert len(server.client.get("/v1/documents").json()["items"]) == 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_good_order_and_open_polls_are_answered(store: str, number: int) -> None:
    with Server(store, worker=False) as server, server.connect() as poll:
        job = accepted(server.client.post("/v1/ingest", json={"text": "one"}))
        poll.request("GET", f"{job['status_url']}?wait=60")
        # What came in before a call that is answered has been read.
        assert server.client.get("/healthz").status_code == 200
        assert server.stop(number) == 0
        answer = poll.getresponse()
        assert (answer.status, json.load(answer)["status"]) == (200, "pending")


def test_a_second_signal_does_not_wait_for_a_client_that_dawdles(store: str) -> None:
    with Server(store, grace_seconds=600) as server, server.connect() as dawdler:
        dawdler.putrequest("POST", "/v1/ingest")
        dawdler.putheader("Content-Type", FORM)
        dawdler.putheader("Content-Length", "1000")
        dawdler.endheaders(HEAD)
        assert server.client.get("/healthz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not _answers(server))
        assert server.process.poll() is None
        assert server.stop(signal.SIGTERM) == 0


def _answers(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_large_upload_is_never_held_in_memory_and_stored_whole(store: str) -> None:
    size = 200 * MB
    with Server(store, worker=False) as server:
        server.client.post("/v1/ingest", files={"file": ("warm.txt", b"x" * MB)})
        process = psutil.Process(server.process.pid)
        before, peak = process.memory_info().rss, 0

        def pieces() -> Iterator[bytes]:
            nonlocal peak
            yield HEAD
            for _ in range(size // MB):
                yield b"x" * MB
                peak = max(peak, process.memory_info().rss)
            yield b"\r\n--X--\r\n"

        answer = server.client.post("/v1/ingest", content=pieces(), headers={"Content-Type": FORM})
        job = accepted(answer)
        print(f"\n{size // MB} MB uploaded; the server grew by {(peak - before) / MB:.1f} MB")
        assert peak - before < 40 * MB
        payload = server.client.get(f"/v1/jobs/{job['job_id']}").json()["payload"]
        assert payload["sha256"] == _sha256_of(size)


def _sha256_of(size: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size // MB):
        digest.update(b"x" * MB)
    return digest.hexdigest()


def test_too_large_an_upload_gets_its_answer(store: str) -> None:
    """Not a connection that breaks while the client is still sending."""
    with Server(store, max_upload_bytes=MB) as server:
        answer = server.client.post("/v1/ingest", files={"file": ("a.txt", b"x" * (50 * MB))})
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
        assert server.client.get("/v1/jobs/stats").json()["total"] == 0


def test_a_foreign_host_name_is_not_answered(server: Server) -> None:
    answer = server.client.get("/v1/jobs", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["type"]) == (421, "/problems/misdirected-request")


def test_a_store_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    path.write_bytes(b"this is no database, it only looks like a file" * 100)
    command = [sys.executable, "-c", PROGRAM, json.dumps([True, {"store": f"sqlite:///{path}"}])]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert "StoreCorrupt" in run.stderr.splitlines()[-1]


def test_the_commands_of_the_manual_work(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each curl command of docs/how-to/serve.md, in its order."""
    (tmp_path / "handbook.md").write_text("# Leave\n\nLeave is 30 days a year.")
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "how-to" / "serve.md").read_text().replace("http://127.0.0.1:8321", server.url)
    commands = [
        block.replace("\\\n", " ")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        if block.startswith("curl ")
    ]
    assert len(commands) == 5
    job_id = ""
    answer: httpx.Response | None = None
    for command in commands:
        answer = curl(server.client, command.replace("INGESTION_ID", job_id))
        assert answer.status_code in {200, 202}, (command, answer.text)
        job_id = answer.json().get("ingestion_id", job_id)
    assert answer is not None
    assert "30 days" in answer.json()["hits"][0]["text"]


def curl(client: httpx.Client, command: str) -> httpx.Response:
    """Do what a curl command does, as far as the manual uses it."""
    _, url, *words = shlex.split(command)
    headers: dict[str, str] = {}
    content: str | None = None
    form: list[tuple[str, tuple[str | None, bytes]]] = []
    for option, value in zip(words[::2], words[1::2], strict=True):
        name, _, rest = value.partition("=")
        match option:
            case "-H":
                header, _, told = value.partition(": ")
                headers[header] = told
            case "-d":
                content = value
            case "-F" if rest.startswith("@"):
                form.append((name, (rest[1:], Path(rest[1:]).read_bytes())))
            case "-F":
                form.append((name, (None, rest.encode())))
            case _:
                raise AssertionError(f"{option} is not known here")
    if content is None and not form:
        return client.get(url, headers=headers)
    return client.post(url, headers=headers, content=content, files=form or None)
