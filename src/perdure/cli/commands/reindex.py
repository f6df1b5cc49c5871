"""`perdure reindex`"""

from __future__ import annotations

from typing import Final

import click

from perdure import wire
from perdure.cli.call import Call, command
from perdure.cli.failures import OK, UNSUCCESSFUL
from perdure.cli.output import say
from perdure.cli.progress import counter
from perdure.cli.running import working
from perdure.domain.state import JobState

_LOOK_EVERY: Final = 0.2


@command(
    "PERDURE_EMBEDDERS=minilm perdure reindex -n hr --model minilm",
    "perdure reindex -n hr --rollback",
    "perdure reindex -n hr --drop-old",
)
@click.option("--namespace", "-n", default="default", show_default=True, help="Which one.")
@click.option("--model", metavar="NAME", default="", help="The new embedder, named as in PERDURE_EMBEDDER.")
@click.option("--rollback", is_flag=True, help="Go back to the model before.")
@click.option("--drop-old", is_flag=True, help="Remove what is kept for a rollback.")
@click.option("--no-wait", is_flag=True, help="Only queue the job; 'perdure worker' runs it.")
async def reindex(
    call: Call, namespace: str, model: str, *, rollback: bool, drop_old: bool, no_wait: bool
) -> int:
    """Move a namespace to another embedding model.

    Its stored texts are embedded again in the background, while searches and ingestions go on with the model that it has;
    then all searches change over in one step. What was there before is kept for --rollback, until --drop-old.
    """
    async with call.open() as app:
        job = await app.reindex(
            namespace,
            model,
            rollback=rollback,
            drop_old=drop_old,
            tenant=call.tenant,
            created_by="perdure reindex",
        )
        if no_wait:
            call.show(wire.Status.of(job), job.id)
            return OK
        async with working(app.make_worker()) as stop:
            with counter("documents copied", quiet=call.json) as show:
                while not job.finished and not stop.asked.is_set():
                    await stop.pause(_LOOK_EVERY)
                    job = await app.jobs.get(job.id, tenant=call.tenant)
                    show(int(job.progress.counts.get("documents_copied", 0)) if job.progress else 0)
        job = await app.jobs.get(job.id, tenant=call.tenant)
    call.show(wire.Status.of(job), f"{job.id}  {job.state}")
    if job.failure is not None:
        say(job.failure.message)
    if stop.signals and not job.finished:
        say(f"interrupted; job {job.id} goes on with the next 'perdure worker'")
        return stop.exit_code
    return OK if job.state is JobState.COMPLETED else UNSUCCESSFUL
