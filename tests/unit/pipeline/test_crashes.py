"""The process dies at each point where the pipeline waits for something, and somebody starts again."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from perdure.pipeline import reading
from perdure.pipeline.source import Source
from perdure.ports.embedder import Purpose
from perdure.vectors.memory import MemoryVectorStore
from tests.unit.pipeline.fakes import FakeEmbedder, FakeRun, Watched, numbered, target, vectorize, visible

BATCH = 4


class Died(Exception):
    """The process is no more."""


class Fate:
    """Lets so many points pass, and dies at the next. Each call of store and model has two points: before it, and after it
    went through but before its answer came.
    """

    def __init__(self, points: int) -> None:
        self._left = points

    def pass_point(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Died

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        self.pass_point()
        answer = await call()
        self.pass_point()
        return answer


class Mortal(FakeEmbedder):
    def __init__(self, fate: Fate) -> None:
        super().__init__(max_batch=BATCH)
        self._fate = fate

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        self._fate.pass_point()
        vectors = await super().embed(texts, purpose)
        self._fate.pass_point()
        return vectors


async def live(
    store: MemoryVectorStore, source: Source, version: int, epoch: int, points: int
) -> tuple[bool, int]:
    """One life of a worker; whether it finished, and how many texts the model was paid for."""
    fate = Fate(points)
    embedder = Mortal(fate)
    try:
        await vectorize(Watched(store, fate.around), embedder, source, target(version), FakeRun(epoch))
    except Died:
        return False, len(embedder.texts)
    return True, len(embedder.texts)


async def check_whole(store: MemoryVectorStore, source: Source, version: int) -> None:
    """Readers see exactly the chunks of an undisturbed run."""
    undisturbed = MemoryVectorStore()
    await vectorize(undisturbed, FakeEmbedder(max_batch=BATCH), source, target(version))
    assert await visible(store) == await visible(undisturbed)
    published = await store.document("default", "default", "doc")
    assert published is not None
    assert published.complete
    assert published.document.version == version


@pytest.mark.parametrize("small", [0, reading.SMALL], ids=["streamed", "small"])
async def test_fresh_document_survives_a_death_at_every_point(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SMALL", small)
    source = numbered(*range(22))
    for points in range(1000):
        store = MemoryVectorStore()
        finished, paid = await live(store, source, 1, 1, points)
        if finished:
            assert points > 20
            break
        again, more = await live(store, source, 1, 2, 10**9)
        assert again
        assert 22 <= paid + more <= 22 + BATCH
        await check_whole(store, source, 1)


async def test_next_version_survives_a_death_at_every_point_and_readers_see_the_old_one_until_then() -> None:
    old, new = numbered(*range(22)), numbered(*range(5), 77, *range(5, 15), 88, 89, *range(16, 22))
    for points in range(1000):
        store = MemoryVectorStore()
        await live(store, old, 1, 1, 10**9)
        before = await visible(store)
        finished, paid = await live(store, new, 2, 1, points)
        if finished:
            assert points > 20
            break
        published = await store.document("default", "default", "doc")
        assert published is not None
        if published.document.version == 1:
            assert await visible(store) == before
        again, more = await live(store, new, 2, 2, 10**9)
        assert again
        assert 3 <= paid + more <= 3 + BATCH
        await check_whole(store, new, 2)


@pytest.mark.parametrize("seed", range(20))
async def test_document_survives_many_deaths(seed: int) -> None:
    chance = random.Random(seed)
    source = numbered(*range(30))
    store = MemoryVectorStore()
    deaths, paid, finished = 0, 0, False
    while not finished:
        finished, more = await live(store, source, 1, deaths + 1, chance.randrange(3, 40))
        paid += more
        deaths += not finished
        assert deaths < 100
    assert 30 <= paid <= 30 + deaths * BATCH
    await check_whole(store, source, 1)
