"""Copies the small values of one store into another, before its jobs and after them (see `perdure.core.transfer`).

The target keeps a note of each value that a copy wrote. For as long as a value is there as the copy left it (or, on the way
back, as the copy took it), the source has the word: the next copy brings a change along, and a removal. What was changed or
removed in the target itself since stays so. A value that was there of its own accord, and is another one, is left and named.

Spaces of what means something in one store alone (see `STAYING`) are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from enum import Enum, auto
from typing import Final, NamedTuple

import msgspec

from perdure.domain.ids import uuid5
from perdure.domain.record import Json, Record
from perdure.domain.value import STAYING, Value
from perdure.ports.key_value import KeyValueStore

PAGE: Final = 100
NOTES: Final = f"perdure.copied{STAYING}"
NAMED: Final = 20
ROUNDS: Final = 3


class ValuesReport(Record):
    """What both stores have of small values.

    Attributes:
        source, target: values of the source, and those of them that the target has.
        went_on: of the source's, how many were changed or removed in the target since they came there.
        differing: ``SPACE KEY`` of those that the target lacks, or had before as another value; at most 20.
    """

    source: int
    target: int
    went_on: int = 0
    differing: tuple[str, ...] = ()


class Note(Record):
    """That a copy wrote a value into the store where this lies.

    Attributes:
        origin: the store that it came from.
        version, source: of the value, here and there.
    """

    origin: str
    space: str
    key: str
    version: int
    source: int


class _Standing(Enum):
    """How a value of the source stands in the target."""

    LACKING = auto()
    ALIKE = auto()
    BEHIND = auto()
    WENT_ON = auto()
    TAKEN = auto()


class _Pair(NamedTuple):
    """A value of the source, and what the target has; the notes of both about a copy from the other."""

    space: str
    value: Value
    there: Value | None
    note: Value | None
    back: Value | None


class ValueTransfer:
    """One copy of all values.

    Args:
        origin, to: the names of source and target.
    """

    def __init__(self, source: KeyValueStore, target: KeyValueStore, *, origin: str, to: str) -> None:
        self._source, self._target, self._origin, self._to = source, target, origin, to

    async def run(self) -> ValuesReport:
        """Bring along what the target lacks or has as it was; then compare."""
        report = await self._round()
        for _ in range(1, ROUNDS):  # values may have been written meanwhile
            if not report.differing:
                break
            report = await self._round()
        return report

    async def _round(self) -> ValuesReport:
        async for pair in self._pairs():
            await self._bring(pair)
        await self._remove_what_went()
        return await self._compare()

    async def _bring(self, pair: _Pair) -> None:
        value, there, note = pair.value, pair.there, pair.note
        match _standing(pair):
            case _Standing.ALIKE:
                assert there is not None
                written: int | None = there.version
            case _Standing.LACKING | _Standing.BEHIND:
                expect = there.version if there else 0
                written = await self._target.write(pair.space, value.key, value.value, expect=expect)
            case _:
                return
        if written is None:  # somebody else was quicker
            return
        told = Note(
            origin=self._origin, space=pair.space, key=value.key, version=written, source=value.version
        )
        if note is None or _note(note) != told:
            key, expect = _id(self._origin, pair.space, value.key), note.version if note else 0
            await self._target.write(NOTES, key, msgspec.to_builtins(told), expect=expect)

    async def _remove_what_went(self) -> None:
        """Values that the source has no more, where the target has them as a copy left or took them; and their notes."""
        for place, other in ((self._target, self._origin), (self._source, self._to)):
            async for kept in each(place, NOTES):
                note = _note(kept)
                if note.origin != other or await self._source.read(note.space, [note.key]):
                    continue
                there = (await self._target.read(note.space, [note.key])).get(note.key)
                if there is not None and there.version == (
                    note.version if place is self._target else note.source
                ):
                    await self._target.write(note.space, note.key, None, expect=there.version)
                await place.write(NOTES, kept.key, None, expect=kept.version)

    async def _compare(self) -> ValuesReport:
        standings = Counter[_Standing]()
        target, differing = 0, list[str]()
        async for pair in self._pairs():
            standing = _standing(pair)
            standings[standing] += 1
            target += pair.there is not None
            if standing not in (_Standing.ALIKE, _Standing.WENT_ON) and len(differing) < NAMED:
                differing.append(f"{pair.space} {pair.value.key}")
        return ValuesReport(
            source=standings.total(),
            target=target,
            went_on=standings[_Standing.WENT_ON],
            differing=tuple(differing),
        )

    async def _pairs(self) -> AsyncIterator[_Pair]:
        for space in filter(carried, await self._source.spaces()):
            async for page in pages(self._source, space):
                keys = [value.key for value in page]
                there = await self._target.read(space, keys)
                notes = await self._target.read(NOTES, [_id(self._origin, space, key) for key in keys])
                backs = await self._source.read(NOTES, [_id(self._to, space, key) for key in keys])
                for value in page:
                    note = notes.get(_id(self._origin, space, value.key))
                    back = backs.get(_id(self._to, space, value.key))
                    yield _Pair(space, value, there.get(value.key), note, back)


def carried(space: str) -> bool:
    """Whether a copy brings a space along."""
    return not space.endswith(STAYING)


async def each(values: KeyValueStore, space: str) -> AsyncIterator[Value]:
    """All values of a space, by key."""
    async for page in pages(values, space):
        for value in page:
            yield value


async def pages(values: KeyValueStore, space: str) -> AsyncIterator[list[Value]]:
    """A space, by key."""
    after = ""
    while page := await values.scan(space, PAGE, after):
        yield page
        after = page[-1].key


def _standing(pair: _Pair) -> _Standing:
    there = pair.there
    if there is not None and _text(there.value) == _text(pair.value.value):
        return _Standing.ALIKE
    if pair.note is None and pair.back is None:
        return _Standing.LACKING if there is None else _Standing.TAKEN
    left = {_note(pair.note).version if pair.note else 0, _note(pair.back).source if pair.back else 0}
    return _Standing.BEHIND if there is not None and there.version in left else _Standing.WENT_ON


def _text(value: Json) -> bytes:
    """Equal for equal JSON; to Python, true and 1 are equal, too."""
    return msgspec.json.encode(value, order="deterministic")


def _note(kept: Value) -> Note:
    return msgspec.convert(kept.value, Note)


def _id(origin: str, space: str, key: str) -> str:
    return uuid5(origin, space, key)
