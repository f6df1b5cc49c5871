"""`perdure store …`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from perdure import wire
from perdure.cli.call import Call, command
from perdure.cli.failures import OK, STORE_TROUBLE, UNSUCCESSFUL
from perdure.cli.progress import counter
from perdure.cli.show import stats_table, table
from perdure.cli.text import counted

if TYPE_CHECKING:
    from perdure.transfer import ValuesReport


@click.group()
def store() -> None:
    """Set up the store, look into it, check it, move it."""


@command("perdure store init --store sqlite:////var/lib/perdure/perdure.db", group=store)
async def init(call: Call) -> None:
    """Make the store, or bring it up to date.

    Safe to repeat, and from many machines at once. Every other command that writes does it too, unless the URL of a
    PostgreSQL database says migrate=off.
    """
    from perdure import bootstrap

    settings = call.checked(create=True)
    await bootstrap.init(settings)
    url = bootstrap.shown(settings.store)
    call.show({"store": url, "ready": True}, f"{url} is ready")


@command("perdure store info", "perdure store info --json | jq '.namespaces[].documents'", group=store)
async def info(call: Call) -> int:
    """Tell what is in the store.

    Exit code 4 if a part of it does not answer.
    """
    from perdure import bootstrap

    async with call.open() as app:
        health = await app.health()
        stats = await app.jobs.stats(call.tenant)
        namespaces = await app.documents.namespaces(call.tenant)
        url = bootstrap.shown(app.settings.store)
    numbers = ("DOCUMENTS", "CHUNKS", "DIMENSION")
    held = table("NAMESPACE", "DOCUMENTS", "CHUNKS", "MODEL", "DIMENSION", right=numbers, wrap=["MODEL"])
    for one in namespaces:
        held.add_row(one.name, f"{one.documents:,}", f"{one.chunks:,}", one.model, str(one.dimension))
    told = {"store": url, "tenant": call.tenant, "health": health, "jobs": wire.Counts.of(stats)}
    call.show(
        {**told, "namespaces": [msgspec.structs.asdict(one) for one in namespaces]},
        f"{url}  tenant {call.tenant}  {', '.join(f'{part} {state}' for part, state in health.items())}",
        "",
        stats_table(stats),
        "",
        held if namespaces else "no documents",
    )
    return OK if set(health.values()) == {"ok"} else STORE_TROUBLE


@command(
    "perdure store copy sqlite:///perdure.db postgresql://app@db/perdure --dry-run",
    "perdure store copy redis://cache:6379/0 postgresql://app@db/perdure",
    group=store,
)
@click.argument("source")
@click.argument("target")
@click.option("--dry-run", is_flag=True, help="Only tell how much there is to do.")
async def copy(call: Call, source: str, target: str, *, dry_run: bool) -> int:
    """Let all jobs of SOURCE go on in TARGET.

    Of all tenants, while both are in use. Finished jobs, API keys and subscriptions are copied; pending and waiting ones go on in TARGET, and SOURCE keeps a record that says so; running ones
    are waited for. Safe to repeat after an interruption, and needed once more where a producer still added to SOURCE.
    Chunks and vectors stay where they are. Exit code 1 if the two differ in the end.
    """
    from perdure.transfer import copy_jobs

    with counter("jobs looked at", quiet=call.json) as report:
        told = await copy_jobs(source, target, dry_run=dry_run, report=report)
    lines = table(
        "TENANT", "JOBS", "THERE", "CHANGED SINCE", "CHECKSUM", right=("JOBS", "THERE", "CHANGED SINCE")
    )
    for tenant, one in told.tenants.items():
        differ = (
            f"{len(one.differing)} or more differ: {', '.join(one.differing[:3])}" if one.differing else ""
        )
        lines.add_row(
            tenant, f"{one.source:,}", f"{one.target:,}", f"{one.went_on:,}", differ or one.checksum
        )
    will = "would be " if dry_run else ""
    call.show(
        {**msgspec.to_builtins(told), "equal": told.equal, "dry_run": dry_run},
        f"{counted(told.copied, 'finished job')} {will}copied, {told.moved:,} {will}moved, {told.known:,} known",
        *values_told(told.values),
        *(f"left out, another job there has its idempotency key: {job_id}" for job_id in told.keyed),
        *([lines] if told.tenants else []),
    )
    return OK if told.equal else UNSUCCESSFUL


def values_told(values: ValuesReport) -> list[str]:
    """Small values, where there are any; those that are not as they should be by name."""
    if not values.source:
        return []
    told = f"{counted(values.source, 'small value')} (API keys, subscriptions), {values.target:,} there"
    return [
        told + (f", {values.went_on:,} changed since" if values.went_on else ""),
        *(f"another value is there already, or it came meanwhile: {name}" for name in values.differing),
    ]


@command("perdure store check", "perdure store check --json | jq -r .remedy", group=store)
async def check(call: Call) -> int:
    """Look for what does not fit together.

    Counters, histories, leases, keys, jobs that nobody came for; of all tenants; the store may be in use. Exit code 1 if anything was found.
    """
    from perdure.transfer import check_jobs

    url = call.existing_store()
    with counter("jobs looked at", quiet=call.json) as report:
        found = [finding async for finding in check_jobs(url, report=report)]
    lines = (
        f"{one.what}: {f'job {one.job_id} ({one.tenant}): ' if one.job_id else ''}{one.message}; {one.remedy}"
        for one in found
    )
    call.show_each(map(msgspec.to_builtins, found), *(lines if found else ["all fits together"]))
    return UNSUCCESSFUL if found else OK
