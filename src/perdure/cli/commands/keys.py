"""`perdure keys …`"""

from __future__ import annotations

from datetime import timedelta

import click

from perdure import wire
from perdure.cli.call import Call, command
from perdure.cli.output import say
from perdure.cli.show import table
from perdure.cli.text import moment, printable
from perdure.domain import validation as check
from perdure.domain.access import Key, Scope

_ID = "0123456789ab"
_one = click.argument("key_id", metavar="ID")


def _duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> timedelta | None:
    return None if value is None else check.duration(value)


@click.group(epilog=f"\b\nExamples:\n  perdure keys create ci --scope write\n  perdure keys revoke {_ID}")
def keys() -> None:
    """Make, list, rotate and revoke API keys."""


def _show(call: Call, key: Key, token: str) -> None:
    """The key with its token, which nobody can tell again: alone on stdout, so that a script can take it."""
    call.show(wire.KeyLine.of(key, token), token)
    whose = "any tenant" if key.tenant is None else f"tenant {key.tenant}"
    say(
        f"key {key.id} ({key.name}) may {key.scope} for {whose}; its token is shown this once: keep it safe, "
        "and send it as Authorization: Bearer …"
    )


@command(
    "perdure keys create ci --tenant acme --scope write --ttl 90d",
    "perdure keys create dashboard --scope read --rate 50",
    "perdure keys create gateway --all-tenants --scope admin",
    group=keys,
)
@click.argument("name")
@click.option("--scope", type=click.Choice([*map(str, Scope)]), default="write", show_default=True)
@click.option(
    "--ttl", callback=_duration, metavar="DURATION", help="How long it is good.  [default: for ever]"
)
@click.option("--rate", type=float, help="Calls a second that a server allows.  [default: any]")
@click.option("--all-tenants", is_flag=True, help="It opens every tenant's things; each call names whose.")
async def create(
    call: Call, name: str, scope: str, ttl: timedelta | None, rate: float | None, all_tenants: bool
) -> None:
    """Make a key for the tenant.

    The token goes to stdout, once. From the first key on a server on this store asks everybody for one.
    """
    tenant = None if all_tenants else call.tenant
    async with call.open(create=True) as app:
        key, token = await app.keys.create(
            name, tenant=tenant, scope=Scope(scope), ttl=ttl, rate=rate, actor=call.actor
        )
    _show(call, key, token)


@command("perdure keys list --json | jq -r .id", name="list", group=keys)
@click.option("--all-tenants", is_flag=True, help="Keys of every tenant.")
async def list_keys(call: Call, all_tenants: bool) -> None:
    """List the keys of the tenant, the ended ones among them.

    With --json each is a line.
    """
    async with call.open() as app:
        found = await app.keys.all(None if all_tenants else call.tenant)
        now = app.jobs.clock.now()
    rows = table("ID", "NAME", "TENANT", "SCOPE", "CREATED", "EXPIRES", "STATE")
    for key in found:
        expires = moment(key.expires_at) if key.expires_at else ""
        whose, state = key.tenant or "(any)", key.ended(now) or "good"
        rows.add_row(key.id, printable(key.name), whose, key.scope, moment(key.created_at), expires, state)
    call.show_each(map(wire.KeyLine.of, found), *[rows] * bool(found))
    if not found and not call.json:
        say(f"tenant {call.tenant} has no keys; 'perdure keys create NAME' makes one")


@command(f"perdure keys rotate {_ID} --overlap 1h", group=keys)
@_one
@click.option("--overlap", callback=_duration, default="24h", show_default=True, metavar="DURATION")
async def rotate(call: Call, key_id: str, overlap: timedelta) -> None:
    """Give a key a new token, which goes to stdout, once.

    The old one is good for the overlap longer.
    """
    async with call.open() as app:
        key, token = await app.keys.rotate(key_id, overlap=overlap)
    _show(call, key, token)


@command(f"perdure keys revoke {_ID}", group=keys)
@_one
async def revoke(call: Call, key_id: str) -> None:
    """End a key; every server refuses it within seconds."""
    async with call.open() as app:
        key = await app.keys.revoke(key_id)
    call.show(wire.KeyLine.of(key), f"{key.id} ({printable(key.name)}) is revoked")
