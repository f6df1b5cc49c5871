"""`get`, `find`, `count`, `stats`: whole jobs, in keyset pages, inside a tenant's walls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.domain.transition import cancel, complete
from perdure.ports.job_store import JobStore
from perdure.testing.builders import make_id, make_job
from perdure.testing.jobs.base import (
    JobStoreSuite,
    added,
    added_many,
    everything,
    ids,
    running,
    stamp,
    written,
)

_T = TypeVar("_T")

TENANTS, KINDS, PEOPLE, DOCUMENTS = ("acme", "bolt"), ("work", "report"), ("ann", "ben"), ("d1", "d2")
BORN = datetime(2031, 5, 4, 12, 0, 0, 250_000, tzinfo=UTC)
STATES = (JobState.PENDING, JobState.FAILED, JobState.COMPLETED)

RUNNING = JobFilter(tenant=None, states=(JobState.RUNNING,))


def population() -> list[Job]:
    """Jobs of every mixture of the fields that filters look at, some of them equal in all of them."""
    return [
        make_job(
            BORN + timedelta(hours=number % 5),
            tenant=TENANTS[number % 2],
            kind=KINDS[number // 2 % 2],
            state=STATES[number // 4 % 3],
            due_at=None,
            user_id=(None, *PEOPLE)[number // 3 % 3],
            document_id=(None, *DOCUMENTS)[number // 7 % 3],
        )
        for number in range(72)
    ]


def any_filter(chance: random.Random) -> JobFilter:
    """A filter of any mixture of fields, some of them for what is not there."""

    def some(values: Sequence[_T]) -> tuple[_T, ...]:
        return tuple(chance.sample(values, chance.choice((0, 0, 1, 2))))

    def maybe(values: Sequence[_T]) -> _T | None:
        return chance.choice((None, None, *values))

    times = [BORN + timedelta(hours=hours) for hours in range(-1, 7)]
    return JobFilter(
        tenant=chance.choice((None, *TENANTS, "nobody")),
        states=some((*STATES, JobState.WAITING)),
        kinds=some((*KINDS, "none")),
        user_id=maybe((*PEOPLE, "nobody")),
        document_id=maybe((*DOCUMENTS, "none")),
        created_from=maybe(times),
        created_before=maybe(times),
        oldest_first=chance.choice((False, False, True)),
    )


class ReadSuite(JobStoreSuite):
    """Looking at jobs."""

    async def test_get_and_history_keep_to_their_tenant(self, store: JobStore) -> None:
        job = await added(store, tenant="acme")
        assert await store.get("acme", job.id) == job
        assert await store.get("bolt", job.id) is None
        assert await store.get("acme", make_id(await store.now())) is None
        assert await written(store, cancel(job, await stamp(store)))
        assert await store.history("bolt", job.id) == []
        assert len(await store.history("acme", job.id)) == 1

    async def test_find_and_count_keep_to_their_tenant(self, store: JobStore) -> None:
        mine = await added_many(store, 3, tenant="acme")
        await added_many(store, 4, tenant="bolt")
        assert ids(await store.find(JobFilter(tenant="acme"), 10)) == ids(mine[::-1])
        assert await store.count(JobFilter(tenant="acme")) == 3
        assert await store.find(JobFilter(tenant="nobody"), 10) == []
        assert await store.count(JobFilter(tenant=None)) == 7

    async def test_find_gives_whole_jobs_newest_id_first(self, store: JobStore) -> None:
        now = await store.now()
        jobs = [make_job(now, payload={"n": [1]}, labels={"team": "a"}) for _ in range(6)]
        for place in (3, 0, 5, 1, 4, 2):
            await store.add([jobs[place]])
        assert await store.find(JobFilter(tenant="default"), 2) == jobs[:3:-1]
        assert await everything(store, size=2) == jobs[::-1]

    async def test_pages_neither_repeat_nor_skip_while_jobs_are_added(self, store: JobStore) -> None:
        for size in (1, 2, 3, 7, 20):
            query = JobFilter(tenant=f"tenant-{size}")
            jobs = await added_many(store, 7, tenant=query.tenant)
            pages = list[str]()
            while page := await store.find(query, size, pages[-1] if pages else None):
                assert len(page) <= size
                assert not pages or page[0].id < pages[-1]
                pages += ids(page)
                await added(store, tenant=query.tenant)
            assert pages == ids(jobs[::-1])

    async def test_oldest_first_ends_with_what_comes_in_meanwhile(self, store: JobStore) -> None:
        query = JobFilter(tenant="default", oldest_first=True)
        jobs = await added_many(store, 5)
        page = await store.find(query, 3)
        assert page == jobs[:3]
        assert await store.delete("default", jobs[2].id)
        late = await added(store)
        assert ids(await store.find(query, 10, page[-1].id)) == ids([*jobs[3:], late])

    async def test_a_page_goes_on_after_its_cursors_job_is_deleted(self, store: JobStore) -> None:
        jobs = await added_many(store, 6)
        page = await store.find(JobFilter(tenant="default"), 3)
        assert await store.delete("default", page[-1].id)
        assert await store.find(JobFilter(tenant="default"), 3, page[-1].id) == jobs[2::-1]

    async def test_find_and_count_agree_with_the_filter(self, store: JobStore) -> None:
        chance = random.Random(1)
        jobs = sorted(await store.add(population()), key=lambda job: job.id, reverse=True)
        for query in [any_filter(chance) for _ in range(60)]:
            expected = [job for job in jobs[:: -1 if query.oldest_first else 1] if query.matches(job)]
            assert await everything(store, query, chance.randint(1, 30)) == expected, query
            assert await store.count(query) == len(expected), query

    async def test_tenants_are_told_by_name_with_what_has_waited_longest(self, store: JobStore) -> None:
        now = (await store.now()).replace(microsecond=0)
        hours = {"acme": (3, 7, -2), "bolt": (-1,), "cord": (), "dome": (2, 1)}
        for tenant, ages in hours.items():
            for number, age in enumerate(ages):
                due_at = now - timedelta(hours=age)
                await added(
                    store,
                    tenant=tenant,
                    kind=f"kind-{number}",
                    priority=number - 1,
                    due_at=due_at,
                    created_at=BORN,
                )
        await running(store, tenant="cord", kind="report")
        expected = {
            "acme": now - timedelta(hours=7),
            "bolt": None,
            "cord": None,
            "dome": now - timedelta(hours=2),
        }
        assert await store.tenants(10) == expected
        assert list(await store.tenants(10)) == sorted(expected)
        assert list(await store.tenants(2)) == ["acme", "bolt"]
        assert await store.tenants(2, "bolt") == {name: expected[name] for name in ("cord", "dome")}
        assert await store.tenants(2, "dome") == {}
        await store.claim("w", ["kind-1"], 2, timedelta(minutes=5))
        assert (await store.tenants(1))["acme"] == now - timedelta(hours=3)

    async def test_stats_count_by_kind_and_state_inside_the_tenant(self, store: JobStore) -> None:
        job = await running(store, tenant="acme", kind="report")
        await added_many(store, 2, tenant="acme")
        await added_many(store, 3, tenant="bolt")
        acme, everybody = await store.stats("acme"), await store.stats(None)
        assert acme.counts == {"report": {JobState.RUNNING: 1}, "work": {JobState.PENDING: 2}}
        assert everybody.counts == {"report": {JobState.RUNNING: 1}, "work": {JobState.PENDING: 5}}
        assert (await store.stats("nobody")).counts == {}
        assert ids(await everything(store, RUNNING)) == [job.id]
        assert await written(store, complete(job, None, await stamp(store)))
        assert (await store.stats("acme")).counts["report"] == {JobState.COMPLETED: 1}
        assert await store.count(RUNNING) == 0, "a state is found as jobs move"
        assert await store.delete(job.tenant, job.id)
        for tenant in ("acme", None):
            assert "report" not in (await store.stats(tenant)).counts, "what has come to zero is left out"
