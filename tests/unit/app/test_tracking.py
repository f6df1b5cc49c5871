"""Tracking as a program uses it: with an app, or with nothing but a store."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

import perdure
from perdure.core import replay
from perdure.domain.errors import InvalidInput
from perdure.domain.state import JobState


@pytest.mark.parametrize("worker", [True, False])
async def test_an_app_keeps_records_of_work_that_runs_elsewhere(worker: bool, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with perdure.open(url, worker=worker, embedder="hashing", job_ttl_hours=1) as app:
        async with app.track("transcribe", tenant="acme", payload={"video": 7}) as work:
            work.progress(0.5, "half")
            work.result = {"words": 9}
        job = await app.wait(await known(app, work.id), tenant="acme", timeout=120)
        assert (job.state, job.result) == (JobState.COMPLETED, {"words": 9})
        assert job.expires_at is not None
        assert job.completed_at is not None
        assert (job.expires_at - job.completed_at).total_seconds() == 3600
        async with app.track("transcribe") as last:
            pass
    async with perdure.open(url, worker=False, embedder="hashing") as app:
        job = await app.jobs.get(last.id, tenant="default")
        assert job.state is JobState.COMPLETED, "what waited was written when the app was closed"


async def known(app: perdure.App, job_id: str) -> str:
    async with asyncio.timeout(120):
        while await app.jobs.store.get("acme", job_id) is None:
            await asyncio.sleep(0.01)
    return job_id


async def test_a_tracker_opens_where_there_is_no_store_yet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "LONGEST_PAUSE", 0.1)
    folder = tmp_path / "not" / "mounted"
    async with perdure.tracker(f"sqlite:///{folder / 'jobs.db'}") as tracker:
        async with tracker.track("transcribe") as work:
            work.result = 1
        async with asyncio.timeout(120):
            while not any(record.levelno == logging.WARNING for record in caplog.records):
                await asyncio.sleep(0.01)
        assert tracker.waiting == 1
        folder.mkdir(parents=True)
        async with asyncio.timeout(120):
            while tracker.waiting:
                await asyncio.sleep(0.01)
    assert tracker.dropped == 0
    async with perdure.open(f"sqlite:///{folder / 'jobs.db'}", worker=False) as app:
        assert (await app.jobs.get(work.id, tenant="default")).result == 1


async def test_a_url_that_names_no_store_is_told_at_once() -> None:
    with pytest.raises(InvalidInput, match="unknown store"):
        async with perdure.tracker("nonsense://here"):
            pass


PROGRAM = """
import asyncio, sys, perdure

async def main():
    async with perdure.tracker("memory:") as tracker, tracker.track("work"):
        pass

asyncio.run(main())
print([name for name in ("numpy", "fastapi", "wordllama", "click", "apsw") if name in sys.modules])
"""


def test_a_tracker_loads_no_model_no_web_framework_and_no_other_driver() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "track-work.md").read_text()
    for code in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    [line] = re.findall(r"^perdure (jobs list .*)$", page, re.MULTILINE)
    command = [sys.executable, "-m", "perdure", *line.split()]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "embed" in listed
    assert "completed" in listed
