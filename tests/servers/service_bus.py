"""A small Azure Service Bus for tests: AMQP 1.0 on a real socket, as far as the official SDK speaks it, with the SDK's own codec."""

from __future__ import annotations

import asyncio
import struct
import time
from contextlib import suppress
from typing import Any, Final

from azure.servicebus._pyamqp import outcomes, performatives
from azure.servicebus._pyamqp._decode import decode_frame, decode_payload
from azure.servicebus._pyamqp._encode import encode_frame, encode_payload
from azure.servicebus._pyamqp.endpoints import Source, Target
from azure.servicebus._pyamqp.error import AMQPError
from azure.servicebus._pyamqp.message import Message, Properties

from tests.servers.service_bus_queue import Kept, Queue

SESSION_FILTER: Final = b"com.microsoft:session-filter"
EPOCH: Final = 621355968000000000
LOST: Final = b"com.microsoft:message-lock-lost"
BATCH: Final = 0x80013700
WINDOW: Final = 65536
LARGEST_MESSAGE: Final = 1_048_576
LARGEST: Final = 60_000
"""Of a piece of a message in one frame."""


def performative(kind: Any, **given: Any) -> Any:
    """A frame, of which what is not given is null."""
    return kind(**{name: given.get(name) for name in kind._fields})


class Link:
    """One end of a link; `queue` is what it reads from or writes to, None for `$cbs` and `$management`."""

    def __init__(self, wire: Wire, channel: int, attach: list[Any], address: str) -> None:
        self.wire, self.channel, self.name, self.handle = wire, channel, attach[0], attach[1]
        self.receives, self.address = bool(attach[2]), address
        self.queue: Queue | None = None
        self.session: str | None = None
        self.credit = self.count = 0
        self.pieces = bytearray()
        self.out: dict[int, Kept] = {}

    async def pump(self) -> None:
        """Deliver what waits, as far as the credit goes."""
        if self.queue is None or not self.receives:
            return
        while self.credit > 0 and (kept := self.queue.lock_next(self.session)) is not None:
            self.credit -= 1
            await self.transfer(self.queue.sections(kept), kept)

    async def transfer(self, message: Message, kept: Kept | None = None) -> None:
        """Send one message, in pieces if it is large."""
        payload = bytes(encode_payload(bytearray(), message))
        number, self.wire.delivery = self.wire.delivery, self.wire.delivery + 1
        self.count += 1
        if kept is not None:
            self.out[number] = kept
        tag = kept.lock.bytes_le if kept else struct.pack(">Q", number)
        for at in range(0, len(payload), LARGEST):
            frame = performative(
                performatives.TransferFrame,
                handle=self.handle,
                delivery_id=number if at == 0 else None,
                delivery_tag=tag if at == 0 else None,
                message_format=0,
                settled=kept is None,
                more=at + LARGEST < len(payload),
                payload=payload[at : at + LARGEST],
            )
            await self.wire.send(self.channel, frame)


class Wire:
    """One connection."""

    def __init__(self, bus: ServiceBus, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.bus, self.reader, self.writer = bus, reader, writer
        self.links: dict[tuple[int, int], Link] = {}
        self.delivery = self.incoming = 0

    async def send(self, channel: int, frame: Any, kind: bytes = b"\x00") -> None:
        """Write one frame."""
        header, body = encode_frame(frame, kind)
        self.writer.write(header + struct.pack(">H", channel) + bytes(body or b""))
        await self.writer.drain()

    async def _frame(self) -> tuple[int, int, list[Any]] | None:
        size, offset, _, channel = struct.unpack(">IBBH", await self.reader.readexactly(8))
        body = await self.reader.readexactly(size - 8)
        if size == 8:
            return None  # it only says that it lives
        kind, fields = decode_frame(memoryview(body)[offset * 4 - 8 :])
        return channel, kind, fields

    async def serve(self) -> None:
        """Until it ends."""
        self.writer.write(await self.reader.readexactly(8))
        mechanisms = performatives.SASLMechanism([b"ANONYMOUS", b"EXTERNAL", b"MSSBCBS"])
        await self.send(0, mechanisms, b"\x01")
        await self._frame()
        await self.send(0, performatives.SASLOutcome(0, None), b"\x01")
        self.writer.write(await self.reader.readexactly(8))
        while True:
            if (frame := await self._frame()) is None:
                continue
            channel, kind, fields = frame
            if kind == 0x18:
                await self.send(0, performatives.CloseFrame(None))
                return
            await self._handle(channel, kind, fields)

    async def _handle(self, channel: int, kind: int, fields: list[Any]) -> None:
        if kind == 0x10:
            opened = performative(
                performatives.OpenFrame, container_id="peer", max_frame_size=WINDOW, channel_max=1000
            )
            await self.send(0, opened)
        elif kind == 0x11:
            await self.send(
                channel, performatives.BeginFrame(channel, 0, WINDOW, WINDOW, 1000, None, None, None)
            )
        elif kind == 0x12:
            await self._attach(channel, fields)
        elif kind == 0x13 and fields[4] is not None and (link := self.links.get((channel, fields[4]))):
            link.credit = (fields[5] or 0) + (fields[6] or 0) - link.count if link.receives else 0
            await link.pump()
        elif kind == 0x14 and (link := self.links.get((channel, fields[0]))):
            await self._incoming(link, fields)
        elif kind == 0x15:
            await self._settled(channel, fields)
        elif kind == 0x16:
            await self._detach(channel, fields[0])
        elif kind == 0x17:
            await self.send(channel, performatives.EndFrame(None))

    async def _attach(self, channel: int, attach: list[Any]) -> None:
        end = attach[5] if attach[2] else attach[6]
        address = end[0].decode()
        link = Link(
            self, channel, attach, address.split("://")[-1].partition("/")[2] if "://" in address else address
        )
        self.links[channel, link.handle] = link
        filters = (end[7] if attach[2] and len(end) > 7 else None) or {}
        properties: dict[Any, Any] = {}
        if not link.address.endswith("$management") and link.address != "$cbs":
            link.queue = self.bus.queues[link.address]
            if link.receives and SESSION_FILTER in filters:
                wanted = filters[SESSION_FILTER]
                patience = ((attach[13] or {}).get(b"com.microsoft:timeout") or 60_000) / 1000
                link.session = await self._session(link.queue, wanted and bytes(wanted).decode(), patience)
                if link.session is None:
                    await self._refuse(link, attach)
                    return
                filters = {SESSION_FILTER: link.session.encode()}
                locked = int((time.time() + link.queue.lock_seconds) * 10_000_000) + EPOCH
                properties[b"com.microsoft:locked-until-utc"] = {"TYPE": "LONG", "VALUE": locked}
        await self.send(channel, self._answer(attach, filters, properties))
        if not link.receives:
            await self._grant(link)

    def _answer(self, attach: list[Any], filters: Any, properties: Any, source: bool = True) -> Any:
        given = attach[5][0] if attach[5] else None, attach[6][0] if attach[6] else None
        return performative(
            performatives.AttachFrame,
            name=attach[0],
            handle=attach[1],
            role=not attach[2],
            send_settle_mode=attach[3],
            rcv_settle_mode=attach[4],
            source=performative(Source, address=given[0], filters=filters or None) if source else None,
            target=performative(Target, address=given[1]),
            initial_delivery_count=0,
            max_message_size=LARGEST_MESSAGE,
            properties=properties or None,
        )

    async def _session(self, queue: Queue, wanted: str | None, patience: float) -> str | None:
        until = time.monotonic() + patience
        while True:
            if (session := queue.open_session(wanted)) is not None or time.monotonic() >= until:
                return session
            await asyncio.sleep(0.02)

    async def _refuse(self, link: Link, attach: list[Any]) -> None:
        await self.send(link.channel, self._answer(attach, None, None, source=False))
        error = AMQPError(
            condition=b"com.microsoft:timeout", description="no session has a message", info=None
        )
        await self.send(link.channel, performatives.DetachFrame(link.handle, True, error))
        self.links.pop((link.channel, link.handle), None)

    async def _grant(self, link: Link) -> None:
        flow = performative(
            performatives.FlowFrame,
            next_incoming_id=self.incoming,
            incoming_window=WINDOW,
            next_outgoing_id=self.delivery,
            outgoing_window=WINDOW,
            handle=link.handle,
            delivery_count=link.count,
            link_credit=1000,
        )
        await self.send(link.channel, flow)

    async def _incoming(self, link: Link, fields: list[Any]) -> None:
        self.incoming += 1
        link.pieces += bytes(fields[11])
        if fields[1] is not None:
            self.first = fields
        if fields[5]:
            return
        body, link.pieces = bytes(link.pieces), bytearray()
        link.count += 1
        if self.bus.refuse_sends and link.queue is not None:
            raise ConnectionResetError
        number = self.first[1]
        message: Any = decode_payload(memoryview(body))
        outcome: Any = outcomes.Accepted()
        if len(body) > LARGEST_MESSAGE:
            error = AMQPError(condition=b"amqp:link:message-size-exceeded", description="", info=None)
            outcome = outcomes.Rejected(error=error)
        elif link.queue is not None:
            for one in message.data or [] if self.first[3] == BATCH else [body]:
                link.queue.put(decode_payload(memoryview(one)))
        if not self.first[4]:
            done = performatives.DispositionFrame(True, number, number, True, outcome, None)
            await self.send(link.channel, done)
        await self._grant(link)
        if link.queue is None:
            await self._respond(link, message)
        await self.bus.pump()

    async def _respond(self, link: Link, message: Any) -> None:
        """The answer to what `$cbs` or `$management` were asked."""
        asked = message.application_properties or {}
        if link.address == "$cbs":
            status: dict[Any, Any] = {"status-code": 202, "status-description": "OK"}
            value: Any = None
        else:
            queue = self.bus.queues[link.address.removesuffix("/$management")]
            code, value = queue.manage(asked[b"operation"].decode(), message.value)
            status = {"statusCode": code, "statusDescription": "OK" if code < 300 else "lock lost"}
            if code == 410:
                status["errorCondition"] = {"TYPE": "SYMBOL", "VALUE": LOST}
        answer = Message(
            properties=Properties(
                correlation_id=message.properties.message_id if message.properties else None
            ),
            application_properties=status,
            value=value,
        )
        for other in self.links.values():
            if other.receives and other.address == link.address:
                await other.transfer(answer)
                return

    async def _settled(self, channel: int, fields: list[Any]) -> None:
        first, last, state = fields[1], fields[2] if fields[2] is not None else fields[1], fields[4] or {}
        for number in range(first, last + 1):
            link = next((one for one in self.links.values() if number in one.out), None)
            echoed: Any = ECHO[next(iter(state))]
            if link is None or link.queue is None or not self._settles(link, number, state):
                echoed = outcomes.Rejected(
                    error=AMQPError(condition=LOST, description="The lock is lost.", info=None)
                )
            if not fields[3]:
                done = performatives.DispositionFrame(False, number, number, True, echoed, None)
                await self.send(channel, done)
        await self.bus.pump()

    def _settles(self, link: Link, number: int, state: dict[str, Any]) -> bool:
        assert link.queue is not None
        return link.queue.settle(link.out.pop(number), state, link.session)

    async def _detach(self, channel: int, handle: int) -> None:
        link = self.links.pop((channel, handle), None)
        if link is not None:
            self._leave(link)
        await self.send(channel, performatives.DetachFrame(handle, True, None))

    def _leave(self, link: Link) -> None:
        if link.queue is not None and link.session is not None:
            link.queue.close_session(link.session)

    def gone(self) -> None:
        """The connection ended: its sessions are free; the locks of single messages go on until they are over."""
        for link in self.links.values():
            self._leave(link)
        self.links.clear()


ECHO: Final = {
    "accepted": outcomes.Accepted(),
    "rejected": outcomes.Rejected(error=None),
    "released": outcomes.Released(),
    "modified": outcomes.Modified(True, False, None),
}


class ServiceBus:
    """The server; `refuse_sends` cuts the connection of whoever sends to a queue."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.refuse_sends = False
        self._wires: set[Wire] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    def queue(self, name: str, *, sessions: bool = False, lock: float = 30.0, most: int = 10) -> Queue:
        """A new queue, and its dead letters.

        Args:
            lock: seconds. most: deliveries, after which a message is a dead letter.
        """
        dead = Queue(lock, 1_000_000, False, None)
        self.queues[f"{name}/$DeadLetterQueue"] = dead
        self.queues[name] = made = Queue(lock, most, sessions, dead)
        return made

    async def start(self, port: int = 0) -> ServiceBus:
        """Listen; 0: on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**21)
        self._tasks.add(asyncio.create_task(self._tick()))
        return self

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connection_string(self) -> str:
        """As the portal of Azure gives it."""
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName=k;SharedAccessKey=c2VjcmV0;"
            "UseDevelopmentEmulator=true"
        )

    async def pump(self) -> None:
        """Deliver what waits."""
        for wire in list(self._wires):
            for link in list(wire.links.values()):
                with suppress(OSError):
                    await link.pump()

    def cut(self) -> None:
        """All who read queues died: they get nothing any more, and what they say is not heard."""
        for wire in self._wires:
            if any(link.receives and link.queue is not None for link in wire.links.values()):
                wire.gone()

    async def stop(self) -> None:
        """End it."""
        for wire in list(self._wires):
            wire.writer.close()
        for task in self._tasks:
            task.cancel()
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            await self.pump()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(self, reader, writer)
        self._wires.add(wire)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await wire.serve()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            wire.gone()
            self._wires.discard(wire)
            self._tasks.discard(task)
            writer.close()
