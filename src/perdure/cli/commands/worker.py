"""`perdure worker`"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import click

from perdure.cli.call import Call, command
from perdure.cli.output import show_log
from perdure.cli.running import run_for_long, working


@command(
    "perdure worker",
    "perdure worker --concurrency 4 --kind vectorize",
    "perdure worker --import handlers:register   where handlers.py says:",
    "  def register(app):",
    """      @app.handler("transcribe", max_attempts=5)""",
    "      async def transcribe(ctx, video_url): ...",
)
@click.option("--concurrency", "-c", type=click.IntRange(1), metavar="N", help="Jobs under way at once.")
@click.option("--kind", "kinds", metavar="KIND", multiple=True, help="Only of this kind; repeatable.")
@click.option(
    "--import",
    "imports",
    metavar="MODULE:FUNCTION",
    multiple=True,
    help="Call this function with the app, to register handlers of your own.",
)
@click.option(
    "--metrics",
    metavar="ADDRESS",
    help="Tell Prometheus at this port, or host and port; 9100 is 127.0.0.1:9100.",
)
@click.option("--quiet", "-q", is_flag=True, help="Say only what is wrong.")
def worker(
    call: Call,
    concurrency: int | None,
    kinds: tuple[str, ...],
    imports: tuple[str, ...],
    metrics: str | None,
    quiet: bool,
) -> None:
    """Run jobs until stopped.

    Of all tenants; any number of workers may share a store. SIGTERM or Ctrl-C lets what is under way come to its end and gives back the
    rest; a second one stops at once. What a killed worker had in hand is taken over by another when its lease is over.
    """
    run_for_long(_work(call, concurrency, kinds, imports, metrics, quiet))


async def _work(
    call: Call,
    concurrency: int | None,
    kinds: tuple[str, ...],
    imports: tuple[str, ...],
    metrics: str | None,
    quiet: bool,
) -> None:
    registers = [_load(name) for name in imports]
    app = call.open(create=True, concurrency=concurrency)
    if not quiet:
        show_log(logging.INFO, "%(asctime)s %(message)s", style=app.settings.log)
    for register in registers:
        register(app)
    from perdure.telemetry.serving import metrics_at

    async with app:
        for kind in kinds:
            app.handlers.get(kind)  # one that nobody taught it would be waited for in vain, and silently
        telling = metrics_at(metrics, app.metrics) if metrics else nullcontext()
        async with telling, working(app.make_worker(kinds=kinds or None)) as stop:
            await stop.asked.wait()


def _load(name: str) -> Callable[..., Any]:
    """Import `module:function`, from the working folder too."""
    from perdure.domain.errors import InvalidInput
    from perdure.wiring import imported

    if "" not in sys.path:
        sys.path.insert(0, "")
    found = imported(name)
    if not callable(found):
        raise InvalidInput(f"--import {name!r} is no function; expected def register(app)")
    register: Callable[..., Any] = found
    return register
