"""Whole workers and their store's server, which is killed under them, answers nothing, or too much is asked of."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.jobs.chaos import chaos

pytestmark = [pytest.mark.server, pytest.mark.fault, pytest.mark.timeout(600)]


@pytest.mark.parametrize("cut", [False, True], ids=["killed", "cut"])
@pytest.mark.parametrize(("store", "rate"), [("postgres", 150), ("valkey", 150), ("mongodb", 8)])
async def test_nothing_acknowledged_is_lost_and_nothing_counts_twice(
    store: str, rate: float, cut: bool, tmp_path: Path
) -> None:
    report = await chaos(store, tmp_path, seconds=6, every=0.2 if cut else 3, rate=rate, cut=cut)
    assert report.wrong == []
    assert report.trouble["answers_lost" if cut else "kills"] >= 2
    assert report.added > 0


async def test_workers_on_a_cosmos_db_that_is_overloaded_lose_nothing_and_do_nothing_twice(
    tmp_path: Path,
) -> None:
    report = await chaos("cosmos", tmp_path, seconds=6)
    assert report.wrong == []
    assert report.trouble["answers_lost"] >= 1
    assert report.added > 0
