"""`perdure jobs …` and `perdure job-status`"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final

import click
import msgspec

from perdure import wire
from perdure.cli.call import Call, Function, command
from perdure.cli.failures import OK, UNSUCCESSFUL, exit_code
from perdure.cli.output import say
from perdure.cli.show import event_line, job_lines, job_table, stats_table, status_lines, table, watch_line
from perdure.cli.text import counted, printable
from perdure.domain import validation as check
from perdure.domain.errors import PerdureError, StoreError
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.domain.state import JobState
from perdure.ledger import ChunkState

_ID: Final = "0198c0de-7a3e-7abc-8def-0123456789ab"
_PATIENCE: Final = 3.0
"""Seconds after which who watches a pending job is told what it may be waiting for."""

_one = click.argument("job_id", metavar="ID")
_some = click.argument("job_ids", metavar="ID…", nargs=-1, required=True)


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


# --- looking --------------------------------------------------------------------------------


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


@command(f"perdure jobs show {_ID}", f"perdure jobs show {_ID} --json | jq .history", group=jobs)
@_one
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
    f"perdure jobs chunks {_ID} --state failed",
    f"perdure jobs chunks {_ID} --json | jq -r .hash",
    name="chunks",
    group=jobs,
)
@_one
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


@command(f"perdure job-status {_ID} --json | jq -r .status", name="job-status")
@_one
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


@command(f"perdure jobs watch {_ID} && echo done", "perdure jobs watch", group=jobs)
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


# --- steering -------------------------------------------------------------------------------


async def change_each(
    call: Call, job_ids: tuple[str, ...], change: Callable[[str], Awaitable[Job | None]]
) -> int:
    """Change one job after the other; one that cannot be changed does not stop the others.

    Returns:
        The exit code: that of the worst outcome.
    """
    worst = OK
    for job_id in job_ids:
        try:
            job = await change(job_id)
        except StoreError:
            raise
        except PerdureError as error:
            say(str(error))
            worst = max(worst, exit_code(error))
        else:
            if job is None:
                call.show_each([{"id": job_id, "deleted": True}], f"{job_id}  deleted")
            else:
                call.show_each([wire.JobLine.of(job)], f"{job_id}  {watch_line(job)}")
    return worst


@command(f"perdure jobs cancel {_ID} --reason 'wrong file'", group=jobs)
@_some
@click.option("--reason", default="", help="Kept in the job's history.")
async def cancel(call: Call, job_ids: tuple[str, ...], reason: str) -> int:
    """Call jobs off.

    A worker that runs one learns so within seconds; nothing that it says afterwards counts.
    """
    options = {"tenant": call.tenant, "actor": call.actor, "reason": reason}
    async with call.open_jobs() as service:
        return await change_each(call, job_ids, lambda job_id: service.cancel(job_id, **options))


@command(f"perdure jobs retry {_ID}", "perdure jobs retry --failed --kind vectorize", group=jobs)
@click.argument("job_ids", metavar="[ID…]", nargs=-1)
@click.option("--failed", is_flag=True, help="All failed jobs, narrowed by the options below.")
@narrowing
async def retry(call: Call, job_ids: tuple[str, ...], failed: bool, **narrowing: Any) -> int:
    """Send finished jobs round again.

    Failed, partial and cancelled ones get fresh attempts; a job that is under way stays as it is.
    """
    if failed == bool(job_ids):
        raise click.UsageError("name the jobs, or give --failed for all failed ones")
    if job_ids and any(narrowing.values()):
        raise click.UsageError("--kind, --document and --user narrow --failed; leave them out beside ids")
    options = {"tenant": call.tenant, "actor": call.actor}
    async with call.open_jobs() as service:
        if job_ids:
            return await change_each(call, job_ids, lambda job_id: service.requeue(job_id, **options))
        query = JobFilter(tenant=call.tenant, states=(JobState.FAILED,), **narrowing)
        number = await service.requeue_all(query, actor=call.actor)
    call.show({"requeued": number}, f"{counted(number, 'job')} queued again")
    return OK


@command(
    "perdure jobs respond ID yes",
    """perdure jobs respond ID --value '{"publish": true, "title": "Leave"}'""",
    group=jobs,
)
@_one
@click.argument("answer", required=False)
@click.option("--value", metavar="JSON", help="An answer that is no text.")
@click.option("--key", help="Which question is meant.  [default: the last one]")
async def respond(call: Call, job_id: str, answer: str | None, value: str | None, key: str | None) -> None:
    """Answer the question that a job waits for.

    'perdure jobs show ID' tells the question and the answers allowed.
    """
    if (answer is None) == (value is None):
        raise click.UsageError("give the answer as a text, or with --value as JSON")
    try:
        said: Json = answer if value is None else msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"{value!r} is not JSON: {error}", param_hint="--value") from None
    async with call.open_jobs() as service:
        job = await service.respond(job_id, said, tenant=call.tenant, actor=call.actor, key=key)
    call.show_each([wire.JobLine.of(job)], f"{job.id}  {watch_line(job)}")


class _Moment(click.ParamType[datetime]):
    """A time with its zone; also `now`."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.now(UTC) if value == "now" else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time; expected e.g. 2031-05-04T12:00:00Z, or now", param, ctx)
        return moment  # without a zone it is refused where all are


def _labels(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str] | None:
    for each in given:
        if "=" not in each:
            raise click.BadParameter(f"{each!r} is no pair; expected e.g. team=search")
    return dict(each.split("=", 1) for each in given) or None


@command(
    f"perdure jobs edit {_ID} --run-at now --priority 100",
    f"perdure jobs edit {_ID} --ttl 30d --label team=search",
    group=jobs,
)
@_some
@click.option("--priority", type=click.IntRange(-1000, 1000), help="Higher is claimed sooner.")
@click.option("--run-at", type=_Moment(), help="Puts pending jobs off, or brings them forward.")
@click.option("--max-attempts", type=click.IntRange(1), help="Runs that may end badly.")
@click.option("--max-rescues", type=click.IntRange(0), help="Deaths of its worker that a job survives.")
@click.option(
    "--ttl", metavar="DURATION", help="How long they can be looked up after their end, e.g. 30d; or ever."
)
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, callback=_labels, help="Replaces all labels."
)
async def edit(call: Call, job_ids: tuple[str, ...], ttl: str | None, **changes: Any) -> int:
    """Change jobs that are not finished.

    What is not named stays; a job's history keeps what was.
    """
    if ttl is not None:
        changes["ttl"] = None if ttl == "ever" else check.duration(ttl)
    elif all(value is None for value in changes.values()):
        raise click.UsageError("name at least one thing to change")
    options = changes | {"tenant": call.tenant, "actor": call.actor}
    async with call.open_jobs() as service:
        return await change_each(call, job_ids, lambda job_id: service.edit(job_id, **options))


@command(f"perdure jobs report {_ID} 0.4 'page 40 of 100'", group=jobs)
@_one
@click.argument("fraction", type=click.FloatRange(0, 1))
@click.argument("message", default="")
@click.option("--epoch", type=int, help="Of the run that is meant, as its handler knows it.")
async def report(call: Call, job_id: str, fraction: float, message: str, epoch: int | None) -> None:
    """Tell how far a running job has come.

    For a program that its handler started and waits for. What the handler itself tells next takes the place of it.
    """
    async with call.open_jobs() as service:
        job = await service.report(job_id, fraction, message, tenant=call.tenant, epoch=epoch)
    call.show_each([wire.JobLine.of(job)], f"{job.id}  {watch_line(job)}")


@command(f"perdure jobs delete {_ID}", group=jobs)
@_some
async def delete(call: Call, job_ids: tuple[str, ...]) -> int:
    """Remove the records of jobs.

    Their histories go with them. What a job has brought into the index stays. A worker that runs the job can write nothing more.
    """
    async with call.open_jobs() as service:
        return await change_each(
            call, job_ids, lambda job_id: service.delete(job_id, tenant=call.tenant, actor=call.actor)
        )


# `top` lives in a room of its own, and stands among these.
import_module("perdure.cli.commands.top")
