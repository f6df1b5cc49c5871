"""What a queue's message says: one event as JSON."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from perdure.domain.change import Action, Change, Poison
from perdure.domain.record import Json, Record

EXPECTED: Final = '{"id": "leave.md", "text": "…"} or {"id": "leave.md", "action": "delete"}'


class Event(Record):
    """What a message says; fields that are not here are passed over.

    Attributes:
        id: of the document. text: its content, if it was not deleted.
        version: grows with each change of the document; None: the order of the messages has to do.
        tenant, namespace: None: the feed's own. at: when it changed, in seconds since 1970. looked_up: as of `Change`.
    """

    id: str
    action: Action = Action.UPSERT
    text: str | None = None
    version: int | None = None
    tenant: str | None = None
    namespace: str | None = None
    name: str | None = None
    media_type: str | None = None
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)
    at: float = 0.0
    looked_up: bool = False


class Whose(NamedTuple):
    """Where documents go whose message does not say it, and the tenants that a message may name."""

    tenant: str
    namespace: str
    tenants: tuple[str, ...] = ()


def read_event(body: bytes, message: str, whose: Whose, version: int | None = None) -> Change | Poison:
    """The change that a message tells of.

    Args:
        message: tells this message from every other of the queue. version: of the document, where the event names none.
    """
    poison: dict[str, Any] = {
        "id": sha256(body).hexdigest()[:32],
        "event": body[:2000].decode(errors="replace"),
    }
    try:
        event = msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Poison(reason=f"message {message} is no event: {error}; expected {EXPECTED}", **poison)
    change = Change(
        action=event.action,
        document_id=event.id,
        tenant=event.tenant or whose.tenant,
        namespace=event.namespace or whose.namespace,
        version=version if event.version is None else event.version,
        etag=message if event.version is None else "",
        text=event.text,
        name=event.name,
        media_type=event.media_type,
        metadata=event.metadata,
        at=event.at,
        looked_up=event.looked_up,
    )
    if change.tenant not in (whose.tenant, *whose.tenants):
        reason = f"tenant {change.tenant!r} is none of this feed's; name it by tenants=… in its URL, then replay this"
        return Poison(reason=reason, change=change, **poison)
    return change
