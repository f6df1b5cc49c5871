"""What ill-meant and broken clients send to a real socket: each gets a clear answer or is cut off, and others are served."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.server]

PROGRAM = """
import sys
from perdure.rest import server
from perdure.settings import Settings
server.HEAD_SECONDS = 1.0
settings = Settings(store=sys.argv[1], embedder="hashing", port=0, max_upload_bytes=1_000_000)
server.serve(settings, worker=False, ready=lambda url: print(url, flush=True))
"""
GB = 1_000_000_000
JOB = b'{"kind": "a"}'


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path / 'p.db'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def connect(url: str) -> socket.socket:
    place = httpx.URL(url)
    return socket.create_connection((place.host, place.port or 80), timeout=20)


def talk(url: str, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send pieces; all that comes back until the server closes."""
    with connect(url) as connection:
        got = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            while data := connection.recv(65_536):
                got += data
        except ConnectionError:
            pass  # cut off
        return got


def problem(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["type"]


def head(method: str, path: str, **headers: str) -> bytes:
    headers = {"Connection": "close", **headers}
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_heads_that_do_not_come_are_not_waited_for(url: str) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(url)) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n"[: number % 40])
        assert httpx.get(f"{url}/v1/jobs", timeout=10).status_code == 200
        time.sleep(1.5)
        for connection in slow:
            try:
                assert connection.recv(100) == b""
            except ConnectionResetError:
                pass
    drops = [bytes([letter]) for letter in head("GET", "/v1/jobs", X_Long="x" * 20)]
    begin = time.monotonic()
    assert talk(url, *drops, pause=0.1) == b""
    assert time.monotonic() - begin < 15


def test_who_waits_for_an_answer_is_not_cut_off(url: str) -> None:
    job = httpx.post(f"{url}/v1/jobs", json={"kind": "a"}).json()["id"]
    with closing(HTTPConnection(httpx.URL(url).netloc.decode(), timeout=20)) as connection:
        for _ in range(2):  # on one connection, one after the other
            connection.request("GET", f"/v1/jobs/{job}?wait=2")
            answer = connection.getresponse()
            assert (answer.status, json.load(answer)["id"]) == (200, job)


def test_ten_gigabytes_are_refused_before_they_come(url: str) -> None:
    for sent in ("multipart/form-data; boundary=X", "application/json", "application/x-ndjson"):
        path = "/v1/jobs/batch" if "ndjson" in sent else "/v1/ingest"
        answer = talk(url, head("POST", path, Content_Type=sent, Content_Length=str(10 * GB)))
        assert problem(answer) == (413, "/problems/too-large")


def test_an_upload_without_a_length_is_cut_off_at_the_limit(url: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        for _ in range(10_000):
            yield b"x" * 1_000_000

    begin = time.monotonic()
    try:
        form = {"Content-Type": "multipart/form-data; boundary=X"}
        answer = httpx.post(f"{url}/v1/ingest", content=pieces(), headers=form, timeout=20)
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
    except httpx.TransportError:
        pass  # closed while it was still sending
    assert time.monotonic() - begin < 15
    assert httpx.get(f"{url}/v1/jobs/stats").json()["total"] == 0


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(head("GET", "/v1/jobs", X_Actor="a\0b"), id="a NUL"),
        pytest.param(
            head("POST", "/v1/jobs", Content_Type="application/json", Content_Length="13, 14") + JOB,
            id="two lengths",
        ),
        pytest.param(
            head("POST", "/v1/jobs", Content_Type="application/json", Content_Length="-1") + JOB,
            id="a negative length",
        ),
        pytest.param(
            head("POST", "/v1/jobs", Content_Type="application/json", Transfer_Encoding="gzip, chunked"),
            id="an unknown transfer encoding",
        ),
        pytest.param(b"GET /v1/jobs HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, id="TLS"),
        pytest.param(head("GET", "/v1/jobs", X_Big="x" * 200_000), id="a head without end"),
    ],
)
def test_what_is_no_request_is_refused_or_cut_off(url: str, sent: bytes) -> None:
    answer = talk(url, sent)
    assert answer[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 421", b"HTTP/1.1 431", b"HTTP/1.1 501", b""}, answer
    assert httpx.get(f"{url}/v1/jobs/stats").json()["total"] == 0


def test_what_a_client_says_never_becomes_a_header(url: str) -> None:
    for path in ("/v1/status/%0d%0aX-Evil:%201", "/v1/jobs/%0aX-Evil:1/history", "/%0d%0aX-Evil:1"):
        answer = talk(url, head("GET", path))
        assert b"x-evil" not in answer.partition(b"\r\n\r\n")[0].lower()
        assert problem(answer)[0] in {400, 404}
    key = head(
        "POST", "/v1/jobs", Content_Type="application/json", Content_Length="13", Idempotency_Key="é\t"
    )
    assert talk(url, key + JOB).startswith((b"HTTP/1.1 202", b"HTTP/1.1 400"))


def test_a_smuggled_request_is_not_answered(url: str) -> None:
    """Two lengths, of which a proxy may believe the one and the server the other."""
    body = b"0\r\n\r\nDELETE /v1/jobs/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    sent = head(
        "POST",
        "/v1/jobs/x/cancel",
        Content_Type="application/json",
        Content_Length=str(len(body)),
        Transfer_Encoding="chunked",
    )
    answer = talk(url, sent + body)
    assert answer.count(b"HTTP/1.1 ") <= 1 or b"405" not in answer
    assert httpx.get(f"{url}/v1/jobs").status_code == 200
