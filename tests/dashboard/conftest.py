"""A server and a worker as processes of their own on one SQLite file, and a real Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

ROOT = Path(__file__).parents[2]
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`perdure serve` and `perdure worker` in a folder; the server's URL."""
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")},
        "PERDURE_STORE": f"sqlite:///{folder / 'perdure.db'}",
        "PERDURE_EMBEDDER": "hashing",
        "PERDURE_GRACE_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
    }
    perdure = [sys.executable, "-m", "perdure"]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(
            [*perdure, "serve", "--port", "0", "--no-worker", "--json"],
            env=environ,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        works = [*perdure, "worker", "--import", "tests.dashboard.handlers:register"]
        worker = subprocess.Popen(works, env=environ, cwd=folder, stderr=log)
    try:
        yield url
    finally:
        for process in (worker, server):
            process.terminate()
        for process in (worker, server):
            process.wait(30)
        server.stdout.close()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path) as url:
        yield url


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    program = shutil.which("chromium")
    assert program is not None, "these tests need Debian's package chromium; tools/servers.sh installs it"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        await browser.close()


@pytest.fixture
async def context(chromium: Browser, url: str) -> BrowserContext:
    """A browser that has not been here before."""
    return await chromium.new_context(base_url=url, viewport={"width": 1440, "height": 900})


@pytest.fixture
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A tab. Whatever its console complains of fails the test: a script that the policy stops, too."""
    complaints: list[str] = []
    page = await context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda line: (
            complaints.append(line.text) if line.type == "error" and "status of 4" not in line.text else None
        ),
    )
    yield page
    assert complaints == []
