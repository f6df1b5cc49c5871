"""Who may do what: scopes, keys, and callers whose credential was checked."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record


class Scope(StrEnum):
    """What a credential allows; each includes those before it."""

    READ = "read"
    """Look, follow and search."""
    WRITE = "write"
    """Also submit, change, answer, cancel and remove."""
    ADMIN = "admin"
    """Also see what concerns the server as a whole (`/metrics`)."""


ORDER: Final = tuple(Scope)


class Caller(Record):
    """Whoever calls, after the door.

    Attributes:
        tenant: whose jobs and documents are meant, in all that follows.
        scope: the widest that the credential has.
        actor: who acts, for histories.
    """

    tenant: str
    scope: Scope = Scope.ADMIN
    actor: str = "user"


class Secret(Record):
    """One of the secrets of a key, by its hash alone.

    Attributes:
        sha256: hexadecimal, of 256 random bits, which no dictionary holds: a slow hash would protect nothing more.
        until: when it ends; None: with its key.
    """

    sha256: str
    until: datetime | None = None


class Key(Record):
    """An API key as it is kept: enough to recognise it, not enough to use it.

    Attributes:
        tenant: whose things it opens; None: any tenant's, which each call names (an operator's, or a gateway's).
        secrets: more than one while a rotation overlaps.
        rate: calls a second that each server process allows, with a burst of two seconds' worth; None: no limit.

    Raises:
        InvalidInput: on construction, naming the field.
    """

    id: str
    name: str
    tenant: str | None
    scope: Scope
    secrets: tuple[Secret, ...]
    created_at: datetime
    created_by: str = ""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        check.name(self.name, "the key's name")
        if self.tenant is not None:
            check.name(self.tenant, "tenant")
        if self.rate is not None and not 0 < self.rate <= 1_000_000:
            raise InvalidInput(f"rate is {self.rate}; expected more than 0 calls a second, or none")

    def ended(self, now: datetime) -> str:
        """Why the key is good for nothing any more; empty while it is."""
        if self.revoked_at is not None:
            return "was revoked"
        return "has expired" if self.expires_at is not None and self.expires_at <= now else ""
