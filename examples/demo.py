"""Python's own language reference becomes a searchable index, although its worker is killed in the middle.

Run it with `make demo`, or `python examples/demo.py`. It writes to `.demo/` in the working folder and starts afresh each time.
What it shows is proved from the store; the exit code is 1 if any proof fails.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pydoc_data.topics import topics

import perdure
from perdure import App, Job, JobState
from perdure.domain.document import Chunk
from perdure.domain.query import JobFilter

FOLDER = Path(".demo")
DOCUMENTS = FOLDER / "language-reference"
STORE = f"sqlite:///{FOLDER / 'perdure.db'}"
LOG = FOLDER / "worker.log"
QUESTIONS = (
    "What happens if an exception is raised in a finally clause?",
    "How do I format a number with a comma as thousands separator?",
    "How do I make instances of my class callable?",
)
# A short lease, so that nobody has to wait: a dead worker's jobs are taken over after two seconds.
SETTINGS = {"PERDURE_STORE": STORE, "PERDURE_LEASE_SECONDS": "2"}
COMMAND = [sys.executable, "-m", "perdure"]


# --- what it looks like ---------------------------------------------------------------------


class Page:
    """Writes calm lines; colours and moving bars only on a terminal."""

    def __init__(self) -> None:
        self.moving = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.coloured = self.moving and not os.environ.get("NO_COLOR")

    def style(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.coloured else text

    def title(self, text: str) -> None:
        print(f"\n{self.style(text, '1')}", flush=True)

    def line(self, text: str = "") -> None:
        print(f"  {text}", flush=True)

    def command(self, *words: str) -> None:
        self.line(self.style("$ " + " ".join(quoted(word) for word in words), "36"))

    def bar(self, done: int, total: int, note: str) -> None:
        if self.moving:
            filled = round(30 * done / total)
            print(
                f"\r  {'█' * filled}{'░' * (30 - filled)} {done} of {total} {note}\x1b[K", end="", flush=True
            )

    def bar_ends(self, done: int, total: int, note: str) -> None:
        self.bar(done, total, note)
        print("" if self.moving else f"  {done} of {total} {note}", flush=True)


def quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


page = Page()


# --- the processes --------------------------------------------------------------------------


def run(*words: str, into: Path | None = None) -> None:
    """Run a perdure command to its end; what it says appears as it is, its data goes `into` a file if one is named."""
    page.command("perdure", *words, *([">", str(into)] if into else []))
    with into.open("wb") if into else nullcontext() as stdout:
        done = subprocess.run([*COMMAND, *words], stdout=stdout, check=False)
    if done.returncode != 0:
        sys.exit(f"perdure {words[0]} failed with exit code {done.returncode}")


@contextmanager
def worker(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own; it is asked to stop when the block ends, unless it is dead by then."""
    page.command("perdure", "worker", *options)
    with LOG.open("ab") as log:
        process = subprocess.Popen([*COMMAND, "worker", *options], stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


# --- the story ------------------------------------------------------------------------------


def write_documents() -> None:
    """Write each topic of the language reference that comes with every Python as a file."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    DOCUMENTS.mkdir(parents=True)
    (FOLDER / ".gitignore").write_text("*\n")
    for name, text in topics.items():
        (DOCUMENTS / f"{name}.rst").write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for path in DOCUMENTS.iterdir())
    page.line(f"{len(topics)} files, {size:,} bytes, in {DOCUMENTS}/")


def queue() -> None:
    """Queue a job for each file; nobody works yet."""
    run("ingest", str(DOCUMENTS), "--base", str(DOCUMENTS), "--no-wait", into=FOLDER / "jobs.txt")


async def states(app: App) -> Counter[JobState]:
    return Counter((await app.jobs.stats("default")).by_state)


async def die_in_the_middle(app: App) -> None:
    """Start a worker and kill it, without warning, when a third of the jobs are done."""
    with worker("--concurrency", "2") as process:
        while True:
            now = await states(app)
            page.bar(now[JobState.COMPLETED], len(topics), "completed")
            if now[JobState.COMPLETED] * 3 >= len(topics) and now[JobState.RUNNING]:
                break
            if process.poll() is not None:
                sys.exit(f"the worker stopped by itself; {LOG} says why")
            await asyncio.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    left = await states(app)
    page.bar_ends(left[JobState.COMPLETED], len(topics), "completed")
    page.line(
        f"SIGKILL. In its hands were {left[JobState.RUNNING]} jobs; {left[JobState.PENDING]} had not begun."
    )


async def go_on(app: App) -> None:
    """Start another worker and wait until every job has come to its end."""
    begun = time.monotonic()
    with worker():
        while True:
            now = await states(app)
            completed, running = now[JobState.COMPLETED], now[JobState.RUNNING]
            page.bar(completed, len(topics), f"completed, {running} with a worker")
            if sum(now[state] for state in JobState if state.terminal) == len(topics):
                break
            await asyncio.sleep(0.05)
    page.bar_ends(completed, len(topics), f"completed, {time.monotonic() - begun:.1f} s later")
    page.line(f"What the workers said is in {LOG}.")


# --- the proof ------------------------------------------------------------------------------


class Proof:
    """Says what was checked, and remembers whether all of it held."""

    def __init__(self) -> None:
        self.holds = True

    def check(self, holds: bool, text: str) -> None:
        self.holds &= holds
        page.line(f"{page.style('✓', '32') if holds else page.style('✗ NOT SO:', '31')} {text}")


async def prove(app: App, jobs: list[Job]) -> bool:
    """Read everything back from the store; whether it is all there, once."""
    documents = await app.vectors.documents("default", "default", 1000)
    pieces = {
        document.document.id: await app.vectors.chunks("default", "default", document.document.id, 10_000)
        for document in documents
    }
    chunks = [chunk for listed in pieces.values() for chunk in listed]
    names = [path.name for path in DOCUMENTS.iterdir()]
    proof = Proof()
    proof.check(
        sorted(document.document.id for document in documents) == sorted(names),
        f"{len(documents)} documents: each file is there, once",
    )
    proof.check(
        len({chunk.chunk_id for chunk in chunks}) == len(chunks)
        and all(
            [chunk.chunk_index for chunk in listed] == [*range(len(listed))] for listed in pieces.values()
        ),
        f"{len(chunks)} chunks: no id twice, indexes without a gap",
    )
    proof.check(
        all(tells_whole(DOCUMENTS / name, pieces.get(name, [])) for name in names),
        "put together again, the chunks of each document are its whole text",
    )
    proof.check(
        all(job.state is JobState.COMPLETED for job in jobs) and len(jobs) == len(names),
        f"{len(jobs)} jobs: all completed",
    )
    rescued = sum(job.rescues > 0 for job in jobs)
    proof.check(rescued > 0, f"{rescued} of them were rescued from the dead worker")
    return proof.holds


def tells_whole(path: Path, chunks: list[Chunk]) -> bool:
    """Whether each chunk is the document's text at its place, none overlap, and nothing but white space is left out."""
    text = path.read_text(encoding="utf-8")
    end = 0
    for chunk in chunks:
        if (
            chunk.start < end
            or text[end : chunk.start].strip()
            or text[chunk.start : chunk.end] != chunk.chunk_text
        ):
            return False
        end = chunk.end
    return not text[end:].strip()


# --- what it is good for --------------------------------------------------------------------


def tell_history(job: Job) -> None:
    """Show the end of what `perdure jobs show` tells about a job."""
    told = FOLDER / "job.txt"
    run("jobs", "show", job.id, into=told)
    _, _, history = told.read_text(encoding="utf-8").partition("history\n")
    print(f"  {job.document_id}\n{history.rstrip()}")


def say_what_next(job: Job) -> None:
    program = Path(sys.executable).with_name("perdure")
    program = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    page.line(f"export PERDURE_STORE={STORE}")
    for words in (
        ("search", "How can I give a function parameter a default value?"),
        ("jobs", "list", "--limit", "5"),
        ("jobs", "show", job.id),
        ("store", "info"),
        ("ingest", str(DOCUMENTS), "--base", str(DOCUMENTS)),
        ("ingest", "README.md", "docs/", "--namespace", "perdure"),
    ):
        page.line(f"{program} {' '.join(quoted(word) for word in words)}")


def use_settings() -> None:
    """Set what the demo needs for this process and those it starts, and nothing of the user's own."""
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        del os.environ[name]
    os.environ.update(SETTINGS)


async def main() -> int:
    use_settings()
    print(
        page.style(
            "Python's language reference becomes a searchable index, though a worker dies on the way.", "1"
        )
    )
    page.title("1. Documents")
    write_documents()
    page.title("2. A job for each: durable from now on")
    queue()
    # This process only looks: the work is done by processes of their own.
    async with perdure.open(worker=False) as app:
        page.title("3. A worker starts, and is killed in the middle")
        await die_in_the_middle(app)
        page.title("4. Another one goes on")
        await go_on(app)
        page.title("5. The proof, read back from the store")
        jobs = list((await app.jobs.page(JobFilter(tenant="default"), limit=1000)).jobs)
        if not await prove(app, jobs):
            return 1
        page.title("6. Questions")
        for question in QUESTIONS:
            run("search", question, "--limit", "1")
        page.title("7. The history of a rescued job")
        job = max(jobs, key=lambda job: (job.rescues, job.epoch))
        tell_history(job)
    page.title("8. What to type next")
    say_what_next(job)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
