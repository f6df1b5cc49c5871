"""Feeds from a terminal: that one is read, and what it could not carry out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

import perdure as library
from perdure.core.feeds import FeedRunner
from perdure.domain.change import Batch, Poison
from perdure.feeding import make_feed, make_runner

from .conftest import Perdure


async def park(*ids: str) -> None:
    async with library.open(worker=False) as app:
        feed = make_feed("folder:.", tenant="default", namespace="default")
        poison = tuple(Poison(id=each, reason="no JSON") for each in ids)
        await make_runner(app, "inbox", feed).carry(Batch(poison=poison))


def test_parked_events_come_in_pages_and_whoever_asks_is_told_that_there_are_more(
    perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(park("c", "a", "e", "b", "d"))

    def page(*args: str) -> tuple[list[str], str]:
        told = perdure("feed", "parked", "inbox", "--json", *args)
        return [json.loads(line)["id"] for line in told.out.splitlines()], told.err

    assert page() == (["a", "b", "c", "d", "e"], "")
    assert page("--limit", "2") == (["a", "b"], "perdure: there are more: --after b\n")
    assert page("--limit", "2", "--after", "b") == (["c", "d"], "perdure: there are more: --after d\n")
    assert page("--limit", "2", "--after", "d") == (["e"], "")
    assert "no more parked events" in perdure("feed", "parked", "inbox", "--after", "e").err


def test_whoever_runs_a_feed_is_told_that_it_is_read(
    perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def only_once(runner: FeedRunner, _: Batch) -> None:
        runner.stop()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FeedRunner, "carry", only_once)
    told = perdure("feed", "run", "inbox", "folder:.")
    assert told.code == 0
    assert "feed inbox: started by" in told.err
    assert "stopped reading" in told.err
    assert "feed inbox has no parked events" in perdure("feed", "parked", "inbox").err
    unknown = perdure("feed", "parked", "outbox")
    assert unknown.code != 0
    assert "no feed 'outbox' was run on this store; 'perdure feed status' lists" in unknown.err
