"""Small values of one store into another: whose word counts, who changes what meanwhile, and where the copy dies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.check import check
from perdure.core.value_transfer import ValuesReport, ValueTransfer
from perdure.domain.record import Json
from perdure.domain.value import STAYING, Value
from perdure.ports.key_value import KeyValueStore
from perdure.stores.memory import MemoryJobStore
from perdure.stores.memory.values import MemoryValues

DESK = f"webhooks{STAYING}"


class Died(Exception):
    """The copying process was killed here."""


class Mortal(MemoryValues):
    """Dies after so many writes: before one is done, or after it when nobody hears the answer."""

    lives: int | None = None
    late = False

    def __init__(self) -> None:
        super().__init__(lambda: None)

    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        if self.lives == 0 and not self.late:
            raise Died
        answer = await super().write(space, key, value, expect=expect)
        if self.lives == 0:
            raise Died
        if self.lives is not None:
            self.lives -= 1
        return answer


async def put(values: KeyValueStore, space: str, key: str, value: Json) -> None:
    found = (await values.read(space, [key])).get(key)
    assert await values.write(space, key, value, expect=found.version if found else 0)


async def get(values: KeyValueStore, space: str, key: str) -> Json:
    found = (await values.read(space, [key])).get(key)
    return found.value if found else None


async def copy(source: KeyValueStore, target: KeyValueStore, *names: str) -> ValuesReport:
    origin, to = names or ("a", "b")
    return await ValueTransfer(source, target, origin=origin, to=to).run()


@pytest.fixture
def source() -> Mortal:
    return Mortal()


@pytest.fixture
def target() -> Mortal:
    return Mortal()


async def test_all_spaces_come_along_but_those_that_mean_nothing_elsewhere(
    source: Mortal, target: Mortal
) -> None:
    """More than a page of one space, keys of any length and sort."""
    for number in range(250):
        await put(source, "keys", f"{number:03}", {"n": number})
    await put(source, "webhooks", "ä/?#" * 125, [True, 1, 1.0, None])
    await put(source, DESK, "leader", "me")
    assert await copy(source, target) == ValuesReport(source=251, target=251)
    assert await get(target, "keys", "249") == {"n": 249}
    assert str(await get(target, "webhooks", "ä/?#" * 125)) == "[True, 1, 1.0, None]"
    assert await get(target, DESK, "leader") is None
    versions = [value.version for value in await target.scan("keys", 999)]
    assert await copy(source, target) == ValuesReport(source=251, target=251)
    assert [value.version for value in await target.scan("keys", 999)] == versions, (
        "nothing was written again"
    )


async def test_what_changed_in_the_source_since_is_brought_up_to_date(source: Mortal, target: Mortal) -> None:
    """A key that was revoked there must not live on here."""
    await put(source, "keys", "k", {"revoked": False})
    await put(source, "webhooks", "w", 1)
    await copy(source, target)
    await put(source, "keys", "k", {"revoked": 0})
    await source.write("webhooks", "w", None, expect=(await source.read("webhooks", ["w"]))["w"].version)
    assert await copy(source, target) == ValuesReport(source=1, target=1)
    assert await get(target, "keys", "k") == {"revoked": 0}
    assert await get(target, "webhooks", "w") is None
    assert await copy(source, target) == ValuesReport(source=1, target=1)


async def test_what_changed_in_the_target_since_stands(source: Mortal, target: Mortal) -> None:
    for key in ("changed", "removed", "both"):
        await put(source, "webhooks", key, 1)
    await copy(source, target)
    await put(target, "webhooks", "changed", 2)
    await put(target, "webhooks", "both", 2)
    await put(source, "webhooks", "both", 3)
    version = (await target.read("webhooks", ["removed"]))["removed"].version
    await target.write("webhooks", "removed", None, expect=version)
    assert await copy(source, target) == ValuesReport(source=3, target=2, went_on=3)
    assert {value.key: value.value for value in await target.scan("webhooks", 9)} == {"changed": 2, "both": 2}


async def test_what_was_there_before_is_left_and_named(source: Mortal, target: Mortal) -> None:
    """True is not 1. What is alike is alike, whoever wrote it."""
    await put(source, "limits", "a", True)
    await put(target, "limits", "a", 1)
    await put(source, "limits", "b", 5)
    await put(target, "limits", "b", 5)
    report = await copy(source, target)
    assert report == ValuesReport(source=2, target=2, differing=("limits a",))
    assert str(await get(target, "limits", "a")) == "1"


async def test_the_way_back_carries_what_went_on(source: Mortal, target: Mortal) -> None:
    """Changes, removals and new ones; what was changed at home meanwhile stands."""
    for key in ("changed", "removed", "here", "same"):
        await put(source, "webhooks", key, 1)
    await copy(source, target)
    await put(target, "webhooks", "changed", 2)
    await put(target, "webhooks", "new", 2)
    version = (await target.read("webhooks", ["removed"]))["removed"].version
    await target.write("webhooks", "removed", None, expect=version)
    await put(source, "webhooks", "here", 3)
    assert await copy(target, source, "b", "a") == ValuesReport(source=4, target=4, went_on=1)
    found = {value.key: value.value for value in await source.scan("webhooks", 9)}
    assert found == {"changed": 2, "new": 2, "here": 3, "same": 1}
    assert await copy(target, source, "b", "a") == ValuesReport(source=4, target=4, went_on=1)


async def test_a_value_that_is_changed_while_it_is_copied_is_copied_again(target: Mortal) -> None:
    class Busy(Mortal):
        """Changes its value whenever it is listed, for a while."""

        times = 3

        async def scan(self, space: str, limit: int, after: str = "") -> list[Value]:
            found = await super().scan(space, limit, after)
            if found and self.times:
                self.times -= 1
                await put(self, space, found[0].key, self.times)
            return found

    source = Busy()
    await put(source, "keys", "k", 9)
    assert await copy(source, target) == ValuesReport(source=1, target=1)
    assert await get(target, "keys", "k") == 0


@given(lives=st.lists(st.integers(0, 5), min_size=1, max_size=8), late=st.booleans())
def test_a_copy_that_dies_anywhere_is_taken_up_again(lives: list[int], late: bool) -> None:
    async def story() -> None:
        source, target = Mortal(), Mortal()
        for number in range(4):
            await put(source, "keys", str(number), number)
        for number in lives:
            target.lives, target.late = number, late
            try:
                await copy(source, target)
            except Died:
                continue
        target.lives = None
        await copy(source, target)
        for number in range(4):
            await put(source, "keys", str(number), -number)
        assert await copy(source, target) == ValuesReport(source=4, target=4)
        assert [value.value for value in await target.scan("keys", 9)] == [0, -1, -2, -3]

    asyncio.run(story())


async def test_a_check_finds_a_value_that_is_listed_only() -> None:
    class Holey(MemoryValues):
        async def read(self, space: str, keys: Sequence[str]) -> dict[str, Value]:
            return await super().read(space, [key for key in keys if key != "gone"])

    store = MemoryJobStore()
    store.values = Holey(lambda: None)
    await put(store.values, "keys", "there", 1)
    assert [finding async for finding in check(store)] == []
    await store.values.write("keys", "gone", 1, expect=0)
    [finding] = [finding async for finding in check(store)]
    assert finding.what == "value"
    assert "'gone' in 'keys'" in finding.message
