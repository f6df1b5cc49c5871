"""What those get who test or embed: jobs that run inline, fixtures, FastAPI."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import perdure
from perdure.app import App
from perdure.core.context import Context
from perdure.domain.errors import RetryAfter
from perdure.domain.state import JobState
from perdure.integrations import Loop
from perdure.integrations.fastapi import PerdureApp, lifespan

PAGE = Path(__file__).parents[3] / "docs/how-to/use-in-your-program.md"
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = perdure.open("memory:", embedder="hashing", worker=False)

    @app.handler("double", max_attempts=1)
    async def double(_ctx: Context, n: int) -> int:
        return 2 * n

    @app.handler("family", max_attempts=1)
    async def family(_ctx: Context) -> Any:
        return (await app.submit("double", {"n": 4})).result

    @app.handler("ask", max_attempts=1)
    async def ask(ctx: Context) -> Any:
        return await ctx.ask("Well?")

    @app.handler("later")
    async def later(_ctx: Context) -> None:
        raise RetryAfter(3600)

    async with app, app.testing():
        yield app


async def test_jobs_have_run_when_they_are_submitted(app: App) -> None:
    job = await app.submit("double", {"n": 21})
    assert (job.state, job.result) == (JobState.COMPLETED, 42)
    assert (await app.submit("family")).result == 8
    many = await app.submit_many(
        [{"kind": "double", "payload": {"n": n}} for n in range(30)], tenant="default"
    )
    assert [job.result for job in many] == [2 * n for n in range(30)]
    failed = await app.submit("double", {"n": None})
    assert failed.failure is not None
    assert failed.failure.type == "TypeError"


async def test_what_waits_or_is_put_off_comes_back_as_it_is(app: App) -> None:
    asked = await app.submit("ask")
    assert asked.state is JobState.WAITING
    await app.jobs.respond(asked.id, "yes", tenant="default")
    assert (await app.wait(asked.id, timeout=20)).result == "yes"
    later = await app.submit("later")
    assert (later.state, later.attempt) == (JobState.PENDING, 0)
    morning = datetime.now(UTC) + timedelta(hours=12)
    put_off = await app.submit("double", {"n": 1}, run_at=morning)
    assert (put_off.state, put_off.epoch) == (JobState.PENDING, 0)


async def test_documents_are_found_at_once(app: App) -> None:
    assert (await app.ingest_text("Thirty days of leave.", document_id="leave")).state is JobState.COMPLETED
    assert [hit.document_id for hit in await app.search("leave", mode="text")] == ["leave"]


async def test_outside_the_block_all_is_as_before() -> None:
    async with perdure.open("memory:", embedder="hashing", worker=False) as app:
        async with app.testing():
            assert (await app.ingest_text("a word")).state is JobState.COMPLETED
        assert (await app.ingest_text("a word")).state is JobState.PENDING


# --- the page -------------------------------------------------------------------------------


async def test_the_page_tests_a_handler() -> None:
    names: dict[str, Any] = {}
    exec(CODE[0], names)
    await names["test_greeting"]()


@pytest.mark.slow
def test_the_fixture_serves_tests_of_others(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CODE[1])
    (tmp_path / "test_page.py").write_text(CODE[2])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


async def test_an_application_of_others_has_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_EMBEDDER", "hashing")
    names: dict[str, Any] = {}
    exec(CODE[3], names)
    api = names["api"]
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client,
    ):
        answer = await client.post("/greetings?name=Ann")
        job = await api.state.perdure.wait(answer.json()["job"], timeout=30)
        assert job.result == "Hello, Ann!"


async def test_handlers_are_registered_and_a_missing_app_is_said() -> None:
    seen: list[App] = []
    api = FastAPI(lifespan=lifespan("memory:", register=seen.append, worker=False, embedder="hashing"))
    bare = FastAPI()

    @api.get("/")
    @bare.get("/")
    async def total(app: PerdureApp) -> int:
        return (await app.jobs.stats("default")).total

    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client,
    ):
        assert (await client.get("/")).json() == 0
        assert seen == [api.state.perdure]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(bare), base_url="http://test") as client:
        with pytest.raises(RuntimeError, match="no app is open"):
            await client.get("/")


async def test_a_loop_does_not_wait_for_itself(app: App) -> None:
    with pytest.raises(RuntimeError, match="use ainvoke here"):
        Loop().wait(app.search("leave"), "ainvoke")
