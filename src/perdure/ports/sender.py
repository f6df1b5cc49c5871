"""What carries a body to an address that a user named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from perdure.domain.errors import PerdureError
from perdure.domain.record import Record


class SendFailed(PerdureError):
    """Nothing came back, or nothing was sent: trying again may help."""


class Answer(Record):
    """What the other side said.

    Attributes:
        text: the beginning of its body. headers: names in lower case.
    """

    status: int
    text: str
    headers: dict[str, str] = msgspec.field(default_factory=dict)


class Sender(Protocol):
    """The contract."""

    def check(self, url: str) -> None:
        """Refuse at once what could never be sent to. The address behind a name is checked at each `post`.

        Raises:
            InvalidInput: it is no address, or not a public one.
        """
        ...

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send it once. Redirects are not followed.

        Raises:
            SendFailed: no answer came in time, or the address is not public.
        """
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...
