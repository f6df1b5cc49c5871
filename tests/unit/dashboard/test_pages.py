"""What the pages show, refuse and do, without a browser."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from perdure.app import App
from perdure.core.context import Context
from perdure.domain.access import Scope
from perdure.domain.job import NewJob
from perdure.domain.state import JobState

MARKUP = "<script>alert(1)</script>\"'>"


async def post(browser: httpx.AsyncClient, path: str, **fields: Any) -> httpx.Response:
    """Send a form as its page would."""
    return await browser.post(path, data={"csrf": browser.cookies["perdure_csrf"], **fields})


async def test_a_page_that_has_not_changed_is_not_drawn_again(app: App, browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/jobs")).text
    again = re.findall(r'hx-get="([^"]+)"', page)[0].replace("&amp;", "&")
    assert (await browser.get(again)).status_code == 204
    await app.submit("work")
    changed = await browser.get(again)
    assert changed.status_code == 200
    assert changed.text.count("<tr>") == 2


async def test_pages_load_nothing_from_elsewhere_and_run_no_inline_code(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?://|<style|<script>|\sstyle=|\son\w+=", answer.text)
    for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert (await browser.get(asset)).status_code == 200


async def test_markup_in_every_field_stays_text(app: App, browser: httpx.AsyncClient, worker: None) -> None:
    @app.handler("odd")
    async def odd(ctx: Context, **payload: Any) -> None:
        await ctx.progress(0.5, MARKUP)
        raise ValueError(MARKUP)

    named = {"user_id": MARKUP, "created_by": MARKUP, "idempotency_key": MARKUP, "labels": {"label": MARKUP}}
    job = await app.submit("odd", {"key": MARKUP}, max_attempts=1, document_id=MARKUP, **named)
    asks = await app.submit("ask")

    @app.handler("ask")
    async def ask(ctx: Context) -> Any:
        return await ctx.ask(MARKUP, choices=[MARKUP])

    await app.wait(job.id, timeout=30)
    done = await app.ingest_text(f"words {MARKUP}", document_id=MARKUP, metadata={MARKUP: MARKUP})
    await app.wait(done.id, timeout=30)
    async with asyncio.timeout(30):
        while (await app.jobs.get(asks.id, tenant="default")).state is not JobState.WAITING:
            await asyncio.sleep(0.02)
    paths = [
        "/",
        "/jobs",
        "/dead",
        "/documents",
        "/workers",
        "/tenants",
        f"/jobs/{job.id}",
        f"/jobs/{asks.id}",
    ]
    paths += [f"/jobs/{done.id}"]
    for path in paths:
        assert "<script>alert" not in (await browser.get(path)).text, path
    for path in ("/search", "/jobs", "/dead", "/documents/read", "/tenants", "/", "/documents"):
        for name in ("q", "id", "status", "kind", "cursor", "tenant", "done", "namespace", "document_id"):
            text = (await browser.get(path, params={name: MARKUP})).text
            assert "<script>alert" not in text, (path, name)
    found = (await browser.get("/search", params={"q": "words"})).text
    assert "&lt;script&gt;alert(1)" in found


@pytest.mark.parametrize("token", [None, "", "guessed"])
async def test_a_form_that_is_not_ours_changes_nothing(
    app: App, browser: httpx.AsyncClient, token: str | None
) -> None:
    job = await app.submit("work")
    fields = {} if token is None else {"csrf": token}
    answer = await browser.post(f"/jobs/{job.id}/cancel", data=fields)
    assert answer.status_code == 403
    browser.cookies.clear()
    assert (await browser.post(f"/jobs/{job.id}/cancel", data=fields)).status_code == 403
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert (await browser.post(f"/jobs/{job.id}/cancel", headers=foreign)).status_code == 403
    assert (await app.jobs.get(job.id, tenant="default")).state is JobState.PENDING


async def test_what_is_done_by_hand_bears_the_dashboards_name(app: App, browser: httpx.AsyncClient) -> None:
    job = await app.submit("work")
    assert (await post(browser, f"/jobs/{job.id}/cancel")).status_code == 303
    assert (await post(browser, f"/jobs/{job.id}/retry")).status_code == 303
    history = await app.jobs.history(job.id, tenant="default")
    assert [entry.actor for entry in history] == ["", "dashboard", "dashboard"]


async def test_an_answer_that_does_not_fit_is_said_on_the_jobs_page(
    app: App, browser: httpx.AsyncClient, worker: None
) -> None:
    @app.handler("ask")
    async def ask(ctx: Context) -> Any:
        return await ctx.ask("How many?", schema={"type": "integer"})

    job = await app.submit("ask")
    async with asyncio.timeout(30):
        while (await app.jobs.get(job.id, tenant="default")).state is not JobState.WAITING:
            await asyncio.sleep(0.02)
    for wrong, why in (("many", "is not JSON"), ('"3"', "is not of type &#39;integer&#39;")):
        answer = await post(browser, f"/jobs/{job.id}/answer", answer=wrong)
        assert answer.status_code == 400
        assert why in answer.text
    assert (await post(browser, f"/jobs/{job.id}/answer", answer="3")).status_code == 303
    assert (await app.wait(job.id, timeout=30)).result == 3
    assert (await post(browser, f"/jobs/{job.id}/answer", answer="4")).status_code == 409


async def test_errors_are_pages(browser: httpx.AsyncClient) -> None:
    for path, status in (
        ("/jobs/nonsense", 400),
        ("/jobs/01a21803-eac8-7b74-ac75-a1f8c158b025", 404),
        ("/jobs?status=odd", 400),
        ("/jobs?cursor=odd", 400),
        ("/documents/read?id=none", 404),
        ("/?tenant=a|b", 400),
    ):
        answer = await browser.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), (
            path
        )
    assert "nothing was sent" in (await post(browser, "/documents")).text


async def test_pages_lead_on_without_gap_or_repeat(app: App, browser: httpx.AsyncClient) -> None:
    jobs = await app.jobs.add_many([NewJob(kind="work") for _ in range(120)])
    seen: list[str] = []
    path = "/jobs"
    while path:
        page = (await browser.get(path)).text
        seen += re.findall(r'id="job-([0-9a-f-]+)"', page)
        older = re.findall(r'href="([^"]+)">Older', page)
        path = older[0].replace("&amp;", "&") if older else ""
    assert seen == [job.id for job in reversed(jobs)]


async def test_the_overview_tells_of_the_hour_whoever_ran_it(
    app: App, browser: httpx.AsyncClient, worker: None
) -> None:
    @app.handler("quick")
    async def quick(ctx: Context) -> None: ...

    for _ in range(2):
        for job in await app.jobs.add_many([NewJob(kind="quick") for _ in range(5)]):
            await app.wait(job.id, timeout=30)
        await app.recent.hour("default")
    told = await app.recent.hour("default")
    assert sum(minute.ended for minute in told) == 10
    assert "10 jobs ended within the last hour, 0 of them failed" in (await browser.get("/")).text
    assert sum(minute.ended for minute in await app.recent.hour("acme")) == 0


async def test_with_keys_a_browser_logs_in_and_sees_its_tenant_only(
    app: App, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await app.submit("secret", tenant="bolt")
    mine = await app.submit("mine", tenant="acme")
    _, key = await app.keys.create("ann", tenant="acme", scope=Scope.READ)
    monkeypatch.setattr(app.keys, "_used", (app.keys._used[0], True))
    asked = await browser.get("/jobs")
    assert (asked.status_code, "Log in" in asked.text) == (401, True)
    assert (await post(browser, "/login", key="pdk_wrong")).status_code == 401
    entered = await post(browser, "/login", key=key, next="//evil.example")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = next(line for line in entered.headers.get_list("set-cookie") if "perdure_key" in line)
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert mine.id in (await browser.get("/jobs")).text
    assert (await browser.get("/?tenant=bolt")).status_code == 403
    assert "bolt" not in (await browser.get("/tenants")).text
    assert (await post(browser, f"/jobs/{mine.id}/cancel")).status_code == 403  # the key only reads
    assert (await post(browser, "/logout")).status_code == 303
    assert (await browser.get("/jobs")).status_code == 401
