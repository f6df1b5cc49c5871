"""Questions that two people answer at once, while the workers that asked are killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.jobs.asking import Report, run

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


async def test_each_question_has_exactly_one_answer_whoever_races_and_dies(tmp_path: Path) -> None:
    report = Report("sqlite", jobs=60)
    async with asyncio.timeout(300):
        await run(f"sqlite:///{tmp_path / 'asking.db'}", report, tmp_path, seed=7)
    assert report.wrong == []
    assert sum(report.accepted.values()) == 60
    assert report.kills > 0
