"""A queue of Azure Service Bus, or a subscription of a topic; each message is one event as JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from azure.core.exceptions import AzureError
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    SessionLockLostError,
)

from perdure.domain.change import Batch, Change, Poison
from perdure.domain.errors import StoreError, StoreUnavailable
from perdure.domain.record import Json
from perdure.feeds.events import Whose, read_event
from perdure.ports.change_feed import Recall

DEAD: Final = "dead"
UNREADABLE: Final = "unreadable"
"""Why a message was made a dead letter here; it is parked already."""
PATIENCE: Final = 0.5
"""Seconds that an empty queue is waited for."""
AT_ONCE: Final = 100
"""Messages that are locked at the same time."""
SESSIONS: Final = 8
"""Sessions that are read at the same time, each on a connection of its own."""
LOOK: Final = 60.0
"""Seconds between looks at the dead letters."""
_LOST: Final = (MessageLockLostError, SessionLockLostError, MessageAlreadySettled)
_REFUSED: Final = (
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
)


class Held(NamedTuple):
    """A message that is locked for this reader. poison: why it can't be read."""

    message: ServiceBusReceivedMessage
    receiver: ServiceBusReceiver
    poison: Poison | None


class ServiceBusFeed:
    """One queue. A message stays locked until its job is durable, and is completed then; what can't be read becomes a dead letter.

    The service makes a message a dead letter that came too often, because its reader died each time. Those are parked here as well.

    Args:
        queue: its name, or that of a topic with the name of its subscription behind a slash.
        sessions: the queue requires them, e.g. one for each document; then each is read by one reader, in order.
    """

    def __init__(self, connection: str, queue: str, whose: Whose, *, sessions: bool = False) -> None:
        self._connection, self._queue, self._whose, self._sessions = connection, queue, whose, sessions
        self._client: ServiceBusClient | None = None
        self._receivers: list[ServiceBusReceiver] = []
        self._held: list[Held] = []
        self._settling = asyncio.Event()
        self._renewal: asyncio.Task[None] | None = None
        self._look_at = 0.0

    def _receiver(self, **options: Any) -> ServiceBusReceiver:
        if self._client is None:
            # No tries of its own: the runner tries again, and says so.
            self._client = ServiceBusClient.from_connection_string(self._connection, retry_total=0)
        topic, _, subscription = self._queue.partition("/")
        if subscription:
            return self._client.get_subscription_receiver(topic, subscription, **options)
        return self._client.get_queue_receiver(topic, **options)

    async def read(self, recall: Recall, limit: int) -> Batch:
        """What waits, after half a second at most; now and then the dead letters too."""
        async with self._translated():
            await self._give_back()
            told, marks = await self._dead(recall, limit)
            for receiver in await self._ready():
                found = await receiver.receive_messages(min(limit, AT_ONCE), max_wait_time=PATIENCE)
                told += [self._hold(message, receiver) for message in found]
            if self._held:
                self._settling.clear()
                self._renewal = asyncio.create_task(self._renew())
        return Batch.of(told, marks)

    def _hold(self, message: ServiceBusReceivedMessage, receiver: ServiceBusReceiver) -> Change | Poison:
        told = self._read(message)
        self._held.append(Held(message, receiver, told if isinstance(told, Poison) else None))
        return told

    def _read(self, message: ServiceBusReceivedMessage) -> Change | Poison:
        """Of messages that name no version, the time of their coming is it."""
        number = message.sequence_number or 0
        came = message.enqueued_time_utc
        version = int(came.timestamp() * 1000) * 1000 + number % 1000 if came else None
        body = message.body
        content = body if isinstance(body, bytes) else b"".join(piece for piece in body if piece)
        return read_event(content, str(message.message_id or number), self._whose, version)

    async def _ready(self) -> list[ServiceBusReceiver]:
        """Those that messages may come from."""
        if self._sessions:
            found = await asyncio.gather(*(self._session() for _ in range(SESSIONS)), return_exceptions=True)
            self._receivers = [one for one in found if isinstance(one, ServiceBusReceiver)]
            if wrong := next((one for one in found if isinstance(one, BaseException)), None):
                raise wrong
        elif not self._receivers:
            self._receivers = [await self._receiver().__aenter__()]  # else its opening counts as patience
        return self._receivers

    async def _session(self) -> ServiceBusReceiver | None:
        receiver = self._receiver(session_id=NEXT_AVAILABLE_SESSION, max_wait_time=PATIENCE)
        try:
            return await receiver.__aenter__()
        except OperationTimeoutError:
            await receiver.close()
            return None

    async def _dead(self, recall: Recall, limit: int) -> tuple[list[Change | Poison], dict[str, Json]]:
        """Dead letters since the last look; they stay where they are."""
        if time.monotonic() < self._look_at:
            return [], {}
        at = int(str((await recall([DEAD])).get(DEAD, 1)))
        async with self._receiver(sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
            found = await receiver.peek_messages(limit, sequence_number=at)
        if not found:
            self._look_at = time.monotonic() + LOOK
            return [], {}
        told: list[Change | Poison] = [
            self._parked(message) for message in found if message.dead_letter_reason != UNREADABLE
        ]
        return told, {DEAD: (found[-1].sequence_number or at) + 1}

    def _parked(self, message: ServiceBusReceivedMessage) -> Poison:
        told = self._read(message)
        why = f"dead letter: {message.dead_letter_reason}: {message.dead_letter_error_description}"
        if isinstance(told, Poison):
            return Poison(id=told.id, reason=f"{why}; {told.reason}", event=told.event)
        return Poison(
            id=str(message.message_id or message.sequence_number),
            reason=why,
            event=repr(told)[:2000],
            change=told,
        )

    async def _renew(self) -> None:
        """Keep what is held until it is settled. A lock that is lost brings its message again, which changes nothing."""
        while not self._settling.is_set():
            for held in self._held:
                session = held.receiver.session
                renewed = session if self._sessions else held.message
                until = renewed.locked_until_utc
                if self._settling.is_set() or until is None or not _due(until, held.message):
                    continue
                with suppress(AzureError, ValueError):
                    await (
                        session.renew_lock()
                        if self._sessions
                        else held.receiver.renew_message_lock(held.message)
                    )
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._settling.wait()

    async def _ended(self) -> list[Held]:
        """What is held, once nothing renews it any more."""
        self._settling.set()
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            await renewal
        held, self._held = self._held, []
        return held

    async def settle(self, batch: Batch) -> None:
        """Complete what is durable, and make a dead letter of what can't be read."""
        async with self._translated():
            for held in await self._ended():
                with suppress(*_LOST):
                    if held.poison is None or held.poison.change is not None:
                        await held.receiver.complete_message(held.message)
                    else:
                        why = held.poison.reason[:4000]
                        await held.receiver.dead_letter_message(
                            held.message, reason=UNREADABLE, error_description=why
                        )
            await self._leave_sessions()

    async def _give_back(self) -> None:
        """Abandon what was not settled; it comes again at once."""
        for held in await self._ended():
            with suppress(AzureError, ValueError):
                await held.receiver.abandon_message(held.message)
        await self._leave_sessions()

    async def _leave_sessions(self) -> None:
        if self._sessions:
            receivers, self._receivers = self._receivers, []
            await asyncio.gather(*(receiver.close() for receiver in receivers))

    async def close(self) -> None:
        """Give back what was not settled, and disconnect."""
        with suppress(AzureError, ValueError, OSError):
            await self._give_back()
        receivers, self._receivers = self._receivers, []
        client, self._client = self._client, None
        self._look_at = 0.0
        for receiver in receivers:
            with suppress(AzureError, ValueError, OSError):
                await receiver.close()
        if client is not None:
            with suppress(AzureError, ValueError, OSError):
                await client.close()

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except (AzureError, ValueError) as error:
            await self.close()
            what = " ".join(str(error).split())[:300]
            if isinstance(error, _REFUSED):
                cure = "see that it is there, and that the key may listen to it"
                raise StoreError(f"Service Bus refuses queue {self._queue!r}: {what}; {cure}") from None
            raise StoreUnavailable(f"queue {self._queue!r} of Service Bus is out of reach: {what}") from None


def _due(until: datetime, message: ServiceBusReceivedMessage) -> bool:
    """Half of a lock, but at most ten seconds, is left."""
    came: datetime = message._received_timestamp_utc
    return until - datetime.now(UTC) < min((until - came) / 2, timedelta(seconds=10))
