"""A provider that has a bad day, and one whose limit several processes share."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.ingest import bad_provider, shared_limit
from bench.soak import WORDS

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


@pytest.mark.parametrize("brand", ["sqlite", "postgresql"])
async def test_what_a_bad_day_leaves_is_whole_and_paid_once(brand: str, tmp_path: Path) -> None:
    chance = random.Random(5)
    texts = (" ".join(chance.choices(WORDS, k=700)) for _ in range(1_000))
    written = bad_provider.write_documents(tmp_path, 600, texts)
    provider = bad_provider.BadProvider(chance)
    async with shared_limit.store(brand, tmp_path) as url:
        told = await bad_provider.run(tmp_path, url, written, 2, provider)
    assert bad_provider.right(told), told
    assert told["states"] == {"completed": len(written) - 1, "partial": 1}
    assert told["attempts_beyond_the_first"] == 0
    assert told["requests_over_ideal"] < 3, told  # so few batches are seldom full; the benchmark says more


@pytest.mark.parametrize("brand", ["sqlite", "postgresql"])
async def test_four_processes_never_exceed_their_limit_and_nearly_use_it_up(brand: str) -> None:
    told = await shared_limit.measured(brand, "120rp6s", 3, 4)
    assert told["most_in_any_window"] <= 120, told
    # A starved machine is late for what becomes free; the benchmark says what a quiet one uses.
    assert told["share_used"] >= 0.6, told
