"""The frame around every call: what is refused before it is read, limits, headers, and errors nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.rest.problems import problem, unexpected

log = logging.getLogger(__name__)

MAX_JSON: Final = 8 * 1024 * 1024
"""Bytes of a JSON body, which is held in memory whole. Longer documents come as uploads."""

MAX_BATCH: Final = 64 * 1024 * 1024
"""Bytes of a batch, of which a line at a time is held as text."""
BODY_PAUSE: Final = 30.0
"""Seconds between two pieces of a body."""
SLOWEST: Final = 1000
"""Bytes a second of a body, from a minute on: a connection must not be held by dripping."""

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_clock = time.monotonic
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Frame:
    """An ASGI middleware.

    Args:
        upload_limit: bytes of an upload, its fields included.
        hosts: the host names under which the server answers; None: under any.
        origins: of the web pages that may do more than read; `*`: of any.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        upload_limit: int,
        hosts: Collection[str] | None,
        origins: Collection[str] = (),
    ) -> None:
        self._origins = origins
        self._app = app
        self._upload_limit = upload_limit
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(headers)
        exchange = _Exchange(receive, send, limit)
        try:
            refusal = self._refusal(scope, headers, limit)
            await (refusal or self._app)(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            log.info("%s %s: the client went away", scope["method"], scope["path"])
        except Exception as error:  # the last place that can answer; the error is logged whole
            if exchange.begun:
                raise
            response = unexpected(error, scope["method"], scope["path"])
            await response(scope, receive, exchange.send)

    def _limit(self, headers: Headers) -> int:
        sent = headers.get("content-type", "").lower()
        if sent.startswith("multipart/"):
            return self._upload_limit
        return min(MAX_BATCH if "ndjson" in sent else MAX_JSON, self._upload_limit)

    def _refusal(self, scope: Scope, headers: Headers, limit: int) -> Response | None:
        """Answer at once what need not be read."""
        path = scope["path"]
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        if self._hosts is not None and host not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            return problem("misdirected-request", f"called as {host!r}; expected one of {names}", path)
        site = headers.get("sec-fetch-site", "none")
        trusted = "*" in self._origins or headers.get("origin") in self._origins
        if scope["method"] not in _READS and site in {"cross-site", "same-site"} and not trusted:
            return problem("cross-site-request", f"the browser says the request is {site}", path)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            return problem("too-large", _too_large(limit), path)
        return None


class _Exchange:
    """One request and its answer, as they pass through the frame."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self.begun = False
        self._receive = receive
        self._send = send
        self._limit = limit
        self._size = 0
        self._whole = False
        self._begun_at = _clock()

    async def receive(self) -> Message:
        """Pass on a piece of the body, as long as they are not too many, nor too slow."""
        message = await (self._receive() if self._whole else self._piece())
        self._size += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._size > self._limit:
            # Only this class passes through the framework's own reading of a body unchanged.
            raise HTTPException(413, _too_large(self._limit))
        return message

    async def _piece(self) -> Message:
        try:
            async with asyncio.timeout(BODY_PAUSE):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, f"nothing came for {BODY_PAUSE:g} s; send the rest of the body"
            ) from None
        took = _clock() - self._begun_at
        if took > 60 and self._size < took * SLOWEST:
            raise HTTPException(408, f"the body came slower than {SLOWEST:,} bytes a second; send it faster")
        return message

    async def send(self, message: Message) -> None:
        """Pass on a piece of the answer, its head with the headers that all answers carry."""
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _too_large(limit: int) -> str:
    return (
        f"the body is larger than {limit:,} bytes; send a long text as a multipart upload, "
        "split a longer document, or raise max_upload_bytes"
    )
