"""How much memory one large document takes on its way: prints one JSON line.

    python -m bench.ingest.memory --megabytes 1000 [--shape line] [--model hashing]
    python -m bench.ingest.memory --file scan.pdf

The whole system: an application with its worker, jobs and vectors in one SQLite file, and the processes that it starts.
What is counted is the sum of what each holds (RSS; pages that two of them share count twice), over what they hold
before the document comes, when everything is loaded and a small document of the same kind has been ingested.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

import perdure
from perdure.domain.state import JobState

SHAPES = {
    "line": "All of this text stands on one line, with a number: {number:08} and no break. ",
    "paragraphs": "A paragraph with a number: {number:08}. It says little.\nAnd it has a second line.\n\n",
    "solid": "{number:08}",
}


class Watch:
    """Most memory that this process and its descendants held at one moment, in MB, looked at 50 times a second."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.processes = 0
        self._stop = Event()
        self._thread = Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            held, processes = resident()
            self.peak, self.processes = max(self.peak, held), max(self.processes, processes)


def resident() -> tuple[float, int]:
    """What this process and its descendants hold, in MB, and how many they are."""
    me, total, count = psutil.Process(), 0, 0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):  # it ended meanwhile
            total += process.memory_info().rss
            count += 1
    return total / 1_000_000, count


def write(path: Path, shape: str, megabytes: int) -> None:
    piece = "".join(SHAPES[shape].format(number=number) for number in range(10_000)).encode()
    with path.open("wb") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(piece)


async def measure(folder: Path, path: Path, shape: str, model: str) -> dict[str, Any]:
    small = folder / f"small{path.suffix}"
    if path.suffix == ".txt":
        write(small, shape, 1)
    else:
        small.write_bytes(path.read_bytes())
    async with perdure.open(f"sqlite:///{folder / 'perdure.db'}", embedder=model) as app:
        await app.wait((await app.ingest(small, namespace="warm")).id)
        await asyncio.sleep(1)
        idle, _ = resident()
        begun = time.perf_counter()
        with Watch() as watch:
            job = await app.wait((await app.ingest(path)).id)
        seconds = time.perf_counter() - begun
    assert job.state is JobState.COMPLETED, job.failure
    assert isinstance(job.result, dict)
    return {
        "bench": "memory",
        "megabytes": round(path.stat().st_size / 1_000_000, 1),
        "shape": shape if path.suffix == ".txt" else path.suffix,
        "model": model,
        "chunks": job.result["chunks_total"],
        "seconds": round(seconds, 1),
        "processes": watch.processes,
        "idle_mb": round(idle, 1),
        "peak_over_idle_mb": round(watch.peak - idle, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="line")
    parser.add_argument("--file", type=Path, help="a document of your own, in place of a text that is made")
    parser.add_argument("--model", choices=["hashing", "local"], default="hashing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.file
        if path is None:
            path = Path(folder) / "large.txt"
            write(path, given.shape, given.megabytes)
        told = asyncio.run(measure(Path(folder), path, given.shape, given.model))
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
