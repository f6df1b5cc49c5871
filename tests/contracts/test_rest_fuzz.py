"""Schemathesis over the whole description, on a server that users would run: with a key and without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.rest.fuzz import follow, fuzz, make_key, serving

pytestmark = [pytest.mark.slow, pytest.mark.server]


@pytest.mark.parametrize("with_key", [True, False], ids=["with a key", "without"])
async def test_the_description_is_true_and_nothing_breaks(tmp_path: Path, with_key: bool) -> None:
    store = f"sqlite:///{tmp_path / 'p.db'}"
    settings = {"store": store, "embedder": "hashing", "port": 0, "max_upload_bytes": 10**6}
    token = await make_key(settings)
    with serving(settings) as (url, _):
        run = fuzz(url, token if with_key else None, examples=8)
    assert run.returncode == 0, run.stdout[-20_000:]
    assert " passed" in run.stdout


async def test_what_is_made_can_be_used_in_any_order(tmp_path: Path) -> None:
    settings = {"store": f"sqlite:///{tmp_path / 'p.db'}", "embedder": "hashing", "port": 0}
    token = await make_key(settings)
    with serving(settings) as (url, _):
        run = follow(url, token)
    assert run.returncode == 0, run.stdout[-20_000:]
    links = re.search(r"(\d+) covered / (\d+) selected", run.stdout)
    assert links, run.stdout
    assert int(links[1]) >= 20, "calls in a row reach most of what links lead to"
