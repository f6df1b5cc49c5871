"""Logs as JSON, with the job and the tenant."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import perdure
from perdure.core.context import Context, ThreadContext
from perdure.domain.errors import Fatal
from perdure.telemetry.logs import json_formatter, name_job


async def test_each_record_is_an_object_that_names_the_job_and_its_tenant() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(json_formatter())
    handler.addFilter(name_job)
    root = logging.getLogger("perdure")
    mine = logging.getLogger("perdure.mine")
    root.addHandler(handler)
    try:
        async with perdure.open("memory:", embedder="hashing", poll_seconds=0.02) as app:

            @app.handler("async")
            async def runs(ctx: Context) -> None:
                mine.warning("in %s", "a task")
                raise Fatal("broken\n<b>")

            @app.handler("thread")
            def runs_in_a_thread(ctx: ThreadContext) -> None:
                mine.warning("in a thread")

            jobs = [await app.submit(kind, tenant="acme") for kind in ("async", "thread")]
            for job in jobs:
                await app.wait(job.id, tenant="acme", timeout=30)
    finally:
        root.removeHandler(handler)
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.getvalue().splitlines()]
    told = {line["event"]: line for line in lines}
    for event, job in (("in a task", jobs[0]), ("in a thread", jobs[1])):
        assert (told[event]["job"], told[event]["tenant"]) == (job.id, "acme")
        assert (told[event]["level"], told[event]["logger"]) == ("warning", "perdure.mine")
        assert told[event]["timestamp"].endswith("Z")
    assert any("failed for good: broken" in event and told[event]["job"] == jobs[0].id for event in told)
