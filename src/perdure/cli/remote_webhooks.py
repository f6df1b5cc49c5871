"""What `perdure webhooks …` asks of a running server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from perdure.wire import Delivery, NewWebhook, Webhook


class RemoteWebhooks:
    """As `Webhooks`, with the things as they look on the wire.

    Args:
        call: sends a request and reads its JSON: (method, path, body, query=…).
    """

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    async def subscribe(
        self, url: str, *, tenant: str, states: Sequence[str], kinds: Sequence[str]
    ) -> NewWebhook:
        """See `Webhooks.subscribe`."""
        body = {"url": url, "states": states, "kinds": kinds}
        return msgspec.convert(await self._call("POST", "/v1/webhooks", body), NewWebhook)

    async def subscriptions(self, _tenant: str) -> list[Webhook]:
        """See `Webhooks.subscriptions`."""
        return msgspec.convert((await self._call("GET", "/v1/webhooks"))["items"], list[Webhook])

    async def unsubscribe(self, webhook_id: str, *, tenant: str) -> None:
        """See `Webhooks.unsubscribe`."""
        await self._call("DELETE", f"/v1/webhooks/{quote(webhook_id, safe='')}")

    async def deliveries(self, webhook_id: str, *, tenant: str, limit: int) -> list[Delivery]:
        """See `Webhooks.deliveries`."""
        path = f"/v1/webhooks/{quote(webhook_id, safe='')}/deliveries"
        return msgspec.convert(
            (await self._call("GET", path, query={"limit": limit}))["items"], list[Delivery]
        )

    async def replay(self, delivery_id: str, **_who: str) -> Delivery:
        """See `Webhooks.replay`."""
        path = f"/v1/webhooks/deliveries/{quote(delivery_id, safe='')}/replay"
        return msgspec.convert(await self._call("POST", path), Delivery)

    async def close(self) -> None:
        """The connection is the server's."""
