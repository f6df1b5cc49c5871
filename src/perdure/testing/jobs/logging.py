"""The log of all entries, and the values beside the jobs."""

from __future__ import annotations

import asyncio

import pytest

from perdure.domain import transition
from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.domain.job import Failure
from perdure.domain.log import Logged
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND
from perdure.testing.jobs.base import LEASE, JobStoreSuite, added_many, read, running, stamp, written

SPACE = "suite"


async def log_after(store: JobStore, position: str, size: int = 100) -> tuple[list[Logged], str]:
    """All lines after a position, each once, and where the log ends."""
    lines: dict[str, Logged] = {}
    while True:
        page = await store.entries(position, size)
        lines |= {line.entry.id: line for line in page.lines if line.entry.id not in lines}
        position = page.next
        if not page.more:
            return list(lines.values()), position


async def heard(store: JobStore, position: str, wanted: set[str], patience: float) -> list[Logged]:
    """The lines after a position, read until those with these entry ids are among them."""
    lines: dict[str, Logged] = {}
    async with asyncio.timeout(patience):
        while not wanted <= lines.keys():
            found, position = await log_after(store, position)
            lines |= {line.entry.id: line for line in found if line.entry.id not in lines}
            await asyncio.sleep(0.01)
    return list(lines.values())


class LogSuite(JobStoreSuite):
    """What `apply` wrote, in order, for whoever follows all jobs."""

    async def test_the_log_tells_what_was_written_after_a_position(self, store: JobStore) -> None:
        """Entries, whose they are, and those of one job in their order."""
        start = (await store.entries(None, 10)).next
        job = await running(store, tenant="acme")
        first = transition.fail(job, Failure(type="Oops", message="once"), LEASE * 0, await stamp(store))
        assert await written(store, first)
        [job] = await store.claim("worker-2", [KIND], 1, LEASE)
        second = transition.complete(job, {"ok": True}, await stamp(store))
        assert await written(store, second)
        entries = [move.entry for move in (first, second) if move.entry is not None]
        heard_of = await heard(store, start, {entry.id for entry in entries}, self.patience)
        lines = [line for line in heard_of if line.job_id == job.id]
        assert [line.entry for line in lines] == entries
        assert {(line.tenant, line.job_id, line.kind) for line in lines} == {("acme", job.id, KIND)}

    async def test_the_log_is_read_in_pages_and_from_another_handle(
        self, store: JobStore, other: JobStore
    ) -> None:
        """A position is good in every process; pages of two tell the same as one of a hundred."""
        start = (await store.entries(None, 10)).next
        await added_many(store, 7)
        jobs = await store.claim("worker-1", [KIND], 7, LEASE)
        moves = [transition.complete(job, 0, await stamp(store)) for job in jobs]
        assert await store.apply(moves) == [True] * 7
        wanted = {move.entry.id for move in moves if move.entry is not None}
        lines = await heard(other, start, wanted, self.patience)
        assert {job.id for job in jobs} <= {line.job_id for line in lines}
        small, _ = await log_after(other, start, size=2)
        assert wanted <= {line.entry.id for line in small}

    async def test_writers_at_once_leave_no_gap_in_the_log(self, store: JobStore, other: JobStore) -> None:
        """A reader that keeps reading while two handles write hears of every write."""
        start = (await store.entries(None, 10)).next
        await added_many(store, 24)
        jobs = await store.claim("worker-1", [KIND], 24, LEASE)
        moves = [transition.complete(job, 0, await stamp(store)) for job in jobs]
        wanted = {move.entry.id for move in moves if move.entry is not None}
        reader = asyncio.create_task(heard(store, start, wanted, self.patience))
        for one, two in zip(moves[::2], moves[1::2], strict=True):
            await asyncio.gather(store.apply([one]), other.apply([two]))
        assert wanted <= {line.entry.id for line in await reader}

    async def test_a_removed_job_is_in_the_log_no_more(self, store: JobStore) -> None:
        """Reading over its lines does no harm."""
        start = (await store.entries(None, 10)).next
        job = await running(store)
        await written(store, transition.complete(job, 0, await stamp(store)))
        kept = await running(store)
        move = transition.complete(kept, 0, await stamp(store))
        await written(store, move)
        assert await store.delete(job.tenant, job.id)
        assert move.entry is not None
        lines = await heard(store, start, {move.entry.id}, self.patience)
        assert {line.job_id for line in lines if line.entry.id == move.entry.id} == {kept.id}
        assert (await read(store, kept)).finished

    async def test_what_comes_after_a_removed_end_is_not_missed(
        self, store: JobStore, other: JobStore
    ) -> None:
        """The place of the last line is not given to another one."""
        start = (await store.entries(None, 10)).next
        gone = await running(store)
        first = transition.complete(gone, 0, await stamp(store))
        assert await written(store, first)
        assert first.entry is not None
        await heard(store, start, {first.entry.id}, self.patience)
        _, position = await log_after(store, start)
        assert await store.delete(gone.tenant, gone.id)
        second = transition.complete(await running(other), 0, await stamp(other))
        assert await written(other, second)
        assert second.entry is not None
        await heard(store, position, {second.entry.id}, self.patience)


class ValueSuite(JobStoreSuite):
    """Small values under keys, compared and set."""

    async def test_a_value_is_put_read_changed_and_removed(self, store: JobStore, other: JobStore) -> None:
        """Each write needs the version that it takes the place of, and gives another one."""
        values = store.values
        assert await values.read(SPACE, ["a"]) == {}
        first = await values.write(SPACE, "a", {"n": [1, 2.5, "ü", None]}, expect=0)
        assert first
        found = (await other.values.read(SPACE, ["a", "b"]))["a"]
        assert (found.key, found.value, found.version) == ("a", {"n": [1, 2.5, "ü", None]}, first)
        assert (type(found.version), type(first)) == (int, int)
        assert await values.write(SPACE, "a", "new", expect=0) is None
        second = await other.values.write(SPACE, "a", "new", expect=first)
        assert second not in (None, first)
        assert await values.write(SPACE, "a", None, expect=first) is None
        assert second
        assert await values.write(SPACE, "a", None, expect=second) == second
        assert await other.values.read(SPACE, ["a"]) == {}
        assert await values.write(SPACE, "a", None, expect=0) is None
        third = await values.write(SPACE, "a", False, expect=0)
        assert third not in (None, first, second)
        assert (await values.read(SPACE, ["a"]))["a"].value is False

    async def test_of_writers_at_once_one_wins(self, store: JobStore, other: JobStore) -> None:
        """Every increment counts once, whoever races."""

        async def increment(handle: JobStore) -> None:
            while True:
                found = (await handle.values.read(SPACE, ["n"])).get("n")
                number = found.value if found else 0
                assert isinstance(number, int)
                version = found.version if found else 0
                if await handle.values.write(SPACE, "n", number + 1, expect=version):
                    return

        await asyncio.gather(*(increment(handle) for handle in (store, other) for _ in range(5)))
        assert (await store.values.read(SPACE, ["n"]))["n"].value == 10

    async def test_a_space_is_read_by_key_in_pages(self, store: JobStore) -> None:
        """Ascending, and nothing of another space."""
        keys = ["a", "a b", "a/b?c#d", "b", "ä", "Z"]
        for key in keys:
            assert await store.values.write(SPACE, key, key, expect=0)
        assert await store.values.write("another", "a", 1, expect=0)
        seen: list[str] = []
        while page := await store.values.scan(SPACE, 2, seen[-1] if seen else ""):
            assert all(value.value == value.key for value in page)
            seen += [value.key for value in page]
        assert seen == sorted(keys)

    async def test_the_spaces_with_a_value_are_told(self, store: JobStore, other: JobStore) -> None:
        """By name; no other one, and none whose last value was removed."""
        assert await store.values.spaces() == []
        versions = {
            (space, key): await store.values.write(space, key, 1, expect=0)
            for space in ("b", "a", "a.b", "ab", "A")
            for key in ("one", "two")
        }
        assert await other.values.spaces() == ["A", "a", "a.b", "ab", "b"]
        for (space, key), version in versions.items():
            if space in ("a", "b") and not (space == "b" and key == "one"):
                assert await other.values.write(space, key, None, expect=version or 0)
        assert await store.values.spaces() == ["A", "a.b", "ab", "b"]

    async def test_what_does_not_fit_is_refused_and_nothing_written(self, store: JobStore) -> None:
        """A megabyte is the most; a key is a text, a space a name."""
        for space, key, value in (
            (SPACE, "a", "x" * 1_000_001),
            (SPACE, "", 1),
            (SPACE, "k" * 501, 1),
            ("no name", "a", 1),
            (SPACE, "a", float("nan")),
        ):
            with pytest.raises(InvalidInput):
                await store.values.write(space, key, value, expect=0)
        assert await store.values.scan(SPACE, 10) == []
        large = "x" * 990_000
        assert await store.values.write(SPACE, "a", large, expect=0)
        assert (await store.values.read(SPACE, ["a"]))["a"].value == large

    async def test_a_closed_store_gives_no_values(self, store: JobStore, other: JobStore) -> None:
        """As with jobs."""
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.values.read(SPACE, ["a"])
        with pytest.raises(StoreUnavailable):
            await store.entries(None, 1)
