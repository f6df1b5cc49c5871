"""One trace from the caller's request to the published document, over two processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure.telemetry.traces import tracing


def run(folder: Path, what: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.telemetry.traced", str(folder), what],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.server
@pytest.mark.slow
async def test_one_trace_leads_from_submit_to_publish_across_processes(tmp_path: Path) -> None:
    submitted = await asyncio.to_thread(run, tmp_path, "submit")
    worked = await asyncio.to_thread(run, tmp_path, "work")
    spans = {span["name"]: span for span in (submitted + worked)[::-1]}  # of several the first
    assert len({span["trace"] for span in spans.values()}) == 1
    parents = {
        "perdure.submit": "request",
        "perdure.claim": "perdure.submit",
        "perdure.run": "perdure.submit",
        "perdure.parse": "perdure.run",
        "perdure.embed": "perdure.run",
        "perdure.store": "perdure.run",
        "perdure.publish": "perdure.run",
    }
    assert {name: spans[name]["parent"] for name in parents} == {
        name: spans[parent]["id"] for name, parent in parents.items()
    }
    order = ["request", *parents]
    assert order == sorted(order, key=lambda name: spans[name]["begun"])
    assert spans["perdure.run"]["job"] is not None


async def test_without_a_provider_nothing_is_traced_and_nothing_is_carried() -> None:
    assert tracing() is None
    async with perdure.open("memory:", embedder="hashing", worker=False) as app:
        job = await app.submit("work", labels={"team": "search"})
        assert job.labels == {"team": "search"}
