"""Other systems are told what happens to jobs: by jobs, so that retries, history and dead letters are as with all work.

The log of all entries is the outbox: it was written with the change itself. One process at a time reads it and adds a delivery
job for each event that somebody subscribed to, under a key made of the two; then it keeps how far it came. Whoever takes over
begins there, and what it adds again is there already.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from perdure.core.context import Context
from perdure.core.events import Reader
from perdure.core.jobs import JobService
from perdure.domain import validation as check
from perdure.domain.errors import (
    Fatal,
    IllegalTransition,
    InvalidInput,
    NotFound,
    RetryAfter,
)
from perdure.domain.ids import parse_uuid, uuid5
from perdure.domain.job import Job, NewJob
from perdure.domain.log import JobEvent
from perdure.domain.query import JobFilter
from perdure.domain.record import Record
from perdure.domain.retry import RetryPolicy
from perdure.domain.state import TERMINAL, UNFINISHED, Event, JobState
from perdure.domain.value import Value
from perdure.ports.sender import Sender, SendFailed

log = logging.getLogger(__name__)

KIND: Final = "webhook"
RETRY: Final = RetryPolicy(max_attempts=34, base=5.0, factor=2.0, ceiling=3600.0, jitter=0.2)
"""Over about a day."""
KEPT: Final = timedelta(days=7)
"""How long a delivery can be looked up, and sent again."""

LATE: Final = timedelta(seconds=5)
"""By how much a process may be wrong about the store's clock: who subscribed is told nothing that is older."""

SPACE: Final = "webhooks"
DESK: Final = "webhooks.desk"
POSITION: Final = "position"
"""Up to where the log was read."""


class DeliveryFailed(SendFailed):
    """The receiver did not say that it has it; the delivery is tried again."""


class Subscription(Record):
    """Who is told what.

    Attributes:
        url: where it is sent.
        states: a job that comes into one of these is told of.
        kinds: only jobs of these kinds; empty: of all.
        secret: signs each message (Standard Webhooks: ``whsec_`` and base64).
        active: False once the receiver said that it is gone (410), or somebody switched it off.
    """

    id: str
    tenant: str
    url: str
    states: tuple[JobState, ...]
    kinds: tuple[str, ...]
    secret: str
    created_at: datetime
    active: bool = True

    def wants(self, event: JobEvent) -> bool:
        """Whether it is to be told. That a job goes on in another store is no change of it: what happens there is told there."""
        return (
            self.active
            and event.tenant == self.tenant
            and event.entry.at >= self.created_at - LATE
            and event.entry.event is not Event.MOVED
            and event.entry.state in self.states
            and (not self.kinds or event.kind in self.kinds)
        )


class Webhooks:
    """Subscriptions and their deliveries.

    Args:
        sender: makes what carries the messages, when it is needed first.
    """

    def __init__(self, jobs: JobService, sender: Callable[[], Sender]) -> None:
        self._jobs = jobs
        self._make_sender = sender

    @cached_property
    def _sender(self) -> Sender:
        return self._make_sender()

    async def close(self) -> None:
        """Free what it holds."""
        if "_sender" in self.__dict__:
            await self._sender.close()

    # --- subscriptions ----------------------------------------------------------------------

    async def subscribe(
        self,
        url: str,
        *,
        tenant: str,
        states: Sequence[str] = tuple(sorted(TERMINAL)),
        kinds: Sequence[str] = (),
        secret: str | None = None,
    ) -> Subscription:
        """Tell `url` of every change from now on that brings a job of the tenant into one of `states`.

        Args:
            secret: ``whsec_`` and 24 to 64 bytes in base64; None: a new one. It is told here and nowhere else.

        Raises:
            InvalidInput: an argument does not fit, or the address is not a public one.
        """
        self._sender.check(check.text(url, "url", 2000))
        if not states:
            raise InvalidInput("name at least one state to be told of")
        for kind in kinds:
            check.name(kind, "kind")
        made = Subscription(
            id=self._jobs.stamp("").entry_id,
            tenant=check.name(tenant, "tenant"),
            url=url,
            states=tuple(_state(state) for state in dict.fromkeys(states)),
            kinds=tuple(dict.fromkeys(kinds)),
            secret=secret or "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
            created_at=self._jobs.clock.now(),
        )
        _key_of(made.secret)
        await begin(self._jobs)
        await self._jobs.store.values.write(SPACE, made.id, msgspec.to_builtins(made), expect=0)
        return made

    async def subscriptions(self, tenant: str) -> list[Subscription]:
        """Those of a tenant, oldest first."""
        return [one for one in await all_subscriptions(self._jobs) if one.tenant == tenant]

    async def switch(self, subscription_id: str, *, tenant: str, active: bool) -> Subscription:
        """Switch it on or off. Raises `NotFound`."""
        while True:
            found, kept = await self._find(subscription_id, tenant)
            wanted = replace(kept, active=active)
            if await self._jobs.store.values.write(
                SPACE, kept.id, msgspec.to_builtins(wanted), expect=found.version
            ):
                return wanted

    async def unsubscribe(self, subscription_id: str, *, tenant: str) -> None:
        """Take it away; what waits to be delivered is dropped when its turn comes. Raises `NotFound`."""
        while True:
            found, kept = await self._find(subscription_id, tenant)
            if await self._jobs.store.values.write(SPACE, kept.id, None, expect=found.version):
                return

    async def _find(self, subscription_id: str, tenant: str) -> tuple[Value, Subscription]:
        key = parse_uuid(subscription_id, "webhook id")
        found = (await self._jobs.store.values.read(SPACE, [key])).get(key)
        kept = None if found is None else msgspec.convert(found.value, Subscription)
        if found is None or kept is None or kept.tenant != tenant:
            raise NotFound(f"no webhook {subscription_id} for tenant {tenant!r}")
        return found, kept

    # --- deliveries -------------------------------------------------------------------------

    async def deliveries(self, subscription_id: str, *, tenant: str, limit: int = 50) -> list[Job]:
        """The last deliveries of a subscription, newest first: jobs, with the receiver's answer as result or failure.

        Raises:
            NotFound: there is no such subscription.
        """
        _, kept = await self._find(subscription_id, tenant)
        query = JobFilter(tenant=tenant, kinds=(KIND,), user_id=kept.id)
        return list((await self._jobs.page(query, limit=limit)).jobs)

    async def replay(self, delivery_id: str, *, tenant: str, actor: str = "user") -> Job:
        """Send a delivery once more, under the same `webhook-id`; one under way is returned as it is.

        Raises:
            NotFound: there is none of this id.
        """
        job = await self._jobs.get(delivery_id, tenant=tenant)
        if job.kind != KIND:
            raise NotFound(f"job {delivery_id} is no delivery of a webhook")
        try:
            return await self._jobs.requeue(delivery_id, tenant=tenant, actor=actor)
        except IllegalTransition:  # it went through: sent again by a job of its own
            again = NewJob(
                kind=KIND,
                tenant=tenant,
                payload=job.payload,
                user_id=job.user_id,
                ttl=KEPT,
                created_by=actor,
                max_attempts=RETRY.max_attempts,
            )
            return await self._jobs.add(again)

    async def deliver(self, ctx: Context, *, subscription: str, message: dict[str, Any]) -> dict[str, Any]:
        """The handler of delivery jobs.

        Raises:
            RetryAfter: an earlier message about the same job comes first, or the receiver asks to wait.
            DeliveryFailed: it did not go through.
            Fatal: the receiver is gone for good.
        """
        try:
            _, kept = await self._find(subscription, ctx.job.tenant)
        except NotFound:
            return {"skipped": "the webhook was taken away"}
        if not kept.active:
            return {"skipped": "the webhook is switched off"}
        await self._after_earlier(ctx.job)
        message_id = "msg_" + uuid5(subscription, message["data"]["entry"]["id"])
        body = msgspec.json.encode(message)
        headers = signed(kept.secret, message_id, self._jobs.clock.now(), body)
        ctx.check()
        try:
            answer = await self._sender.post(kept.url, body, headers)
        except SendFailed as error:
            raise DeliveryFailed(f"{kept.url}: {error}") from None
        told = {"status": answer.status, "answer": check.storable(answer.text[:1000])}
        if 200 <= answer.status < 300:
            return told
        if answer.status == 410:
            await self.switch(kept.id, tenant=kept.tenant, active=False)
            raise Fatal(f"{kept.url} answered 410: it is gone, and the webhook is switched off")
        if (wait := _wait(answer.headers.get("retry-after"), self._jobs.clock.now())) is not None:
            raise RetryAfter(wait, f"{kept.url} answered {answer.status} and asks to wait", counts=True)
        raise DeliveryFailed(f"{kept.url} answered {answer.status}: {told['answer']}")

    async def _after_earlier(self, job: Job) -> None:
        """Let messages about one job go in their order."""
        if job.document_id is None:  # sent again by hand
            return
        query = JobFilter(tenant=job.tenant, kinds=(KIND,), document_id=job.document_id, states=UNFINISHED)
        waiting = await self._jobs.store.find(query, 1, job.id)
        if waiting:
            due = waiting[0].due_at if waiting[0].state is JobState.PENDING else None
            left = 0.0 if due is None else (due - self._jobs.clock.now()).total_seconds()
            raise RetryAfter(max(0.2, left + 0.2), f"delivery {waiting[0].id} comes first")


def signed(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers of a message (https://www.standardwebhooks.com, symmetric signatures v1)."""
    timestamp = str(int(at.timestamp()))
    content = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(_key_of(secret), content, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "user-agent": "perdure",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def _key_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise InvalidInput(
            "a webhook's secret is whsec_ and then 24 to 64 bytes in base64; leave it out for a new one"
        )
    return key


def _state(name: str) -> JobState:
    try:
        return JobState(name)
    except ValueError:
        raise InvalidInput(f"{name!r} is no state; expected one of {', '.join(JobState)}") from None


def _wait(told: str | None, now: datetime) -> float | None:
    """Seconds, of a `Retry-After` in seconds or as a date; None where there is none that is understood."""
    if told is None:
        return None
    try:
        seconds = float(told) if told.isdigit() else (parsedate_to_datetime(told) - now).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(1.0, seconds), RETRY.ceiling)


async def all_subscriptions(jobs: JobService) -> list[Subscription]:
    """Of every tenant, oldest first."""
    found: list[Subscription] = []
    after = ""
    while page := await jobs.store.values.scan(SPACE, 500, after):
        found += [msgspec.convert(one.value, Subscription) for one in page]
        after = page[-1].key
    return found


async def begin(jobs: JobService) -> None:
    """Note where the log ends, before the first subscription: what happens from now on is told."""
    if not await jobs.store.values.read(DESK, [POSITION]):
        mark = (await Reader.at_the_end(jobs)).mark
        await jobs.store.values.write(DESK, POSITION, mark, expect=0)
