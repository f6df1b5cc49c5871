"""`perdure feed …`"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import click

from perdure.cli.call import Call, command
from perdure.cli.output import say, show_log
from perdure.cli.running import run_for_long, working
from perdure.cli.show import table
from perdure.cli.text import printable

LEASE = click.option(
    "--lease",
    type=click.FloatRange(1),
    default=15.0,
    show_default=True,
    help="Seconds that a dead reader's feed rests.",
)


@click.group(epilog="\b\nExamples:\n  perdure feed run inbox folder:/srv/inbox\n  perdure feed status")
def feed() -> None:
    """Let documents come by themselves, from a folder or a database."""


@command(
    "perdure feed run inbox folder:/srv/inbox --namespace hr",
    "perdure feed run notes 'folder:notes?include=*.md,*.txt&settled=5'",
    "perdure feed run papers 'mongodb://127.0.0.1/shop.papers?text=body&metadata=lang'",
    "perdure feed run papers 'postgresql://127.0.0.1/shop?table=papers&text=body'",
    group=feed,
)
@click.argument("name")
@click.argument("url")
@click.option("--namespace", "-n", default="default", show_default=True, help="Where its documents go.")
@click.option(
    "--poll", type=click.FloatRange(0.05), default=1.0, show_default=True, help="Seconds between looks."
)
@LEASE
@click.option("--most-pending", type=click.IntRange(1), default=10_000, show_default=True, metavar="N")
def run(
    call: Call, name: str, url: str, *, namespace: str, poll: float, lease: float, most_pending: int
) -> None:
    """Follow a source until stopped: what comes, changes and goes there becomes jobs.

    Of several processes that run the same NAME one reads; another goes on when that one ends or dies. Nothing is read while the tenant has
    --most-pending jobs waiting.
    """
    options = {
        "poll": timedelta(seconds=poll),
        "lease": timedelta(seconds=lease),
        "most_pending": most_pending,
    }
    run_for_long(_run(call, name, url, namespace, options))


@command(
    "perdure feed bridge shards 'cosmos://:KEY@ACCOUNT/content/shards?text=body&tenant=tenantId' 'servicebus://KEYNAME:KEY@HOST/jobs'",
    group=feed,
)
@click.argument("name")
@click.argument("url", metavar="FROM")
@click.argument("to")
@LEASE
def bridge(call: Call, name: str, url: str, to: str, *, lease: float) -> None:
    """Send what a source tells on to a queue of Azure Service Bus, until stopped.

    Each event is sent at least once, and the position kept after it was; the document's id is the session of its messages.
    """
    run_for_long(_run(call, name, url, "default", {"lease": timedelta(seconds=lease)}, to))


async def _run(
    call: Call, name: str, url: str, namespace: str, options: dict[str, Any], to: str | None = None
) -> None:
    from perdure.domain import validation
    from perdure.feeding import make_bridge, make_feed, make_runner

    app = call.open(create=True)
    show_log(logging.INFO, "%(asctime)s %(message)s", style=app.settings.log)
    source = make_feed(url, tenant=call.tenant, namespace=validation.name(namespace, "namespace"))
    async with app:
        sink = make_bridge(to) if to else None
        runner = make_runner(app, name, source, sink, tenant=call.tenant, **options)
        async with working(runner) as stop:
            await stop.asked.wait()


@command("perdure feed sql 'postgresql://127.0.0.1/shop?table=papers&text=body' | psql shop", group=feed)
@click.argument("url")
def sql(call: Call, url: str) -> None:
    """Write the migration that lets a table of PostgreSQL tell of its changes.

    It makes an outbox beside the table, and triggers that fill it. Look through it, and run it as the table's owner.
    """
    from perdure.feeding import migration

    click.echo(migration(url))


@command("perdure feed status --json | jq .lag_seconds", group=feed)
async def status(call: Call) -> None:
    """Tell how each feed stands: who reads it, how much came, how far behind it is.

    With --json each is a line. LAG is the time from the last change at the source to its reading.
    """
    from perdure.feeding import feeds_of
    from perdure.wire import Feed

    async with call.open() as app:
        feeds = feeds_of(app)
        found = await feeds.all()
        now = feeds.now().timestamp()
    rows = table(
        "FEED",
        "READER",
        "UPSERTS",
        "DELETES",
        "PARKED",
        "LAG",
        "NOTE",
        right=["UPSERTS", "DELETES", "PARKED", "LAG"],
        wrap=["NOTE"],
    )
    told = [Feed.of(one, now) for one in found]
    for one in told:
        rows.add_row(
            one.name,
            printable(one.reader) or "nobody",
            *(f"{number:,}" for number in (one.upserts, one.deletes, one.parked)),
            "" if one.lag_seconds is None else f"{one.lag_seconds:.1f} s",
            printable(one.note),
        )
    call.show_each(told, *[rows] * bool(found))
    if not found and not call.json:
        say("no feed was run on this store yet; 'perdure feed run NAME URL' does")


@command("perdure feed parked inbox --json | jq -r .id", group=feed)
@click.argument("name")
@click.option("--limit", "-l", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--after", metavar="EVENT", default="", help="Only events after this one.")
async def parked(call: Call, name: str, limit: int, after: str) -> None:
    """List the events of a feed that could not be carried out, with the reasons.

    With --json each is a line.
    """
    from perdure.domain.errors import NotFound
    from perdure.feeding import feeds_of

    async with call.open() as app:
        feeds = feeds_of(app)
        found = await feeds.parked(name, limit + 1, after)
        if not found and name not in {one.name for one in await feeds.all()}:
            raise NotFound(
                f"no feed {name!r} was run on this store; 'perdure feed status' lists those that were"
            )
    page = found[:limit]
    rows = table("EVENT", "REASON", "WHAT CAME", wrap=["REASON", "WHAT CAME"])
    for one in page:
        rows.add_row(printable(one.id), printable(one.reason), printable(one.event))
    call.show_each(page, *[rows] * bool(page))
    if not page and not call.json:
        say(f"feed {name} has no {'more ' * bool(after)}parked events")
    if len(found) > limit:
        say(f"there are more: --after {page[-1].id}")


@command("perdure feed replay inbox EVENT", group=feed)
@click.argument("name")
@click.argument("event_id", metavar="EVENT")
async def replay(call: Call, name: str, event_id: str) -> None:
    """Carry a parked event out after all; it stays parked if it fails again."""
    from perdure.feeding import feeds_of, take

    async with call.open() as app:
        await feeds_of(app).replay(name, event_id, lambda changes: take(app, changes))
    if not call.json:
        say(f"event {event_id} of feed {name} was carried out")
