"""Sends the events of a feed on, to a queue of Azure Service Bus, where another feed reads them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

from perdure.domain.change import Change, Poison
from perdure.domain.errors import StoreUnavailable
from perdure.domain.ids import uuid5


class ServiceBusBridge:
    """One queue, or topic. The document's id is the session of its messages, and the same event has the same message id: a queue that
    looks for duplicates passes over what a crash makes the bridge send again.
    """

    def __init__(self, connection: str, queue: str) -> None:
        self._connection, self._queue = connection, queue

    async def pending(self, tenants: Sequence[str]) -> int:
        """None: what the queue can't take, it refuses."""
        return 0

    async def take(self, changes: Sequence[Change]) -> list[Poison]:
        """Send them one by one, in order."""
        try:
            async with (
                ServiceBusClient.from_connection_string(self._connection, retry_total=0) as client,
                client.get_queue_sender(self._queue) as sender,
            ):
                reasons = [await self._send(sender, change) for change in changes]
        except (AzureError, ValueError) as error:
            what = " ".join(str(error).split())[:300]
            raise StoreUnavailable(f"queue {self._queue!r} of Service Bus takes nothing: {what}") from None
        return [
            Poison(id=_id_of(change), reason=reason, event=repr(change)[:2000], change=change)
            for change, reason in zip(changes, reasons, strict=True)
            if reason
        ]

    async def _send(self, sender: ServiceBusSender, change: Change) -> str:
        """Why it can't be sent, ever; empty: it was."""
        if change.path is not None:
            return "a bridge carries texts, not files; follow the folder itself by 'perdure feed run'"
        try:
            await sender.send_messages(
                ServiceBusMessage(
                    _event(change),
                    message_id=_id_of(change),
                    session_id=uuid5(*change.document)
                    if len(change.document_id) > 128
                    else change.document_id,
                    content_type="application/json",
                )
            )
        except MessageSizeExceededError as error:
            return f"larger than a message of this queue may be: {error}"
        return ""


def _event(change: Change) -> bytes:
    told = msgspec.to_builtins(change)
    told["id"] = told.pop("document_id")
    del told["namespace"]  # whoever reads the queue says where documents go
    return msgspec.json.encode(
        {name: value for name, value in told.items() if value not in (None, "", {}, 0.0)}
    )


def _id_of(change: Change) -> str:
    return uuid5(*change.document, str(change.action), str(change.version), change.etag)
