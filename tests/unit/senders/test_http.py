"""Nothing is posted into the own network, however the address is dressed up; answers are read in bounds."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from perdure.domain.errors import InvalidInput
from perdure.ports.sender import SendFailed
from perdure.senders.http import KEPT, HttpSender, public

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PRIVATE = [
    *(
        "127.0.0.1",
        "127.8.8.8",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
    ),
    *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"),
]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """A server on a free port of this machine; its last answer is over when this is."""
    over: list[asyncio.Event] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.append(asyncio.Event())
        try:
            await serve(reader, writer)
            await writer.wait_closed()
        except OSError:
            pass
        finally:
            over[-1].set()

    async with await asyncio.start_server(one, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for event in over:
            await event.wait()


def answering(text: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()
        writer.close()

    return serve


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_known(address: str) -> None:
    assert not public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_what_is_public_is_known(address: str) -> None:
    assert public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://[::1]:80/x", "http://169.254.169.254/latest", "https://localhost/"),
        *("https://a.localhost/", "https://printer.local/", "https://metadata.internal/"),
        *("ftp://example.com/", "https:///x", "example.com/hook", "https://user:word@example.com/"),
        *(
            "https://example.com:99999/",
            "https://exämple.com/",
            "javascript:alert(1)",
            "https://example.com:0/",
        ),
    ],
)
def test_what_could_never_be_sent_to_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidInput):
        HttpSender().check(url)


async def test_a_name_is_checked_at_each_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public when it was subscribed and at the first look, link-local at the second."""
    asked: list[str] = []

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    sender = HttpSender()
    sender.check("http://rebound.example/hook")
    with pytest.raises(SendFailed, match="PERDURE_WEBHOOK_ALLOW_PRIVATE"):
        await sender.post("http://rebound.example/hook", b"{}", {})
    assert asked == ["rebound.example"]
    await sender.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "0177.0.0.1", "2130706433", "localhost"])
async def test_this_machine_is_not_reached_by_any_spelling(address: str) -> None:
    async with serving(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as port:
        sender = HttpSender()
        with pytest.raises(SendFailed):
            await sender.post(f"http://{address}:{port}/", b"{}", {})
        await sender.close()


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    seen = answering(
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n"
    )
    async with serving(seen) as port:
        sender = HttpSender(allow_private=True)
        answer = await sender.post(f"http://127.0.0.1:{port}/hook", b"{}", {})
        await sender.close()
    assert (answer.status, answer.headers["location"]) == (302, "http://169.254.169.254/latest")


async def test_a_request_arrives_as_it_is_meant() -> None:
    got = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"\r\n\r\n"))
        got.extend(await reader.readexactly(7))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with serving(serve) as port:
        sender = HttpSender(allow_private=True)
        answer = await sender.post(f"http://localhost:{port}/a?b=c", b'{"a":1}', {"webhook-id": "msg_1"})
        await sender.close()
    assert (answer.status, answer.text) == (200, "ok")
    head = got.decode().lower()
    assert head.startswith("post /a?b=c http/1.1\r\n")
    assert f"host: localhost:{port}\r\n" in head
    assert "webhook-id: msg_1\r\n" in head
    assert "content-length: 7\r\n" in head


async def test_a_large_answer_is_not_read_whole() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
        try:
            while sent < 10_000_000:
                writer.write(b"x" * 10_000)
                await writer.drain()
                sent += 10_000
        except OSError:
            pass
        writer.close()

    async with serving(serve) as port:
        sender = HttpSender(allow_private=True)
        answer = await sender.post(f"http://127.0.0.1:{port}/", b"{}", {})
        await sender.close()
    assert answer.text == "x" * KEPT
    assert sent < 10_000_000


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
)
async def test_a_receiver_that_never_ends_its_answer_is_left(begun: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begun)
        await writer.drain()
        await reader.read()  # until the other side has left
        writer.close()

    async with serving(serve) as port:
        sender = HttpSender(allow_private=True, timeout=0.2)
        with pytest.raises(SendFailed, match=r"no answer within 0\.2 s"):
            await sender.post(f"http://127.0.0.1:{port}/", b"{}", {})
        await sender.close()


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
)
async def test_an_answer_that_breaks_off_is_no_answer(answer: bytes) -> None:
    async with serving(answering(answer)) as port:
        sender = HttpSender(allow_private=True)
        with pytest.raises(SendFailed):
            await sender.post(f"http://127.0.0.1:{port}/", b"{}", {})
        await sender.close()


async def test_nobody_there_is_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sender = HttpSender(allow_private=True)
    with pytest.raises(SendFailed, match="ConnectError"):
        await sender.post(f"http://127.0.0.1:{port}/", b"{}", {})
    await sender.close()
