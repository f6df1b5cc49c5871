"""The queues of the Service Bus for tests: locks, deliveries, dead letters, sessions."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from azure.servicebus._pyamqp._encode import encode_payload
from azure.servicebus._pyamqp.message import Header, Message


@dataclass
class Kept:
    """A message of a queue."""

    sequence: int
    message: Message
    enqueued: float
    deliveries: int = 0
    locked_until: float = 0.0
    lock: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def session(self) -> str | None:
        """Of which it is."""
        group = self.message.properties.group_id if self.message.properties else None
        return group.decode() if isinstance(group, bytes) else group


class Queue:
    """One queue, or the dead letters of one."""

    def __init__(self, lock_seconds: float, most: int, sessions: bool, dead: Queue | None) -> None:
        self.lock_seconds, self.most, self.sessions, self.dead = lock_seconds, most, sessions, dead
        self.kept: list[Kept] = []
        self.opened: set[str] = set()
        self.renewed = 0
        self._numbers = count(1)

    def put(self, message: Message) -> None:
        """Take a message in."""
        self.kept.append(Kept(next(self._numbers), message, time.time()))

    def expire(self) -> None:
        """All locks are over, as after a long time."""
        for kept in self.kept:
            if not self.sessions:
                kept.locked_until = min(kept.locked_until, 1.0)

    def lock_next(self, session: str | None) -> Kept | None:
        """The next message that nobody holds."""
        now = time.time()
        for kept in list(self.kept):
            if kept.locked_until > now or (self.sessions and kept.session != session):
                continue
            if kept.locked_until and not self._failed(kept):
                continue
            kept.locked_until, kept.lock = now + self.lock_seconds, uuid.uuid4()
            return kept
        return None

    def _failed(self, kept: Kept) -> bool:
        """One delivery more came to nothing; False: that was the last."""
        kept.locked_until = 0.0
        kept.deliveries += 1
        if kept.deliveries >= self.most:
            self._bury(kept, "MaxDeliveryCountExceeded", "it could not be consumed")
            return False
        return True

    def _bury(self, kept: Kept, reason: str, description: str) -> None:
        assert self.dead is not None
        self.kept.remove(kept)
        told = dict(kept.message.application_properties or {}) | {
            b"DeadLetterReason": reason,
            b"DeadLetterErrorDescription": description,
        }
        self.dead.put(kept.message._replace(application_properties=told))

    def sections(self, kept: Kept) -> Message:
        """As it is delivered."""
        annotations: dict[Any, Any] = {
            b"x-opt-sequence-number": {"TYPE": "LONG", "VALUE": kept.sequence},
            b"x-opt-enqueued-time": {"TYPE": "TIMESTAMP", "VALUE": int(kept.enqueued * 1000)},
            b"x-opt-locked-until": {"TYPE": "TIMESTAMP", "VALUE": int(kept.locked_until * 1000)},
        }
        header = Header(delivery_count=kept.deliveries)
        return kept.message._replace(header=header, message_annotations=annotations)

    def settle(self, kept: Kept, state: dict[str, Any], session: str | None) -> bool:
        """False: the lock was lost."""
        if kept not in self.kept or (session is None and kept.locked_until <= time.time()):
            return False
        if "accepted" in state:
            self.kept.remove(kept)
        elif "rejected" in state:
            info = state["rejected"][0][2]
            self._bury(kept, info[b"DeadLetterReason"].decode(), info[b"DeadLetterErrorDescription"].decode())
        elif "modified" in state:
            self._failed(kept)
        else:
            kept.locked_until = 0.0
        return True

    def open_session(self, wanted: str | None) -> str | None:
        """Lock a session that has messages; None: there is none."""
        for kept in self.kept:
            name = kept.session
            if name is not None and name not in self.opened and wanted in (None, name):
                self.opened.add(name)
                return name
        return None

    def close_session(self, name: str) -> None:
        """Give it free; its messages come again."""
        self.opened.discard(name)
        for kept in list(self.kept):
            if kept.session == name and kept.locked_until:
                self._failed(kept)

    def manage(self, operation: str, asked: Any) -> tuple[int, Any]:
        """What `$management` does: a status, and the body of the answer."""
        until = {"TYPE": "TIMESTAMP", "VALUE": int((time.time() + self.lock_seconds) * 1000)}
        if operation.endswith(":renew-session-lock"):
            self.renewed += 1
            return 200, {"expiration": until}
        if operation.endswith(":renew-lock"):
            return self._renew(asked[b"lock-tokens"], until)
        if not operation.endswith(":peek-message"):
            return 410, None
        found = [one for one in self.kept if one.sequence >= asked[b"from-sequence-number"]]
        if not found:
            return 204, None
        shown = [
            {"message": bytes(encode_payload(bytearray(), self.sections(one)))}
            for one in found[: asked[b"message-count"]]
        ]
        return 200, {"messages": shown}

    def _renew(self, tokens: list[uuid.UUID], until: dict[str, Any]) -> tuple[int, Any]:
        held = [one for one in self.kept if one.lock in tokens and one.locked_until > time.time()]
        if len(held) < len(tokens):
            return 410, None
        for one in held:
            one.locked_until = time.time() + self.lock_seconds
        self.renewed += len(held)
        return 200, {"expirations": [until for _ in tokens]}
