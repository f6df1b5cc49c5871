"""`perdure store copy` through stores on real servers, killed on the way, while workers run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.jobs.transfer import rings
from perdure.domain.errors import InvalidInput, NotFound
from perdure.transfer import copy_jobs

pytestmark = [pytest.mark.server, pytest.mark.fault, pytest.mark.xdist_group("mongodb")]


async def test_from_brand_to_brand_nothing_is_lost_or_run_twice(tmp_path: Path) -> None:
    for ring in await rings(tmp_path, jobs=2000, few=60, kills=1, pace=0.01, seed=5):
        assert ring.wrong == []
        assert all(step.ran_meanwhile for step in ring.steps[:1])


async def test_a_copy_needs_two_stores(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/one.db"
    with pytest.raises(InvalidInput, match="cannot be copied into itself"):
        await copy_jobs(url, url)
    with pytest.raises(NotFound, match="there is no store at"):
        await copy_jobs(url, f"sqlite:///{tmp_path}/two.db")
