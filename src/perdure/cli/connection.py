"""Requests to a running server: sent again, where that does no harm, as long as it is away; its problems become errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from perdure.domain.errors import InvalidInput, PerdureError, RetryAfter, StoreUnavailable
from perdure.domain.packages import needed
from perdure.problems import KINDS

if TYPE_CHECKING:
    import httpx

WAIT: Final = 30
"""Seconds of a long poll."""
TRIES: Final = 4
_PAUSE: Final = 0.5
_AGAIN: Final = 1.0
"""Seconds before a request, or the stream of events, is tried again."""


class Connection:
    """The server at a URL.

    Args:
        key: the credential; None: the server asks for none.
        tenant: whose things are meant; None: the key's own.

    Raises:
        InvalidInput: httpx is not installed, or this is no URL.
    """

    def __init__(self, url: str, key: str | None, tenant: str | None, actor: str) -> None:
        with needed("--server needs", "client"):
            import httpx
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"the server is {url!r}; expected a URL like http://127.0.0.1:8321")
        headers = {"X-Actor": actor}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if tenant:
            headers["X-Tenant"] = tenant
        self._url = url
        self._broken = httpx.TransportError
        self.client = httpx.AsyncClient(base_url=url, headers=headers, timeout=WAIT + 30)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        tries: int = 1,
    ) -> Any:
        """The JSON of the answer to a request; None: it has none. Whoever only looks may always try again."""
        answer = await self.send(method, path, body, query, tries=TRIES if method == "GET" else tries)
        return answer.json() if answer.content else None

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        tries: int,
    ) -> httpx.Response:
        """The answer to a request; see `answer`."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        content = None if body is None else msgspec.json.encode(body)
        typed = {**(headers or {}), **({"Content-Type": "application/json"} if content else {})}
        return await self.answer(
            lambda: self.client.request(method, path, content=content, params=given, headers=typed), tries
        )

    async def answer(self, send: Callable[[], Awaitable[httpx.Response]], tries: int) -> httpx.Response:
        """What comes of `send`, which is called again as long as the server is away.

        Raises:
            StoreUnavailable: it does not answer.
            PerdureError: what the server's problem stands for.
        """
        while True:
            tries -= 1
            try:
                answer = await send()
            except self._broken as error:
                if not tries:
                    raise StoreUnavailable(
                        f"the server {self._url} does not answer: {error}; is 'perdure serve' running there?"
                    ) from None
            else:
                if answer.status_code < 400:
                    return answer
                if answer.status_code != 503 or not tries:
                    raise _error(answer)
            await asyncio.sleep(_PAUSE)

    async def events(self) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """What happens, each with its position; a connection that breaks is made again, and nothing is left out."""
        last, pause = "", 0.0
        while True:
            await asyncio.sleep(pause)
            pause = _AGAIN
            try:
                async with self.client.stream("GET", "/v1/events", headers={"Last-Event-ID": last}) as answer:
                    if answer.status_code >= 400:
                        await answer.aread()
                        raise _error(answer)
                    async for line in answer.aiter_lines():
                        name, _, text = line.partition(": ")
                        if name == "id":
                            last = text
                        elif name == "data" and text.startswith("{"):
                            yield last, json.loads(text)
            except self._broken:
                continue


def _error(answer: httpx.Response) -> PerdureError:
    """The error that a problem document stands for: the exit code is the same as on a store."""
    try:
        told = answer.json()
        kind, detail = KINDS.get(told["type"].rpartition("/")[2]), told["detail"]
    except (ValueError, LookupError, AttributeError, TypeError):
        return StoreUnavailable(
            f"{answer.url} answers {answer.status_code}, and not as Perdure; check --server"
        )
    error = kind.errors[0] if kind is not None and kind.errors else PerdureError
    if issubclass(error, RetryAfter):
        return error(float(answer.headers.get("retry-after", 1)), detail)
    return error(detail)
