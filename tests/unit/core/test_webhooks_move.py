"""Webhooks go on in a copied store: each change is told once, and nothing of the move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from perdure import bootstrap
from perdure.core import dispatch, webhooks
from perdure.core.jobs import JobService
from perdure.domain.job import NewJob
from perdure.settings import Settings
from perdure.transfer import copy_jobs
from tests.unit.core.test_webhooks import House

STATES = ("pending", "completed", "cancelled")


class At(House):
    """A house on a store that others can open."""

    def __init__(self, stack: AsyncExitStack, url: str) -> None:
        super().__init__(stack)
        settings = Settings.from_environ({}, store=url, cache_megabytes=0)
        self.jobs = JobService(bootstrap.job_store(settings), poll=timedelta(seconds=0.02))
        self.store = self.jobs.store  # type: ignore[assignment]  # any store will do
        self.hooks = webhooks.Webhooks(self.jobs, lambda: self.receiver)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "IDLE", 0.05)
    monkeypatch.setattr(webhooks, "LATE", timedelta(0))


@pytest.fixture
async def houses(tmp_path: Path) -> AsyncIterator[tuple[At, At]]:
    async with AsyncExitStack() as stack:
        both = []
        for name in ("old", "new"):
            house = At(stack, f"sqlite:///{tmp_path}/{name}.db")
            await house.store.setup()
            stack.push_async_callback(house.store.close)
            await house.jobs.start()
            stack.push_async_callback(house.jobs.close)
            both.append(house)
        yield both[0], both[1]


async def test_webhooks_go_on_where_the_jobs_do(houses: tuple[At, At], tmp_path: Path) -> None:
    """A worker runs on either side while the store is copied, twice."""
    old, new = houses
    await old.start()
    await old.submit()  # before anybody subscribed
    old_receiver, new_receiver = old.receiver, new.receiver
    hook = await old.subscribe(states=STATES)
    done = await old.submit()
    assert await old.told(2) == [(done.id, "pending"), (done.id, "completed")]
    waiting = await old.jobs.add(NewJob(kind="other"))
    assert (await old.told(3))[2] == (waiting.id, "pending")
    new.handlers.register("other", new.work)
    await new.start()
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("old", "new")]
    for _ in range(2):
        report = await copy_jobs(urls[0], urls[1])
        assert report.equal
        assert report.values.source == report.values.target == 1

    await new.jobs.wait(waiting.id, tenant="default", timeout=20)
    last = await new.submit()
    wanted = {(waiting.id, "completed"), (last.id, "pending"), (last.id, "completed")}

    async def told() -> bool:
        return wanted <= set(new_receiver.told())

    await new.until(told)
    assert len(old_receiver.told()) == 3
    assert set(new_receiver.told()) - wanted <= set(old_receiver.told())
    deliveries = await new.hooks.deliveries(hook.id, tenant="default", limit=99)
    assert len(deliveries) == 6
