"""What every change feed must do: a class with one fixture is the whole suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.domain.change import Action, Batch, Change, Marks, last_of_each
from perdure.domain.record import Json
from perdure.ports.change_feed import ChangeFeed

__all__ = ["ChangeFeedContract", "Reader", "Source"]


class Source(Protocol):
    """What a feed follows, for tests."""

    async def put(self, document_id: str, text: str) -> None:
        """Create a document, or change it."""
        ...

    async def remove(self, document_id: str) -> None:
        """Take it away."""
        ...

    async def rot(self) -> None:
        """Bring something in that can't become a document."""
        ...

    async def text(self, change: Change) -> str:
        """The content that an upsert tells of."""
        ...

    def feed(self) -> ChangeFeed:
        """A new reader of the source, as after a restart; it tells of a change within a second."""
        ...


class Reader:
    """Keeps a feed's marks as the runner does."""

    def __init__(self, feed: ChangeFeed, kept: dict[str, Json]) -> None:
        self.feed, self.kept = feed, kept
        self.notes: list[str] = []

    async def _recall(self, keys: Sequence[str]) -> Marks:
        return {key: self.kept[key] for key in keys if key in self.kept}

    async def read(self) -> Batch:
        """One batch, of which nothing becomes durable."""
        return await self.feed.read(self._recall, 100)

    async def keep(self, batch: Batch) -> None:
        """Make a batch durable."""
        for key, value in batch.marks.items():
            self.kept.pop(key, None)
            if value is not None:
                self.kept[key] = value
        await self.feed.settle(batch)

    async def drain(self) -> Batch:
        """All that is new, until three batches in a row were empty."""
        told, empty = Batch(), 0
        while empty < 3:
            batch = await self.read()
            await self.keep(batch)
            empty = 0 if batch.changes or batch.poison else empty + 1
            told = Batch(changes=told.changes + batch.changes, poison=told.poison + batch.poison)
            self.notes += [batch.note] * bool(batch.note)
        return told


class ChangeFeedContract:
    """Subclass it with a fixture `source`."""

    async def _state(
        self, source: Source, changes: tuple[Change, ...], before: dict[str, str]
    ) -> dict[str, str]:
        after = dict(before)
        for change in last_of_each(changes):
            if change.action is Action.DELETE:
                after.pop(change.document_id, None)
            else:
                after[change.document_id] = await source.text(change)
        return after

    async def test_what_was_there_before_is_told(self, source: Source) -> None:
        """A feed that is new begins with the whole source."""
        want = {f"d{n}": f"text {n}" for n in range(20)}
        for document_id, text in want.items():
            await source.put(document_id, text)
        told = await Reader(source.feed(), {}).drain()
        assert await self._state(source, told.changes, {}) == want

    async def test_it_follows_creates_updates_and_deletes(self, source: Source) -> None:
        """What it told adds up to the source at each moment."""
        reader = Reader(source.feed(), {})
        await source.put("a", "one")
        await source.put("b", "two")
        state = await self._state(source, (await reader.drain()).changes, {})
        assert state == {"a": "one", "b": "two"}
        await source.put("a", "one, changed")
        await source.remove("b")
        await source.put("c", "three")
        state = await self._state(source, (await reader.drain()).changes, state)
        assert state == {"a": "one, changed", "c": "three"}
        await source.remove("c")
        await source.put("c", "three again")
        assert await self._state(source, (await reader.drain()).changes, state) == state | {
            "c": "three again"
        }

    async def test_a_batch_that_was_not_kept_is_told_again(self, source: Source) -> None:
        """A reader that dies before its batch is durable loses nothing."""
        kept: dict[str, Json] = {}
        await Reader(source.feed(), kept).drain()
        await source.put("a", "one")
        first = Reader(source.feed(), kept)
        told: tuple[Change, ...] = ()
        while not told:
            batch = await first.read()
            told = batch.changes
            if not told:
                await first.keep(batch)
        again = await Reader(source.feed(), kept).drain()
        assert [(c.document_id, c.version, c.etag) for c in again.changes] == [
            (c.document_id, c.version, c.etag) for c in told
        ]

    async def test_a_new_reader_goes_on(self, source: Source) -> None:
        """Nothing is told twice once it was kept, and what happened meanwhile is not missed."""
        kept: dict[str, Json] = {}
        await source.put("a", "one")
        await source.put("b", "two")
        await Reader(source.feed(), kept).drain()
        assert (await Reader(source.feed(), kept).drain()).changes == ()
        await source.remove("a")
        await source.put("c", "three")
        told = (await Reader(source.feed(), kept).drain()).changes
        assert sorted((c.document_id, str(c.action)) for c in last_of_each(told)) == [
            ("a", "delete"),
            ("c", "upsert"),
        ]

    async def test_what_is_rotten_holds_up_nothing(self, source: Source) -> None:
        """It comes as poison, with the reason, and the rest goes on."""
        reader = Reader(source.feed(), {})
        await source.rot()
        await source.put("a", "one")
        told = await reader.drain()
        assert [change.document_id for change in told.changes] == ["a"]
        assert {bool(poison.id and poison.reason) for poison in told.poison} == {True}
