"""`perdure jobs …` that change jobs, and what other commands that do share with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from perdure import wire
from perdure.cli.call import Call, command
from perdure.cli.commands.jobs import EXAMPLE, by_id, jobs, narrowing
from perdure.cli.failures import OK, exit_code
from perdure.cli.output import say
from perdure.cli.show import watch_line
from perdure.cli.text import counted
from perdure.domain import validation as check
from perdure.domain.errors import PerdureError, StoreError
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.domain.state import JobState

_some = click.argument("job_ids", metavar="ID…", nargs=-1, required=True)


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


@command(f"perdure jobs cancel {EXAMPLE} --reason 'wrong file'", group=jobs)
@_some
@click.option("--reason", default="", help="Kept in the job's history.")
async def cancel(call: Call, job_ids: tuple[str, ...], reason: str) -> int:
    """Call jobs off.

    A worker that runs one learns so within seconds; nothing that it says afterwards counts.
    """
    options = {"tenant": call.tenant, "actor": call.actor, "reason": reason}
    async with call.open_jobs() as service:
        return await change_each(call, job_ids, lambda job_id: service.cancel(job_id, **options))


@command(f"perdure jobs retry {EXAMPLE}", "perdure jobs retry --failed --kind vectorize", group=jobs)
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
@by_id
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
    f"perdure jobs edit {EXAMPLE} --run-at now --priority 100",
    f"perdure jobs edit {EXAMPLE} --ttl 30d --label team=search",
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


@command(f"perdure jobs report {EXAMPLE} 0.4 'page 40 of 100'", group=jobs)
@by_id
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


@command(f"perdure jobs delete {EXAMPLE}", group=jobs)
@_some
async def delete(call: Call, job_ids: tuple[str, ...]) -> int:
    """Remove the records of jobs.

    Their histories go with them. What a job has brought into the index stays. A worker that runs the job can write nothing more.
    """
    async with call.open_jobs() as service:
        return await change_each(
            call, job_ids, lambda job_id: service.delete(job_id, tenant=call.tenant, actor=call.actor)
        )
