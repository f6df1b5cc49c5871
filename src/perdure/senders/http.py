"""POST to an address that somebody named: never into the own network, never more than a little of the answer."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore

from perdure.domain.errors import InvalidInput
from perdure.ports.sender import Answer, SendFailed

TIMEOUT: Final = 15.0
"""Seconds for a delivery, from the look-up of the name to the last byte that is read."""
KEPT: Final = 2000
"""Bytes of an answer that are read."""


class HttpSender:
    """See `perdure.ports.sender.Sender`.

    The name is resolved, and each address checked, at the moment of connecting: a name that resolves elsewhere the second
    time gains nothing. Redirects are not followed, and no proxy of the environment is used.

    Args:
        allow_private: also send to addresses that are not public: for tests, and for receivers in the own network.
    """

    def __init__(self, *, allow_private: bool = False, timeout: float = TIMEOUT) -> None:
        self._allow_private = allow_private
        self._timeout = timeout
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=100,
            keepalive_expiry=30.0,
            network_backend=_Guarded(httpcore.AnyIOBackend(), allow_private=allow_private),
        )

    def check(self, url: str) -> None:
        """See the port."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or not url.isascii():
            raise InvalidInput(f"{url!r} is no address for a webhook; expected https://host/path")
        if parts.username or parts.password:
            raise InvalidInput(
                "a webhook's address holds no user or password; its signature proves who sent it"
            )
        try:
            literal = ipaddress.ip_address(parts.hostname)
        except ValueError:
            local = parts.hostname == "localhost" or parts.hostname.endswith(
                (".localhost", ".local", ".internal")
            )
        else:
            local = not public(literal)
        if local and not self._allow_private:
            raise InvalidInput(_private(parts.hostname))

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """See the port."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(url, body, headers)
        except TimeoutError:
            raise SendFailed(f"no answer within {self._timeout:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise SendFailed(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """See the port."""
        await self._pool.aclose()

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        given.append((b"Host", urlsplit(url).netloc.encode()))
        async with self._pool.stream("POST", url, headers=given, content=body) as response:
            read = b""
            async for piece in response.aiter_stream():
                read += piece
                if len(read) >= KEPT:
                    break
        named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Answer(status=response.status, text=read[:KEPT].decode(errors="replace"), headers=named)


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only."""

    def __init__(self, inner: httpcore.AsyncNetworkBackend, *, allow_private: bool) -> None:
        self._inner = inner
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(info[4][0] for info in found))
        if not self._allow_private and not all(public(ipaddress.ip_address(one)) for one in addresses):
            raise SendFailed(_private(host))
        error: Exception = SendFailed(f"{host} has no address")
        for address in addresses[:3]:
            try:
                return await self._inner.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise SendFailed("webhooks go by TCP")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")


def public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is anybody's: not private, loopback, link-local, reserved, multicast, nor one of these in disguise."""
    if isinstance(address, ipaddress.IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            hidden = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if hidden is not None:
            return public(hidden)
        if address.scope_id is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _private(host: str) -> str:
    return (
        f"{host} is an address of this machine or its network; webhooks go to public ones. "
        "If it is meant to be so, set PERDURE_WEBHOOK_ALLOW_PRIVATE=1"
    )
