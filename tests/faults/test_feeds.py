"""Sources are followed by two processes, one of which is killed again and again: what is searchable in the end is what they hold, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.ingest.feeds import run

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("feed", "events"),
    [
        pytest.param("folder", 200),
        pytest.param("postgres", 200, marks=pytest.mark.xdist_group("postgres")),
        pytest.param("redis", 200),
        pytest.param("kafka", 200),
        pytest.param("mongodb", 60, marks=pytest.mark.xdist_group("mongodb")),
    ],
)
async def test_readers_are_killed_and_nothing_is_missed_or_doubled(
    feed: str, events: int, tmp_path: Path
) -> None:
    report = await run(feed, tmp_path, events=events, kills=3, rate=events / 10, seed=9, calm=0)
    assert report.wrong == []
    assert (report.kills, report.parked) == (3, 0)
    assert report.documents > 0
