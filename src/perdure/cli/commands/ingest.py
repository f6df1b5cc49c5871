"""`perdure ingest PATH…`"""

from __future__ import annotations

import asyncio
import codecs
import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import click
import msgspec

from perdure.cli import report
from perdure.cli.batch import Batch
from perdure.cli.call import Call, command
from perdure.cli.failures import BAD_INPUT, OK, UNSUCCESSFUL
from perdure.cli.files import FileSearch
from perdure.cli.output import say
from perdure.cli.progress import shown
from perdure.cli.running import working
from perdure.cli.text import counted, printable
from perdure.cli.tracking import Tally, Tracker
from perdure.domain.record import Json


def _pairs(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> dict[str, Json]:
    """Read `k=v`: a value that is JSON (a number, true, "text") counts as such, any other as text."""
    pairs: dict[str, Json] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{value!r} is no pair; expected e.g. lang=en")
        try:
            pairs[name] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            pairs[name] = text
    return pairs


def _encoding(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuse an unknown name here, once, and not in each file's job."""
    try:
        if value is not None:
            codecs.lookup(value)
    except LookupError:
        raise click.BadParameter(
            f"{value!r} is no encoding; expected e.g. utf-8, latin-1 or utf-16"
        ) from None
    return value


@command(
    "perdure ingest handbook.md notes/",
    "perdure ingest docs/ --namespace hr --metadata lang=en --metadata year=2024",
    "perdure ingest 'docs/**/*.md' --base docs",
    "perdure ingest logs/ --glob '*.log' --encoding latin-1",
    "perdure ingest docs/ --no-wait && perdure worker",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--namespace", "-n", default="default", show_default=True, help="What is searched together.")
@click.option(
    "--encoding",
    "-e",
    callback=_encoding,
    help="Of the files' bytes.  [default: byte order mark, else UTF-8]",
)
@click.option(
    "--chunking",
    metavar="HOW",
    help="How they are cut, e.g. markdown:1200,overlap=100.  [default: the settings']",
)
@click.option(
    "--metadata", "-m", metavar="K=V", multiple=True, callback=_pairs, help="Searches can filter by it."
)
@click.option(
    "--base",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Document ids are paths relative to it.  [default: the working folder]",
)
@click.option(
    "--glob",
    "patterns",
    metavar="PATTERN",
    multiple=True,
    help="In folders, only files whose name or path below the folder matches, of any format.",
)
@click.option("--no-wait", is_flag=True, help="Only queue the jobs; 'perdure worker' runs them.")
@click.option("--concurrency", "-c", type=click.IntRange(1), metavar="N", help="Documents under way at once.")
async def ingest(
    call: Call,
    *,
    paths: tuple[str, ...],
    namespace: str,
    encoding: str | None,
    chunking: str | None,
    metadata: dict[str, Json],
    base: Path | None,
    patterns: tuple[str, ...],
    no_wait: bool,
    concurrency: int | None,
) -> int:
    """Turn files and folders into searchable chunks.

    Each file becomes a durable job: what was queued survives a crash, and a document that is interrupted goes on where it
    stopped. Folders are searched for all known formats; hidden files and links that lead outside are passed over. A file
    that fails does not stop the others. Documents whose content has not changed are not embedded again.
    """
    async with call.open(create=True, concurrency=concurrency, chunking=chunking) as app:
        found = FileSearch(suffixes=app.parsers.suffixes, base=base, patterns=patterns)
        await asyncio.to_thread(found.add_all, paths)
        if remark := found.passed_over.remark():
            say(remark)
        if not found.files:
            return _nothing_found(found, paths)
        options: dict[str, str | None] = {
            "namespace": namespace,
            "tenant": call.tenant,
            "created_by": "perdure ingest",
            "chunking": chunking,
        }
        batch = Batch(app, found.problems, encoding, metadata, options)
        return await (_queue if no_wait else _run)(call, batch, found)


def _nothing_found(found: FileSearch, paths: Collection[str]) -> int:
    _say_rejected(found)
    if not found.problems:  # which say by themselves why there is nothing
        say(f"nothing to ingest in {', '.join(paths)}; formats known: {' '.join(sorted(found.suffixes))}")
    return BAD_INPUT


def _say_rejected(found: FileSearch) -> None:
    for problem in found.problems:
        say(f"{problem.path}: {problem.message}")


async def _queue(call: Call, batch: Batch, found: FileSearch) -> int:
    """Add the jobs and leave them to workers."""
    begun = time.monotonic()
    await batch.add(found.files)
    _say_rejected(found)
    lines = (f"{job.id}  {printable(job.document_id or '')}" for job in batch.added)
    told = report.document(Tracker(batch.added, {}), batch.files, found, time.monotonic() - begun)
    call.show(told, *lines)
    say(f"queued {counted(len(batch.added), 'document')}; 'perdure worker' runs what is queued")
    return UNSUCCESSFUL if found.problems else OK


async def _run(call: Call, batch: Batch, found: FileSearch) -> int:
    """Add the jobs and run them to their ends, with the help of whatever workers there are."""
    begun = time.monotonic()
    # What the worker inside says of each job that fails is reported at the end, once.
    logging.getLogger("perdure.core.worker").setLevel(logging.ERROR)
    async with working(batch.app.make_worker()) as stop:
        with shown(quiet=call.json) as show:
            show(Tally(total=len(found.files)))
            left = await batch.add(found.files, stop.asked.is_set)
            tracker = await batch.finish(stop, show)
    # Draining has brought more jobs to their ends.
    await batch.look(tracker)
    tally, seconds = tracker.tally(), time.monotonic() - begun
    _say_rejected(found)
    for line in report.failures(tracker.jobs, batch.files):
        say(line)
    call.show(
        report.document(tracker, batch.files, found, seconds),
        report.summary(tally, len(found.problems), seconds),
    )
    if stop.signals and (tracker.open or left):
        say(report.interruption(tally, left))
        return stop.exit_code
    return OK if tally.good and not found.problems else UNSUCCESSFUL
