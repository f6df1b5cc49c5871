"""A server in place of a store: what goes wrong is told as on a store, with the same exit codes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from perdure.cli import connection, remote

from .conftest import Perdure

ID = "0198c0de-7a3e-7abc-8def-0123456789ab"
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def server() -> Iterator[tuple[str, list[Answer], list[BaseHTTPRequestHandler]]]:
    """A server that gives the answers it is told, one after the other; None: it hangs up."""
    answers: list[Answer] = []
    asked: list[BaseHTTPRequestHandler] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self)
            status, headers, body = answers.pop(0)
            if not status:
                return  # it hangs up
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", answers, asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def problem(status: int, kind: str, detail: str, **headers: str) -> Answer:
    return status, headers, json.dumps({"type": f"/problems/{kind}", "detail": detail}).encode()


STATS: Answer = (200, {}, b'{"total":0,"unfinished":0,"by_status":{},"by_kind":{"a":{"failed":2}}}')


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_PAUSE", 0.01)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (problem(404, "not-found", "no job"), 3, "no job"),
        (problem(400, "invalid-request", "no UUID"), 2, "no UUID"),
        (problem(401, "unauthenticated", "make a key"), 1, "make a key"),
        (problem(429, "rate-limited", "wait 2 s", **{"Retry-After": "2"}), 1, "wait 2 s"),
        (problem(500, "store-error", "the log"), 4, "the log"),
        ((418, {}, b"a teapot"), 4, "answers 418, and not as Perdure"),
    ],
)
def test_a_problem_is_told_as_on_a_store(
    perdure: Perdure, server: tuple[str, list[Answer], object], answer: Answer, *, code: int, said: str
) -> None:
    url, answers, _ = server
    answers.append(answer)
    outcome = perdure("job-status", ID, "--server", url)
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err


def test_a_server_that_is_away_for_a_moment_is_asked_again(
    perdure: Perdure,
    server: tuple[str, list[Answer], list[BaseHTTPRequestHandler]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, answers, asked = server
    answers += [(0, {}, b""), problem(503, "not-ready", "stopping"), STATS]
    monkeypatch.setenv("PERDURE_SERVER", url)
    monkeypatch.setenv("PERDURE_KEY", "pdk_x")
    outcome = perdure("jobs", "stats", "--tenant", "acme", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["by_status"]["failed"] == 2
    sent = asked[-1].headers
    assert (sent["Authorization"], sent["X-Tenant"], sent["X-Actor"]) == (
        "Bearer pdk_x",
        "acme",
        "perdure cli",
    )


def test_a_server_that_stays_away_is_said_so(perdure: Perdure) -> None:
    outcome = perdure("jobs", "list", "--server", "http://127.0.0.1:1")
    assert outcome.code == 4
    assert "is 'perdure serve' running there?" in outcome.err
    assert perdure("jobs", "list", "--server", "nowhere").code == 2


def test_webhooks_of_a_server(
    perdure: Perdure, server: tuple[str, list[Answer], list[BaseHTTPRequestHandler]]
) -> None:
    url, answers, asked = server
    at = "2026-05-01T00:00:00Z"
    webhook: dict[str, object] = {"id": ID, "url": "https://example.com/", "states": ["failed"], "kinds": []}
    webhook |= {"active": True, "created_at": at}
    delivery: dict[str, object] = {"id": ID, "status": "completed", "type": "job.failed", "job_id": ID}
    delivery |= {"attempt": 1, "answer": "200 ok", "created_at": at, "completed_at": at}
    for args, told, said in (
        (["add", "https://example.com/"], {**webhook, "secret": "whsec_x"}, "whsec_x"),
        (["list"], {"items": [webhook]}, "example.com"),
        (["deliveries", ID], {"items": [delivery]}, "200 ok"),
        (["replay", ID], delivery, "is completed"),
    ):
        answers.append((200, {}, json.dumps(told).encode()))
        outcome = perdure("webhooks", *args, "--server", url)
        assert outcome.code == 0, outcome.err
        assert said in outcome.out
    answers.append((204, {}, b""))
    assert perdure("webhooks", "remove", ID, "--server", url).code == 0
    assert asked[-1].path == f"/v1/webhooks/{ID}"


@pytest.mark.parametrize(
    "args",
    [
        ["store", "info"],
        ["store", "check"],
        ["keys", "list"],
        ["keys", "create", "ci"],
        ["worker"],
        ["feed", "run", "inbox", "folder:."],
        ["doctor"],
        ["serve"],
        ["jobs", "stats", "--all-tenants"],
        ["jobs", "list", "--store", "memory:"],
    ],
)
def test_what_a_server_cannot_do_is_said(perdure: Perdure, args: list[str]) -> None:
    outcome = perdure(*args, "--server", "http://127.0.0.1:1")
    assert outcome.code == 2
    assert "--store" in outcome.err


async def test_events_go_on_after_the_connection_broke(
    server: tuple[str, list[Answer], list[BaseHTTPRequestHandler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers, asked = server
    monkeypatch.setattr(connection, "_AGAIN", 0.01)
    told = {
        "id": ID,
        "event": "added",
        "at": "2026-05-01T00:00:00Z",
        "status": "pending",
        "actor": "",
        "attempt": 0,
    }
    told |= {"rescues": 0, "started_at": None, "detail": {}, "tenant": "default", "job_id": ID, "kind": "a"}
    events = [f"id: {n}\ndata: {json.dumps(told)}\n\n".encode() for n in (1, 2)]
    answers += [(200, {}, b"retry: 1\n\n" + events[0]), (200, {}, b": \n\n" + events[1])]
    async with remote.Remote(url, None, None, "ann") as app:
        positions = []
        async for event in app.events.follow("default"):
            positions.append(event.position)
            if len(positions) == 2:
                break
    assert positions == ["1", "2"]
    assert asked[1].headers["Last-Event-ID"] == "1"
