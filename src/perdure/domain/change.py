"""What a change feed tells: a document came, changed or went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Self, TypeAlias

import msgspec

from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.job import DEFAULT_TENANT
from perdure.domain.record import Json, Record

Marks: TypeAlias = Mapping[str, Json]


class Action(StrEnum):
    """What happened to a document."""

    UPSERT = "upsert"
    DELETE = "delete"


class Change(Record):
    """One document as it now is, or that it is gone.

    Attributes:
        version: grows with each change of the document; None: the source numbers none, and the order of its events has to do.
        etag: tells one state of the document from another, where there is no `version`.
        text, path: the content of an upsert, or the file that holds it. A delete with a path takes away only what was submitted before
            its reader was last known to be the only one; one that stalled, and wakes late, then harms nothing.
        looked_up: the content was looked up after the change. Told again it may be newer, and then a later event tells of that.
        name: of the content; decides the parser, where `media_type` does not.
        at: when it changed, in seconds since 1970 by the source's clock; 0: unknown.
    """

    action: Action
    document_id: str
    tenant: str = DEFAULT_TENANT
    namespace: str = DEFAULT_NAMESPACE
    version: int | None = None
    etag: str = ""
    text: str | None = None
    path: str | None = None
    name: str | None = None
    media_type: str | None = None
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)
    at: float = 0.0
    looked_up: bool = False

    @property
    def document(self) -> tuple[str, str, str]:
        """Whose change it is."""
        return self.tenant, self.namespace, self.document_id


class Poison(Record):
    """An event that can't be carried out, whatever is done again.

    Attributes:
        id: the same for the same event.
        reason: what was expected and what came.
        event: as the source gave it, shortened where it is large. change: what it asked for, where it could be read at all.
    """

    id: str
    reason: str
    event: str = ""
    change: Change | None = None


class Batch(Record):
    """Events in the order of the source.

    Attributes:
        marks: what the feed must find again once all of these are durable: key → JSON (at most 1 MB); None removes the key.
        note: what operators must know, e.g. that a lost position made it scan everything.
    """

    changes: tuple[Change, ...] = ()
    poison: tuple[Poison, ...] = ()
    marks: Marks = msgspec.field(default_factory=dict)
    note: str = ""

    @classmethod
    def of(cls, told: Iterable[Change | Poison], marks: Marks | None = None, note: str = "") -> Self:
        """Part what was told into changes and what can't be carried out."""
        told = tuple(told)
        return cls(
            changes=tuple(one for one in told if isinstance(one, Change)),
            poison=tuple(one for one in told if isinstance(one, Poison)),
            marks=marks or {},
            note=note,
        )


def facts(fields: Mapping[str, Any]) -> dict[str, Json]:
    """What the fields of a source's record become as metadata, that filters understand: texts, numbers and truth values as they
    are, anything else as text.
    """
    return {
        name: value if isinstance(value, str | int | float) else str(value) for name, value in fields.items()
    }


def last_of_each(changes: tuple[Change, ...]) -> list[Change]:
    """Each document once, as it last was; a newer version wins over an older one, whatever their order."""
    kept: dict[tuple[str, str, str], Change] = {}
    for change in changes:
        before = kept.get(change.document)
        older = before and None not in (before.version, change.version) and _newer(before, change)
        if not older:
            kept.pop(change.document, None)
            kept[change.document] = change
    return list(kept.values())


def _newer(one: Change, other: Change) -> bool:
    return (one.version or 0) > (other.version or 0)
