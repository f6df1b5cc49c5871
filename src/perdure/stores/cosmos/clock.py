"""The store's clock, and what its answers cost: both are read off the headers of every answer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, Final

from azure.core.pipeline.transport import AioHttpTransport

WINDOW: Final = 300.0
"""Seconds for which a reading counts, since clocks drift."""

STALE: Final = 10.0
"""Seconds without an answer after which the clock is read anew."""


class StoreClock:
    """Follows the service by the `Date` of its answers.

    The header has whole seconds and was written before it came here, so each answer says: it is at least this late. The
    latest of these is at most a second behind, under traffic a few milliseconds, and never ahead: a lease that is
    over by this clock is over by the service's.
    """

    def __init__(self) -> None:
        self._ahead, self._read = float("-inf"), float("-inf")
        """how far the service is ahead of this machine's monotonic clock, and when that was read"""
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._heard = float("-inf")

    @property
    def stale(self) -> bool:
        """Whether nothing was heard for a while."""
        return time.monotonic() - self._heard > STALE

    def hear(self, date: str) -> None:
        """Take in the `Date` of an answer that just came."""
        here = self._heard = time.monotonic()
        ahead = parsedate_to_datetime(date).timestamp() - here
        if ahead > self._ahead or here - self._read > WINDOW:
            self._ahead, self._read = ahead, here

    def now(self) -> datetime:
        """The service's time; never goes back."""
        told = datetime.fromtimestamp(self._ahead + time.monotonic(), UTC)
        self._latest = max(self._latest, told)
        return self._latest


class Charge:
    """What one kind of call has cost so far.

    Attributes:
        requests: answers of the service.
        units: request units that these were charged with.
        throttled: answers that said "too many requests" (429); each was asked again after the time that it named.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.units = 0.0
        self.throttled = 0


CALL: Final[ContextVar[str]] = ContextVar("perdure_cosmos_call", default="other")
"""Which call of the store is under way."""


class ListeningTransport(AioHttpTransport):  # type: ignore[misc]  # azure-core exports it lazily, without its type
    """The driver's own, which also counts and listens to what each answer's headers tell."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = StoreClock()
        self.charges: defaultdict[str, Charge] = defaultdict(Charge)

    async def send(self, request: Any, **options: Any) -> Any:
        """Send a request; see the driver."""
        body = request.data
        if isinstance(
            body, bytes
        ):  # aiohttp would warn that large ones, written at once, hold up the event loop
            request.data = BytesIO(body)
        try:
            answer = await super().send(request, **options)
        finally:
            request.data = body  # for when the driver tries again
        headers: Mapping[str, str] = answer.headers
        charge = self.charges[CALL.get()]
        charge.requests += 1
        charge.units += float(headers.get("x-ms-request-charge", 0))
        charge.throttled += answer.status_code == 429
        if date := headers.get("Date"):
            self.clock.hear(date)
        return answer
