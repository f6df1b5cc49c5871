"""`perdure dead …`"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import click

from perdure import wire
from perdure.cli.call import Call, Function, command
from perdure.cli.commands.jobs import narrowing
from perdure.cli.commands.steering import change_each
from perdure.cli.output import say
from perdure.cli.show import job_table
from perdure.domain import validation as check
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState

_PAGE = 500


@click.group(
    epilog="\b\nExamples:\n  perdure dead list --error timeout\n  perdure dead retry --kind vectorize"
)
def dead() -> None:
    """List failed jobs, send them round again, or discard them."""


def _filters(function: Function) -> Function:
    """Options that say which failed jobs are meant."""
    function = click.option(
        "--older-than", metavar="DURATION", callback=_duration, help="That came in longer ago, e.g. 2h or 7d."
    )(function)
    return narrowing(
        click.option("--error", metavar="TEXT", default="", help="Whose error holds this text, in any case.")(
            function
        )
    )


def _duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> timedelta | None:
    return None if value is None else check.duration(value)


async def _failed(
    service: Any, tenant: str, error: str, older_than: timedelta | None, **narrowed: Any
) -> AsyncIterator[Job]:
    """The failed jobs that are meant, newest first."""
    before = None if older_than is None else service.clock.now() - older_than
    query = JobFilter(tenant=tenant, states=(JobState.FAILED,), created_before=before, **narrowed)
    after, sought = None, error.casefold()
    while True:
        page = await service.page(query, limit=_PAGE, after=after)
        for job in page.jobs:
            if sought in (f"{job.failure.type}: {job.failure.message}" if job.failure else "").casefold():
                yield job
        if (after := page.next) is None:
            return


@command(
    "perdure dead list --older-than 1d", "perdure dead list --error utf-8 --json", name="list", group=dead
)
@_filters
@click.option("--limit", "-l", type=click.IntRange(1), default=20, show_default=True)
async def list_dead(call: Call, limit: int, **filters: Any) -> None:
    """List failed jobs, newest first, with the reason.

    With --json each job is a line.
    """
    found: list[Job] = []
    async with call.open_jobs() as service:
        now = service.clock.now()
        async for job in _failed(service, call.tenant, **filters):
            found.append(job)
            if len(found) > limit:
                break
    call.show_each(map(wire.JobLine.of, found[:limit]), *[job_table(found[:limit], now)] * bool(found))
    if not found and not call.json:
        say("no such failed jobs")
    if len(found) > limit:
        say("there are more: --limit takes more, --older-than, --error or --kind narrow")


async def _change(
    call: Call, job_ids: tuple[str, ...], every: bool, filters: dict[str, Any], change: Callable[..., Any]
) -> int:
    """Change the jobs that are named, or those that the filters mean; each is told, and one that cannot stops none."""
    if bool(job_ids) == (every or any(filters.values())):
        raise click.UsageError("name the jobs, or say which with --error, --kind …, or --all; not both")
    async with call.open_jobs() as service:
        ids = job_ids or tuple([job.id async for job in _failed(service, call.tenant, **filters)])
        if not ids:
            say("no such failed jobs")
        return await change_each(
            call, ids, lambda job_id: change(service)(job_id, tenant=call.tenant, actor=call.actor)
        )


_some = click.argument("job_ids", metavar="[ID…]", nargs=-1)
_every = click.option("--all", "every", is_flag=True, help="All failed jobs.")


@command("perdure dead retry --error 'no answer'", "perdure dead retry --all", group=dead)
@_some
@_every
@_filters
async def retry(call: Call, job_ids: tuple[str, ...], every: bool, **filters: Any) -> int:
    """Send failed jobs round again, with fresh attempts.

    With --json each job is a line.
    """
    return await _change(call, job_ids, every, filters, lambda service: service.requeue)


@command("perdure dead discard --older-than 30d", "perdure dead discard --kind import", group=dead)
@_some
@_every
@_filters
async def discard(call: Call, job_ids: tuple[str, ...], every: bool, **filters: Any) -> int:
    """Remove the records of failed jobs, with their histories.

    With --json each is a line.
    """
    return await _change(call, job_ids, every, filters, lambda service: service.delete)
