"""`perdure jobs …` that look at jobs, and `perdure job-status`"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any, Final

import click
import msgspec

from perdure import wire
from perdure.cli.call import Call, Function, command
from perdure.cli.failures import OK, UNSUCCESSFUL
from perdure.cli.output import say
from perdure.cli.show import event_line, job_lines, job_table, stats_table, status_lines, table, watch_line
from perdure.cli.text import printable
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.ledger import ChunkState

EXAMPLE: Final = "0198c0de-7a3e-7abc-8def-0123456789ab"
_PATIENCE: Final = 3.0
"""Seconds after which who watches a pending job is told what it may be waiting for."""

by_id = click.argument("job_id", metavar="ID")


def _about(function: Function) -> Function:
    """Options that say whose jobs are meant, or about what."""
    function = click.option("--user", "user_id", metavar="ID", help="Of this user.")(function)
    return click.option("--document", "document_id", metavar="ID", help="About this document.")(function)


def narrowing(function: Function) -> Function:
    """Options that say which jobs are meant, beside their state."""
    return click.option("--kind", "kinds", metavar="KIND", multiple=True, help="Of this kind; repeatable.")(
        _about(function)
    )


@click.group(epilog="\b\nExamples:\n  perdure jobs list --status failed\n  perdure jobs retry --failed")
def jobs() -> None:
    """List, watch and steer jobs of any kind."""


def _code(job: Job) -> int:
    """Whether a job is on a good way, or ended well."""
    return OK if not job.finished or job.state is JobState.COMPLETED else UNSUCCESSFUL


@command(
    "perdure jobs list --status failed",
    "perdure jobs list --kind vectorize --limit 200 --json | jq -r .id",
    "perdure jobs list --after ID      the page that follows the one that ends with ID",
    name="list",
    group=jobs,
)
@click.option(
    "--status",
    "states",
    type=click.Choice([*map(str, JobState)]),
    multiple=True,
    help="In this state; repeatable.",
)
@narrowing
@click.option("--limit", "-l", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--after", metavar="ID", help="Only jobs that follow this one: the last of the page before.")
@click.option("--oldest-first", is_flag=True, help="In the order in which they came in.")
async def list_jobs(
    call: Call, states: tuple[str, ...], limit: int, after: str | None, **narrowing: Any
) -> None:
    """List jobs, newest first.

    With --json each job is a line.
    """
    query = JobFilter(tenant=call.tenant, states=tuple(map(JobState, states)), **narrowing)
    async with call.open_jobs() as service:
        page = await service.page(query, limit=limit, after=after)
        now = service.clock.now()
    call.show_each(map(wire.JobLine.of, page.jobs), *[job_table(page.jobs, now)] * bool(page.jobs))
    if not page.jobs and not call.json:
        say("no such jobs")
    if page.next is not None:
        say(f"there are more: --after {page.next}")


@command(f"perdure jobs show {EXAMPLE}", f"perdure jobs show {EXAMPLE} --json | jq .history", group=jobs)
@by_id
async def show(call: Call, job_id: str) -> int:
    """Show all about a job, with its history.

    Exit code 1 if the job has ended in any other state than completed.
    """
    async with call.open_jobs() as service:
        job = await service.get(job_id, tenant=call.tenant)
        history = await service.history(job_id, tenant=call.tenant)
        now = service.clock.now()
    whole = msgspec.to_builtins(wire.JobWhole.of(job))
    call.show({**whole, "history": wire.History.of(history).items}, *job_lines(job, history, now))
    return _code(job)


@command(
    f"perdure jobs chunks {EXAMPLE} --state failed",
    f"perdure jobs chunks {EXAMPLE} --json | jq -r .hash",
    name="chunks",
    group=jobs,
)
@by_id
@click.option("--state", type=click.Choice([*map(str, ChunkState)]), help="Only these.")
@click.option("--limit", "-l", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--after", type=click.IntRange(-1), default=-1, help="Only chunks after this index.")
async def chunks(call: Call, job_id: str, state: str | None, limit: int, after: int) -> None:
    """List what became of each chunk of a document's job, by index.

    With --json each chunk is a line. Once a newer version is published, the failed ones are left.
    """
    wanted = ChunkState(state) if state else None
    async with call.open() as app:
        page = await app.ledger.chunks_of(job_id, state=wanted, limit=limit, after=after, tenant=call.tenant)
    rows = table("CHUNK", "STATE", "HASH", "TRIES", "REASON", right=["CHUNK", "TRIES"], wrap=["REASON"])
    for one in page.items:
        told = f"{one.error}: {one.reason}" if one.error else ""
        rows.add_row(f"{one.index:,}", one.state, one.hash[:12], str(one.attempts or ""), printable(told))
    call.show_each(page.items, *[rows] * bool(page.items))
    if not page.items and not call.json:
        say("no such chunks")
    if page.next_cursor is not None:
        say(f"there are more: --after {page.next_cursor}")


@command(f"perdure job-status {EXAMPLE} --json | jq -r .status", name="job-status")
@by_id
async def job_status(call: Call, job_id: str) -> int:
    """Tell in short how a job stands.

    Any process may ask at any time, also right after a restart: the answer is the store's. Exit code 1 if the job has
    ended in any other state than completed.
    """
    async with call.open_jobs() as service:
        job = await service.get(job_id, tenant=call.tenant)
        now = service.clock.now()
    call.show(wire.Status.of(job), *status_lines(job, now))
    return _code(job)


@command(f"perdure jobs watch {EXAMPLE} && echo done", "perdure jobs watch", group=jobs)
@click.argument("job_id", metavar="[ID]", required=False)
async def watch(call: Call, job_id: str | None) -> int:
    """Follow a job to its end, or all jobs of the tenant.

    A line for each change; with --json the job as a line. Exit code 1 if it ends in any other state than completed.
    Without ID a line for everything that happens to any job, with --json the event, until Ctrl-C.
    """
    if job_id is None:
        await _watch_all(call)
        return OK
    told: wire.JobLine | None = None
    hint = asyncio.get_running_loop().call_later(
        _PATIENCE, say, "still waiting for a worker; if none is running, 'perdure worker' starts one"
    )
    async with call.open_jobs() as service:
        job = await service.get(job_id, tenant=call.tenant)
        async for job in service.watch(job_id, tenant=call.tenant):
            if job.state is not JobState.PENDING:
                hint.cancel()
            line = wire.JobLine.of(job)
            # A heartbeat changes a job too, but nothing that is worth a line.
            if told is None or msgspec.structs.replace(line, updated_at=told.updated_at) != told:
                told = line
                call.show_each([line], watch_line(job))
    return _code(job)


async def _watch_all(call: Call) -> None:
    async with call.open() as app:
        async for event in app.events.follow(call.tenant):
            call.show_each([wire.EventLine.of(event)], event_line(event))


@command("perdure jobs stats --json | jq .by_status.failed", "perdure jobs stats --user ann", group=jobs)
@_about
@click.option("--all-tenants", is_flag=True, help="Of all tenants together.")
async def stats(call: Call, all_tenants: bool, **about: str | None) -> None:
    """Count jobs by kind and state."""
    async with call.open_jobs() as service:
        stats = await service.stats(None if all_tenants else call.tenant, **about)
    call.show(wire.Counts.of(stats), stats_table(stats))


# These have rooms of their own, and stand among the others.
import_module("perdure.cli.commands.steering")
import_module("perdure.cli.commands.top")
