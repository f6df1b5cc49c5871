"""What a person does in the browser, with what other processes do meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import BrowserContext, Page, expect

import perdure
from perdure.app import App

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("browser")]

PAGES = ("/", "/jobs", "/dead", "/documents", "/search?q=leave", "/workers", "/tenants", "/login")
MARKUP = "\"'><img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


@pytest.fixture
async def replica(tmp_path: Path, url: str) -> AsyncIterator[App]:
    """Another process on the same store."""
    async with perdure.open(f"sqlite:///{tmp_path / 'perdure.db'}", embedder="hashing", worker=False) as app:
        yield app


async def test_a_document_is_submitted_watched_and_found(page: Page) -> None:
    await page.goto("/documents")
    await page.get_by_label("or text").fill("Every employee has thirty days of leave a year.")
    await page.get_by_label("Id of the document").fill("handbook")
    await page.get_by_role("button", name="Ingest").click()
    await page.wait_for_url("**/jobs/*")
    await expect(page.get_by_role("status")).to_contain_text("completed", timeout=30_000)  # without a reload
    await page.get_by_role("link", name="Search").click()
    await page.get_by_label("Question").fill("how many days of leave")
    await page.get_by_role("button", name="Search").click()
    await page.get_by_role("link", name="handbook").click()
    await expect(page.locator(".hit .text")).to_have_text("Every employee has thirty days of leave a year.")


async def test_a_file_is_uploaded(page: Page, tmp_path: Path) -> None:
    (tmp_path / "leave.md").write_text("# Leave\n\nThirty days a year.")
    await page.goto("/documents")
    await page.get_by_label("File").set_input_files(tmp_path / "leave.md")
    await page.get_by_role("button", name="Ingest").click()
    await expect(page.get_by_role("status")).to_contain_text("completed", timeout=30_000)
    await page.goto("/documents")
    await expect(page.get_by_role("link", name="leave.md")).to_be_visible()


async def test_a_job_that_failed_is_retried(page: Page, replica: App, tmp_path: Path) -> None:
    job = await replica.submit("fragile", {"flag": str(tmp_path / "flag")})
    await replica.wait(job.id, timeout=30)
    await page.goto("/")
    await page.get_by_role("link", name="the disk <b>is</b> full").click()
    await expect(page.get_by_role("status")).to_contain_text("failed")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_role("status")).to_contain_text("completed", timeout=30_000)


async def test_dead_letters_are_retried_together(page: Page, replica: App, tmp_path: Path) -> None:
    jobs = [await replica.submit("fragile", {"flag": str(tmp_path / f"flag-{n}")}) for n in range(3)]
    for job in jobs:
        await replica.wait(job.id, timeout=30)
    await page.goto("/dead?kind=fragile")
    await page.get_by_label(f"choose fragile {jobs[0].id}").check()
    await page.get_by_role("button", name="Retry the chosen").click()
    await expect(page.get_by_role("status")).to_have_text("1 sent round again.")
    await page.get_by_role("button", name="Retry all that match").click()
    await expect(page.get_by_role("status")).to_have_text("2 sent round again.")
    for job in jobs:
        assert (await replica.wait(job.id, timeout=30)).state == "completed"


async def test_a_question_is_answered_by_keyboard(page: Page, replica: App) -> None:
    job = await replica.submit("report", {"title": "the report"})
    await page.goto(f"/jobs/{job.id}")
    await expect(page.get_by_text("Publish the report?", exact=True)).to_be_visible(timeout=30_000)
    await page.get_by_role("button", name="yes").focus()
    await page.keyboard.press("Enter")
    done = await replica.wait(job.id, timeout=30)
    assert (done.result, done.questions[0].answered_by) == ("yes", "dashboard")
    await expect(page.get_by_role("status")).to_contain_text("completed", timeout=30_000)


async def test_a_row_appears_within_a_second_of_another_replicas_change(page: Page, replica: App) -> None:
    await page.goto("/jobs")
    for _ in range(3):
        job = await replica.submit("nobody-knows-it")
        begun = time.monotonic()
        await page.wait_for_selector(
            f"#job-{job.id}", timeout=5_000
        )  # told by the page, not looked for now and then
        assert time.monotonic() - begun < 1.0


async def test_a_field_under_the_cursor_survives_live_rows(page: Page, replica: App) -> None:
    job = await replica.submit("nobody-knows-it")
    await page.goto("/jobs")
    await page.locator(f"#job-{job.id}").focus()
    newer = await replica.submit("nobody-knows-it")
    await expect(page.locator(f"#job-{newer.id}")).to_be_visible(timeout=5_000)
    assert await page.evaluate("document.activeElement.id") == f"job-{job.id}"


async def test_markup_is_shown_and_never_run(page: Page, replica: App, tmp_path: Path) -> None:
    await replica.wait(
        (await replica.ingest_text(f"text {MARKUP}", document_id=MARKUP, metadata={"author": MARKUP})).id,
        timeout=30,
    )
    job = await replica.submit(
        "fragile", {"flag": MARKUP}, labels={"label": MARKUP}, user_id=MARKUP, created_by=MARKUP
    )
    await replica.jobs.cancel(job.id, tenant="default", actor=MARKUP, reason=MARKUP)
    [stored] = await replica.vectors.documents("default", "default", 1)
    visited = (*PAGES, f"/jobs/{job.id}", f"/jobs/{stored.document.ingestion_id}")
    for path in visited:
        await page.goto(path)
        assert "broken" not in await page.title(), path
    await page.goto("/documents")
    await page.get_by_role("link", name=MARKUP).click()
    await expect(page.locator("h1")).to_have_text(MARKUP)
    assert "<img src=x" in await page.title()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
async def test_everybody_can_use_every_page(
    context: BrowserContext, page: Page, replica: App, tmp_path: Path, scheme: str, width: int
) -> None:
    done = await replica.ingest_text(
        "Every employee has thirty days of leave a year.", document_id="handbook"
    )
    failed = await replica.submit("fragile", {"flag": str(tmp_path / ("a-long-name-without-any-space" * 3))})
    asks = await replica.submit("report", {"title": "it"})
    runs = await replica.submit("transcribe", {"minutes": 1000})
    for job in (done, failed):
        await replica.wait(job.id, timeout=30)
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": width, "height": 800})
    more = [f"/jobs/{job.id}" for job in (done, failed, asks, runs)]
    for path in (*PAGES, *more, "/documents/read?id=handbook&at=0&hit=0", "/jobs/none"):
        await page.goto(path)
        found = await Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
    await page.goto("/")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    await replica.jobs.cancel(runs.id, tenant="default")
