"""The pictures in the docs: `python -m tests.dashboard.screenshots FOLDER`."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.async_api import async_playwright

import perdure
from tests.dashboard.conftest import QUIET, ROOT, served


async def fill(app: perdure.App, folder: Path) -> dict[str, str]:
    """Some work of every sort; page → path."""
    pages = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.stat().st_size < 40_000][:25]
    jobs = [await app.ingest(path, document_id=str(path.relative_to(ROOT))) for path in pages]
    failed = [await app.submit("fragile", {"flag": str(folder / f"flag-{n}")}) for n in range(4)]
    asks = await app.submit("report", {"title": "the quarterly report"})
    for minutes in (80, 120, 200):
        await app.submit("transcribe", {"minutes": minutes})
    for job in (*jobs, *failed):
        await app.wait(job.id, timeout=60)
    await asyncio.sleep(8)
    return {
        "overview": "/",
        "jobs": "/jobs",
        "job": f"/jobs/{asks.id}",
        "search": "/search?q=what+happens+when+a+worker+dies",
    }


async def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as made, served(folder := Path(made)) as url:
        async with perdure.open(
            f"sqlite:///{folder / 'perdure.db'}", embedder="hashing", worker=False
        ) as app:
            paths = await fill(app, folder)
        async with async_playwright() as playwright:
            program = shutil.which("chromium")
            browser = await playwright.chromium.launch(executable_path=program, args=QUIET)
            shots = [(name, 1440, "light") for name in paths] + [
                ("jobs", 375, "light"),
                ("overview", 1440, "dark"),
            ]
            for name, width, scheme in shots:
                page = await browser.new_page(
                    base_url=url,
                    viewport={"width": width, "height": 800},
                    color_scheme="dark" if scheme == "dark" else "light",
                )
                await page.goto(paths[name])
                kind = "phone" if width < 1000 else "dark" if scheme == "dark" else "desktop"
                await page.screenshot(path=target / f"dashboard-{name}-{kind}.png")
                await page.close()
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
