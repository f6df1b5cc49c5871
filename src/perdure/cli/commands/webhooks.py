"""`perdure webhooks …`"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from perdure import wire
from perdure.cli.call import Call, command
from perdure.cli.output import say
from perdure.cli.show import table
from perdure.cli.text import moment, printable
from perdure.domain.state import TERMINAL, JobState

if TYPE_CHECKING:
    from perdure.bootstrap import Webhooks
    from perdure.cli.remote_webhooks import RemoteWebhooks
    from perdure.domain.job import Job

_one = click.argument("webhook_id", metavar="ID")


@click.group(
    epilog="\b\nExamples:\n  perdure webhooks add https://example.com/hook --state failed\n  perdure webhooks deliveries ID"
)
def webhooks() -> None:
    """Tell other systems what happens to jobs."""


@asynccontextmanager
async def _opened(call: Call) -> AsyncIterator[Webhooks | RemoteWebhooks]:
    from perdure import bootstrap
    from perdure.cli.remote import Remote

    async with call.open_jobs() as jobs:
        service = jobs.webhooks if isinstance(jobs, Remote) else bootstrap.webhooks(jobs, call.settings())
        try:
            yield service
        finally:
            await service.close()


@command("perdure webhooks add https://example.com/hook --state completed --kind vectorize", group=webhooks)
@click.argument("url")
@click.option(
    "--state",
    "states",
    type=click.Choice([*map(str, JobState)]),
    multiple=True,
    default=sorted(map(str, TERMINAL)),
    show_default=True,
    help="Tell of jobs that come into this state; repeatable.",
)
@click.option("--kind", "kinds", metavar="KIND", multiple=True, help="Only of this kind; repeatable.")
async def add(call: Call, url: str, states: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    """Tell URL what happens to jobs from now on.

    Messages are signed as Standard Webhooks; the secret is shown here and nowhere else.
    """
    async with _opened(call) as service:
        made = await service.subscribe(url, tenant=call.tenant, states=states, kinds=kinds)
    call.show(wire.NewWebhook.of(made), f"webhook  {made.id}", f"secret   {made.secret}")


@command("perdure webhooks list --json | jq -r .url", name="list", group=webhooks)
async def list_webhooks(call: Call) -> None:
    """List the webhooks, oldest first.

    With --json each is a line.
    """
    async with _opened(call) as service:
        found = await service.subscriptions(call.tenant)
    rows = table("WEBHOOK", "URL", "STATES", "KINDS", "ACTIVE", wrap=["URL", "STATES", "KINDS"])
    for one in found:
        kinds = ", ".join(one.kinds) or "all"
        rows.add_row(one.id, printable(one.url), ", ".join(one.states), kinds, "yes" if one.active else "no")
    call.show_each(map(wire.Webhook.of, found), *[rows] * bool(found))
    if not found and not call.json:
        say("no webhooks")


@command("perdure webhooks remove ID", group=webhooks)
@_one
async def remove(call: Call, webhook_id: str) -> None:
    """Take a webhook away; what waits to be delivered is dropped."""
    async with _opened(call) as service:
        await service.unsubscribe(webhook_id, tenant=call.tenant)
    if not call.json:
        say(f"webhook {webhook_id} is gone")


@command("perdure webhooks deliveries ID --json | jq -r .status", group=webhooks)
@_one
@click.option("--limit", "-l", type=click.IntRange(1, 1000), default=20, show_default=True)
async def deliveries(call: Call, webhook_id: str, limit: int) -> None:
    """List what was sent last, newest first, with what the receiver answered.

    With --json each is a line.
    """
    async with _opened(call) as service:
        found = [*map(_told, await service.deliveries(webhook_id, tenant=call.tenant, limit=limit))]
    rows = table("DELIVERY", "CREATED", "STATUS", "ATTEMPTS", "ANSWER", right=["ATTEMPTS"], wrap=["ANSWER"])
    for one in found:
        rows.add_row(one.id, moment(one.created_at), one.state, str(one.attempt), printable(one.answer or ""))
    call.show_each(found, *[rows] * bool(found))
    if not found and not call.json:
        say("nothing was sent yet")


@command("perdure webhooks replay DELIVERY", group=webhooks)
@click.argument("delivery_id", metavar="DELIVERY")
async def replay(call: Call, delivery_id: str) -> None:
    """Send a delivery once more."""
    async with _opened(call) as service:
        job = await service.replay(delivery_id, tenant=call.tenant, actor=call.actor)
    call.show(_told(job), f"delivery {job.id} is {job.state}")


def _told(delivery: Job | wire.Delivery) -> wire.Delivery:
    return delivery if isinstance(delivery, wire.Delivery) else wire.Delivery.of(delivery)
