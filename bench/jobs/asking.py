"""Jobs that ask, two who race to answer each, and workers that are killed meanwhile: each has exactly one answer.

    python -m bench.jobs.asking [--store sqlite|postgres] [--jobs 1000] [--seed 1]

Two worker processes run jobs that ask for a JSON answer that fits a schema; one of them after the other is ended by SIGKILL
and started again. Two answerers, each with connections of its own, answer every question at the same moment. Then, from the store: every job is
completed with the answer of which one answerer was told that it counts, and its history has that answer once, with its author
and time. Prints a JSON line; exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import perdure
from perdure.app import App
from perdure.core.context import Context
from perdure.core.jobs import JobService
from perdure.domain.errors import IllegalTransition
from perdure.domain.job import Entry, Job, NewJob
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from tests.servers.postgres import postgres_server

KIND = "ask"
ANSWERERS = ("ann", "bob")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"by": {"enum": list(ANSWERERS)}},
    "required": ["by"],
    "additionalProperties": False,
}


@dataclass
class Report:
    """What a run showed; `wrong` is empty if all promises held."""

    store: str
    jobs: int
    kills: int = 0
    rescues: int = 0
    seconds: float = 0.0
    accepted: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def register(app: App) -> None:
    """Teach a worker the kind."""

    @app.handler(KIND)
    async def ask(ctx: Context) -> Any:
        await asyncio.sleep(0.05)  # long enough to be killed in
        answer = await ctx.ask("Who was quicker?", schema=SCHEMA)
        await asyncio.sleep(0.05)
        return answer


def start_worker(folder: Path, url: str) -> subprocess.Popen[bytes]:
    """A worker in a process of its own."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environ = {"PERDURE_STORE": url, "PERDURE_VECTORS": "memory:", "PERDURE_LEASE_SECONDS": "1"}
    command = [
        sys.executable,
        "-m",
        "perdure",
        "worker",
        "--import",
        "bench.jobs.asking:register",
        "-c",
        "20",
    ]
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environ, "PYTHONPATH": path}, stderr=log
        )


async def run(url: str, report: Report, folder: Path, seed: int) -> None:
    """Ask, answer, kill, judge."""
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        open_app = [perdure.open(url, vectors="memory:", worker=False) for _ in ANSWERERS]
        apps = [await stack.enter_async_context(app) for app in open_app]
        jobs = apps[0].jobs
        added = await jobs.add_many([NewJob(kind=KIND, max_rescues=1000) for _ in range(report.jobs)])
        done = asyncio.Event()
        killing = asyncio.create_task(kill(folder, url, done, random.Random(seed), report))
        accepted = await answer([app.jobs for app in apps], report)
        done.set()
        await killing
        report.seconds = round(time.monotonic() - begun, 1)
        report.accepted = dict(Counter(accepted.values()))
        for job in added:
            kept = await jobs.get(job.id, tenant=job.tenant)
            judge(kept, await jobs.history(job.id, tenant=job.tenant), accepted, report)


async def kill(folder: Path, url: str, done: asyncio.Event, chance: random.Random, report: Report) -> None:
    """Keep two workers running, and end one of them now and then."""
    workers = [start_worker(folder, url) for _ in range(2)]
    try:
        while not done.is_set():
            await asyncio.sleep(chance.uniform(1.0, 2.5))
            victim = chance.randrange(2)
            workers[victim].kill()
            workers[victim].wait()
            report.kills += 1
            workers[victim] = start_worker(folder, url)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


async def answer(services: list[JobService], report: Report) -> dict[str, str]:
    """Answer what is asked, all at the same moment, until no job is left; job → whose answer was accepted."""
    accepted: dict[str, str] = {}

    async def say(service: JobService, by: str, job: Job) -> None:
        try:
            await service.respond(job.id, {"by": by}, tenant=job.tenant, actor=by)
        except IllegalTransition:
            report.refused += 1
            return
        if accepted.setdefault(job.id, by) != by:
            report.wrong.append(f"job {job.id}: both answers were accepted")

    query = JobFilter(tenant="default", states=(JobState.WAITING,))
    while (await services[0].stats("default")).unfinished:
        waiting = await services[0].store.find(query, 50)
        racers = list(zip(services, ANSWERERS, strict=True))
        racers = racers[:: (-1) ** (len(accepted) % 2)]  # nobody is always asked first
        await asyncio.gather(*(say(*racer, job) for job in waiting for racer in racers))
        await asyncio.sleep(0.05)
    return accepted


def judge(job: Job, history: list[Entry], accepted: dict[str, str], report: Report) -> None:
    """Hold a job against what its answerers were told."""
    answers = [entry for entry in history if entry.event is Event.ANSWERED]
    by = accepted.get(job.id)
    report.rescues += sum(entry.event is Event.RESCUED for entry in history)
    right = (
        job.state is JobState.COMPLETED
        and job.result == {"by": by}
        and [(one.actor, one.detail["answer"]) for one in answers] == [(by, {"by": by})]
        and [(one.answered_by, one.answered_at) for one in job.questions] == [(by, answers[0].at)]
    )
    if not right:
        report.wrong.append(
            f"job {job.id} is {job.state}, {job.result}; {by} was accepted; {len(answers)} answers"
        )


def measure(store: str, jobs: int, seed: int) -> Report:
    """One run on a store of its own."""
    report = Report(store, jobs)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder / 'asking.db'}"
        if store == "postgres":
            url = stack.enter_context(postgres_server()).url
        asyncio.run(run(url, report, folder, seed))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    report = measure(given.store, given.jobs, given.seed)
    print(json.dumps(asdict(report)), flush=True)
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main())
