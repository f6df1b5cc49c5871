"""`perdure jobs top`"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.console import Group, RenderableType

from perdure import wire
from perdure.cli.call import Call, command
from perdure.cli.commands.jobs import jobs
from perdure.cli.show import job_table, stats_table
from perdure.cli.text import age
from perdure.domain.job import Job
from perdure.domain.query import JobFilter, Stats
from perdure.domain.record import Record
from perdure.domain.state import TERMINAL, JobState

_SHOWN = (JobState.RUNNING, JobState.WAITING, JobState.FAILED)
"""The states whose newest jobs are shown one by one."""


class _Look(Record):
    """What there is at one moment."""

    at: datetime
    stats: Stats
    jobs: tuple[Job, ...]
    due_since: datetime | None

    @property
    def ended(self) -> int:
        return sum(self.stats.by_state[state] for state in TERMINAL)


@command("perdure jobs top", "perdure jobs top --once --json | jq .by_status.pending", group=jobs)
@click.option("--every", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True, metavar="SECONDS")
@click.option(
    "--limit", "-l", type=click.IntRange(1, 100), default=8, show_default=True, help="Of each state."
)
@click.option("--once", is_flag=True, help="One look, and no more.")
async def top(call: Call, every: float, limit: int, once: bool) -> None:
    """Show what is under way, waits and has failed, live.

    Ctrl-C ends it. Where stdout is no terminal, and with --json, it is one look.
    """
    async with call.open_jobs() as service:
        look = await _look(service, call.tenant, limit)
        if once or call.json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
            told = msgspec.to_builtins(wire.Counts.of(look.stats))
            told |= {"at": look.at, "due_since": look.due_since, "jobs": [*map(wire.JobLine.of, look.jobs)]}
            call.show(told, *_parts(look, look))
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(markup=False, highlight=False, emoji=False)
        with Live(Group(*_parts(look, look)), console=console, screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(every)
                before, look = look, await _look(service, call.tenant, limit)
                live.update(Group(*_parts(look, before)), refresh=True)


async def _look(service: Any, tenant: str, limit: int) -> _Look:
    stats = await service.stats(tenant)
    pages = [await service.page(JobFilter(tenant=tenant, states=(state,)), limit=limit) for state in _SHOWN]
    now = service.clock.now()
    jobs = tuple(job for page in pages for job in page.jobs)
    return _Look(at=now, stats=stats, jobs=jobs, due_since=await _due_since(service, tenant))


async def _due_since(service: Any, tenant: str) -> datetime | None:
    after = ""
    while page := await service.tenants(1000, after):
        if tenant in page:
            since: datetime | None = page[tenant]
            return since
        after = max(page)
    return None


def _parts(look: _Look, before: _Look) -> Sequence[RenderableType]:
    """Counts, how fast jobs end, how long the next one has waited, and the jobs."""
    seconds = (look.at - before.at).total_seconds()
    rate = f"{max(0, look.ended - before.ended) / seconds:,.1f} ended a second" if seconds else ""
    waits = f"the next has been due for {age(look.due_since, look.at)}" if look.due_since else "none is due"
    line = ", ".join(filter(None, (look.at.strftime("%H:%M:%S UTC"), rate, waits)))
    return line, "", stats_table(look.stats), "", *[job_table(look.jobs, look.at)] * bool(look.jobs)
