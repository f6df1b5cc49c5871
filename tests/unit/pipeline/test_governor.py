"""The governor: several processes, as far as they know, in front of one provider. Its time is the loop's, which leaps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from perdure.domain.errors import (
    EmbedderError,
    EmbedderRefused,
    EmbedderSpent,
    RetryAfter,
    StoreUnavailable,
    TextRejected,
)
from perdure.domain.limits import Limit
from perdure.pipeline import budget as budgets
from perdure.pipeline import governor as governors
from perdure.pipeline.budget import Budget
from perdure.pipeline.governor import Governor
from perdure.ports.embedder import Metered
from perdure.stores.memory import MemoryJobStore

VECTORS = np.ones((1, 1), dtype=np.float32)

pytestmark = pytest.mark.leaping


def now() -> float:
    return asyncio.get_running_loop().time()


class Provider:
    """Answers, or fails as scripted, and notes when it was asked.

    Attributes:
        errors: of the next calls, one each; None lets one pass.
        always: of every call while it is set, also of probes.
    """

    def __init__(self) -> None:
        self.errors: list[Exception | None] = []
        self.always: Exception | None = None
        self.asked: list[float] = []
        self.probed: list[float] = []

    async def call(self) -> Metered:
        self.asked.append(now())
        error = self.always or (self.errors.pop(0) if self.errors else None)
        if error is not None:
            raise error
        return Metered(VECTORS, [1])

    async def probe(self) -> None:
        self.probed.append(now())
        if self.always is not None:
            raise self.always


@pytest.fixture
def values() -> Any:
    return MemoryJobStore().values


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the times that the governor has."""
    for what in ("PAUSE", "COOL", "COOLEST", "FRESH"):
        monkeypatch.setattr(governors, what, getattr(governors, what) / 20)
    monkeypatch.setattr(governors, "PATIENCE", {"document": 3.0, "query": 0.3})
    monkeypatch.setattr(governors, "Budget", partial(Budget, monotonic=now))


def governor(values: Any, limits: Sequence[Limit] = (), **tenants: Sequence[Limit]) -> Governor:
    return Governor(values, "p", now, limits=limits, tenants=tenants)


async def ask(governor: Governor, provider: Provider, **options: Any) -> Metered:
    return await governor.run(["a text"], provider.call, provider.probe, **options)


async def test_a_provider_that_asks_to_wait_is_left_alone_by_all_until_then(values: Any) -> None:
    provider = Provider()
    provider.errors = [RetryAfter(0.6, "slow down")]
    first, others = governor(values), [governor(values) for _ in range(3)]
    asking = asyncio.create_task(ask(first, provider))
    await asyncio.sleep(0.05)
    await asyncio.gather(asking, *(ask(other, provider) for other in others))
    assert len(provider.asked) == 5
    assert min(provider.asked[1:]) >= provider.asked[0] + 0.6


async def test_a_wait_that_is_too_long_is_the_jobs_and_no_attempt(
    values: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governors, "PATIENCE", {"document": 0.2, "query": 0.1})
    provider = Provider()
    provider.errors = [RetryAfter(7, "slow down")]
    with pytest.raises(RetryAfter, match="slow down") as caught:
        await ask(governor(values), provider)
    assert not caught.value.counts
    assert 6.5 < caught.value.seconds < 8
    with pytest.raises(RetryAfter, match="slow down"):
        await ask(governor(values), provider, purpose="query")
    assert len(provider.asked) == 1


async def test_what_may_pass_is_tried_again_before_the_job_fails(values: Any) -> None:
    provider = Provider()
    provider.errors = [EmbedderError("500")] * 3
    await ask(governor(values), provider)
    assert len(provider.asked) == 4


async def test_a_call_that_fails_while_others_are_answered_fails_its_job(values: Any) -> None:
    bad, good, done = Provider(), Provider(), asyncio.Event()
    bad.always = EmbedderError("500")

    async def others() -> None:
        while not done.is_set():
            await ask(governor(values), good)
            await asyncio.sleep(0.002)

    going_on = asyncio.create_task(others())
    with pytest.raises(EmbedderError, match="500"):
        await ask(governor(values), bad)
    done.set()
    await going_on
    assert len(bad.asked) == governors.TRIES
    assert good.probed == []


@pytest.mark.parametrize("error", [TextRejected("too long"), EmbedderRefused("no key")])
async def test_what_will_not_pass_is_not_tried_again(values: Any, error: Exception) -> None:
    provider = Provider()
    provider.errors = [error]
    with pytest.raises(type(error)):
        await ask(governor(values), provider)
    assert len(provider.asked) == 1


async def test_an_outage_costs_a_few_calls_and_no_attempt_and_ends_by_a_probe(values: Any) -> None:
    provider = Provider()
    provider.always = EmbedderError("502")
    workers = [governor(values) for _ in range(4)]
    asking = [
        asyncio.create_task(ask(worker, provider, **options))
        for worker in workers
        for options in ({}, {}, {"purpose": "document"})
    ]
    await asyncio.sleep(1)
    calls, probes = len(provider.asked), len(provider.probed)
    assert calls <= governors.OPEN + 12  # those that were under way when it went down
    assert 1 <= probes <= 4
    other = Provider()
    await ask(Governor(values, "another", now), other)
    assert len(other.asked) == 1
    provider.always = None
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert [answer for answer in told if isinstance(answer, Exception)] == []
    assert len(provider.asked) == calls + 12


async def test_a_spent_account_is_asked_once_and_then_by_probes_until_it_is_paid(values: Any) -> None:
    provider = Provider()
    provider.always = EmbedderSpent("add credit")
    workers = [governor(values) for _ in range(3)]
    with pytest.raises(EmbedderSpent):
        await ask(workers[0], provider, purpose="query")
    for worker in workers:
        with pytest.raises(RetryAfter, match="add credit") as told:
            await ask(worker, provider, purpose="query")
        assert not told.value.counts
    assert len(provider.asked) == 1
    provider.always = None
    await asyncio.gather(*(ask(worker, provider) for worker in workers))
    assert len(provider.asked) == 4


async def test_of_one_who_died_while_it_looked_another_takes_the_place(values: Any) -> None:
    dead = governors.Health(failures=governors.OPEN, probing=now() + 0.5, why="502")
    await values.write(governors.SPACE, "p", msgspec.to_builtins(dead), expect=0)
    provider, begun = Provider(), now()
    await asyncio.gather(*(ask(governor(values), provider) for _ in range(4)))
    assert len(provider.probed) == 1
    assert provider.probed[0] >= begun + 0.4
    assert len(provider.asked) == 4


@pytest.mark.parametrize("error", [RetryAfter(0.1, "no\x00 \ud800"), EmbedderError("no\x00 \ud800")])
async def test_whatever_a_provider_says_can_be_told_to_others(values: Any, error: Exception) -> None:
    provider = Provider()
    provider.errors = [error]
    await ask(governor(values), provider)
    assert len(provider.asked) == 2


async def test_in_a_long_outage_jobs_go_back_without_an_attempt(values: Any) -> None:
    provider = Provider()
    provider.always = EmbedderError("502")
    worker = governor(values)
    told = []
    for _ in range(4):
        with suppress(EmbedderError, RetryAfter):
            await ask(worker, provider)
    for _ in range(3):
        with pytest.raises(RetryAfter, match="502") as caught:
            await ask(governor(values), provider, purpose="query")
        told.append(caught.value)
    assert len(provider.asked) == governors.OPEN
    assert not any(error.counts for error in told)


async def test_a_call_that_always_fails_ends_though_the_provider_is_well(values: Any) -> None:
    provider = Provider()
    worker = governor(values)
    for _ in range(5):
        provider.errors = [EmbedderError("500")] * 100
        with pytest.raises(EmbedderError, match="500"):
            await ask(worker, provider)
    assert len(provider.asked) <= 5 * (governors.OPEN + 1)
    assert 1 <= len(provider.probed) <= 5


@pytest.mark.parametrize("late", [0.0, 0.02])
async def test_workers_share_a_limit_and_nearly_use_it_up(values: Any, late: float) -> None:
    limit = Limit(what="requests", count=100, seconds=2.0)
    clocks = [now, lambda: now() - late] * 2
    workers = [Governor(values, "p", clock, limits=[limit]) for clock in clocks]
    provider = Provider()

    async def work(worker: Governor) -> None:
        while now() < 6:
            await ask(worker, provider)
            await asyncio.sleep(0.005)

    await asyncio.gather(*map(work, workers))
    asked = sorted(provider.asked)
    for index, begin in enumerate(asked):
        within = next((place for place, at in enumerate(asked) if at > begin + 2), len(asked))
        assert within - index <= 100
    assert len(asked) >= 0.9 * 100 * 3


async def test_what_a_dead_worker_had_taken_lapses(values: Any) -> None:
    limit = Limit(what="requests", count=14, seconds=1.0)
    dead = Budget(values, "p", [limit], now, Random(1), now)
    dead._size = 14
    assert await dead.take(1, 1) is not None
    provider, begun = Provider(), now()
    for _ in range(14):
        await ask(governor(values, [limit]), provider)
    assert now() - begun < 3


async def test_a_limit_that_is_used_up_for_long_is_the_jobs_and_no_attempt(values: Any) -> None:
    limit = Limit(what="requests", count=1, seconds=86_400)
    provider = Provider()
    await ask(governor(values, [limit]), provider)
    with pytest.raises(RetryAfter, match="limit: 1 requests in 86400 s") as caught:
        await ask(governor(values, [limit]), provider, purpose="query")
    assert not caught.value.counts
    assert caught.value.seconds > 3_600


async def test_tokens_are_counted_as_the_provider_counts_them(values: Any) -> None:
    limit = Limit(what="tokens", count=40, seconds=2)
    provider, worker, end = Provider(), governor(values, [limit]), now() + 4
    while now() < end:
        await ask(worker, provider)  # of one token; by the first estimate it would be three
    assert 50 <= len(provider.asked) <= 80


async def test_a_tenant_at_its_limit_holds_up_nobody_else(values: Any) -> None:
    limit = Limit(what="requests", count=1, seconds=3_600)
    worker = Governor(values, "p", now, tenants={"a": [limit], "*": [], "b": []})
    assert await worker.take("a", ["text"]) is not None
    late = asyncio.create_task(worker.take("a", ["text"]))
    await asyncio.sleep(0)
    assert await worker.take("b", ["text"]) is None
    assert await worker.take("c", ["text"]) is None
    with pytest.raises(RetryAfter):
        await late


class Failing:
    """Values of a store that does not answer, or whose answers get lost."""

    def __init__(self, values: Any, *, before: bool) -> None:
        self.values, self.before, self.times = values, before, 1

    async def read(self, *args: Any) -> Any:
        return await self.values.read(*args)

    async def write(self, *args: Any, **options: Any) -> Any:
        self.times -= 1
        if self.times >= 0 and self.before:
            raise StoreUnavailable("away")
        version = await self.values.write(*args, **options)
        if self.times >= 0:
            raise StoreUnavailable("the answer was lost")
        return version


@pytest.mark.parametrize("before", [True, False])
async def test_a_store_that_is_away_costs_a_moment_and_never_more_than_the_limit(
    values: Any, *, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "AWAY", 0.05)
    limit = Limit(what="requests", count=21, seconds=6)
    failing: Any = Failing(values, before=before)
    budget = Budget(failing, "p", [limit], now, Random(1), now)
    taken, end = 0, now() + 0.6
    with suppress(RetryAfter):
        while now() < end:
            failing.times = 1
            share = await budget.take(1, 0.6)
            await budget.settle(share, 1)
            taken += 1
    assert 1 <= taken <= 3  # an eighth in a tenth of the window


async def test_without_the_store_a_provider_is_asked_all_the_same(values: Any) -> None:
    class Away:
        async def read(self, *_: Any) -> Any:
            raise StoreUnavailable("away")

        write = read

    provider = Provider()
    provider.errors = [RetryAfter(0.1), EmbedderError("500")]
    worker: Any = Away()
    worker.write = lambda *_, **__: Away().read()
    await ask(governor(worker), provider)
    assert len(provider.asked) == 3
