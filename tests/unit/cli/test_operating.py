"""Failed jobs, keys, and what is under way, from a terminal."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import perdure as library

from .conftest import Perdure


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_EMBEDDER", "hashing")


@pytest.fixture
def failed() -> list[str]:
    """Three failed jobs: two of the kind `a`, whose errors differ, and one of `b`."""

    async def run() -> list[str]:
        async with library.open() as app:

            @app.handler("a", max_attempts=1)
            @app.handler("b", max_attempts=1)
            async def broken(_ctx: Any, why: str) -> None:
                raise ValueError(why)

            jobs = [
                await app.submit(kind, {"why": why})
                for kind, why in (("a", "No answer"), ("a", "x"), ("b", "x"))
            ]
            return [(await app.wait(job.id, timeout=30)).id for job in jobs]

    return asyncio.run(run())


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_failed_jobs_are_listed_by_why_and_what_they_are(perdure: Perdure, failed: list[str]) -> None:
    def listed(*args: str) -> list[str]:
        return [one["id"] for one in lines(perdure("dead", "list", "--json", *args).out)]

    assert listed() == failed[::-1]
    assert listed("--error", "no ANSWER") == failed[:1]
    assert listed("--error", "valueerror", "--kind", "b") == failed[2:]
    assert listed("--older-than", "1h") == []
    told = perdure("dead", "list", "--limit", "1")
    assert "x" in told.out
    assert "there are more" in told.err
    assert "no such failed jobs" in perdure("dead", "list", "--tenant", "other").err


def test_failed_jobs_go_round_again_or_away(perdure: Perdure, failed: list[str]) -> None:
    again = perdure("dead", "retry", "--error", "no answer", "--json")
    assert [(one["id"], one["status"]) for one in lines(again.out)] == [(failed[0], "pending")]
    gone = perdure("dead", "discard", "--kind", "b", "--json")
    assert lines(gone.out) == [{"id": failed[2], "deleted": True}]
    assert perdure("job-status", failed[2]).code == 3
    assert perdure("dead", "discard", failed[1]).code == 0
    assert perdure("dead", "discard", "--all").err == "perdure: no such failed jobs\n"


@pytest.mark.parametrize("args", [[], ["ID", "--all"], ["ID", "--error", "x"]])
def test_nothing_is_discarded_by_mistake(perdure: Perdure, failed: list[str], args: list[str]) -> None:
    refused = perdure("dead", "discard", *args)
    assert refused.code == 2
    assert "name the jobs, or say which" in refused.err
    assert len(lines(perdure("dead", "list", "--json").out)) == len(failed)


def test_a_key_is_made_shown_once_rotated_and_revoked(perdure: Perdure) -> None:
    made = perdure(
        "keys", "create", "ci", "--scope", "read", "--ttl", "90d", "--rate", "5", "--tenant", "acme"
    )
    assert made.code == 0
    assert made.out.startswith("pdk_")
    assert "may read for tenant acme" in made.err
    [key] = lines(perdure("keys", "list", "--tenant", "acme", "--json").out)
    assert (key["name"], key["scope"], key["rate"], key["token"]) == ("ci", "read", 5.0, None)
    assert lines(perdure("keys", "list", "--json").out) == []
    [same] = lines(perdure("keys", "list", "--all-tenants", "--json").out)
    assert same == key
    rotated = json.loads(perdure("keys", "rotate", key["id"], "--overlap", "1h", "--json").out)
    assert rotated["id"] == key["id"]
    assert rotated["token"] not in (None, made.out.strip())
    assert perdure("keys", "revoke", key["id"]).code == 0
    assert "was revoked" in perdure("keys", "list", "--tenant", "acme").out
    assert perdure("keys", "revoke", "0123456789ab").code == 3
    assert perdure("keys", "rotate", key["id"]).code == 1


def test_top_is_one_look_where_there_is_no_terminal(perdure: Perdure, failed: list[str]) -> None:
    perdure("dead", "retry", failed[0])
    told = perdure("jobs", "top")
    assert told.code == 0
    assert "the next has been due for 0 s" in told.out
    assert "\x1b" not in told.out
    look = json.loads(perdure("jobs", "top", "--json").out)
    assert look["by_status"]["failed"] == 2
    assert [job["id"] for job in look["jobs"]] == [failed[2], failed[1]]
    assert look["due_since"] < look["at"]
