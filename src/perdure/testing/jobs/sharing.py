"""`claim` on terms: how many jobs of a kind run at once, and who gets how large a share."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from perdure.domain import transition as move
from perdure.domain.job import Failure, Job
from perdure.domain.state import JobState
from perdure.domain.terms import Limit, Terms
from perdure.ports.job_store import JobStore
from perdure.testing.builders import KIND
from perdure.testing.jobs.base import (
    BRIEF,
    LEASE,
    MOMENT,
    JobStoreSuite,
    added,
    added_many,
    ids,
    stamp,
    written,
)

TWO = Terms(limits={KIND: Limit(total=2)})
ONE_EACH = Terms(limits={KIND: Limit(per_tenant=1)})
AT_ONCE = 6
"""Claims that race for the same places."""


class LimitSuite(JobStoreSuite):
    """No more than the limit run, whatever happens, and nobody waits for a limit of others."""

    async def _claim(
        self, store: JobStore, terms: Terms, limit: int = 9, kinds: tuple[str, ...] = (KIND,)
    ) -> list[Job]:
        return await store.claim("worker-1", kinds, limit, LEASE, terms)

    async def test_no_more_of_a_kind_run_than_its_limit(self, store: JobStore) -> None:
        jobs = await added_many(store, 4)
        first = await self._claim(store, TWO, 1)
        second = await self._claim(store, TWO)
        assert ids([*first, *second]) == ids(jobs[:2])
        assert await self._claim(store, TWO) == []
        assert len(await self._claim(store, Terms(limits={KIND: Limit(total=3)}))) == 1, "it was raised"

    async def test_each_end_of_a_run_frees_its_place(self, store: JobStore) -> None:
        await added_many(store, 3)
        one = Terms(limits={KIND: Limit(total=1)})
        failure = Failure(type="E", message="m")
        for number in range(3):
            [job] = await self._claim(store, one)
            assert await self._claim(store, one) == []
            at = await stamp(store)
            ends = (move.complete(job, None, at), move.fail(job, failure, LEASE, at), move.cancel(job, at))
            assert await written(store, ends[number])
        await added_many(store, 2)
        [gone] = await self._claim(store, one)
        assert await store.delete(gone.tenant, gone.id)
        async with asyncio.timeout(self.patience):
            while not await self._claim(store, one):
                await self.advance(store, MOMENT)

    async def test_a_lease_that_ran_out_holds_its_place_until_it_is_rescued(self, store: JobStore) -> None:
        await added_many(store, 2)
        one = Terms(limits={KIND: Limit(total=1)})
        [lost] = await store.claim("worker-1", [KIND], 5, BRIEF, one)
        await self.advance(store, MOMENT)
        assert await self._claim(store, one) == []
        assert await written(store, move.rescue(lost, await stamp(store)))
        assert len(await self._claim(store, one)) == 1
        assert await self._claim(store, one) == []

    async def test_no_more_of_a_tenant_run_than_its_limit(self, store: JobStore) -> None:
        for tenant in ("acme", "bolt"):
            await added_many(store, 3, tenant=tenant)
        taken = await self._claim(store, ONE_EACH)
        assert sorted(job.tenant for job in taken) == ["acme", "bolt"]
        assert await self._claim(store, ONE_EACH) == []
        assert await written(store, move.complete(taken[0], None, await stamp(store)))
        [next_one] = await self._claim(store, ONE_EACH)
        assert next_one.tenant == taken[0].tenant

    @pytest.mark.parametrize("limit", [1, 9])
    async def test_a_tenant_at_its_limit_keeps_no_other_waiting(self, store: JobStore, limit: int) -> None:
        await added_many(store, 12, tenant="acme", priority=9)
        await added_many(store, 2, tenant="acme", kind="free")
        await added(store, tenant="bolt")
        taken: list[Job] = []
        for _ in range(4):
            taken += await self._claim(store, ONE_EACH, limit, (KIND, "free"))
        assert Counter((job.tenant, job.kind) for job in taken) == {
            ("acme", KIND): 1,
            ("acme", "free"): 2,
            ("bolt", KIND): 1,
        }
        assert (taken[0].priority, taken[0].tenant) == (9, "acme")

    @pytest.mark.parametrize("limit", [1, 9])
    async def test_a_kind_at_its_limit_keeps_no_other_waiting(self, store: JobStore, limit: int) -> None:
        long_ago = await store.now() - timedelta(hours=1)
        await added_many(store, 12, priority=9)
        await added_many(store, 12, due_at=long_ago)
        await added_many(store, 3, kind="free")
        taken: list[Job] = []
        for _ in range(5):
            taken += await self._claim(store, TWO, limit, (KIND, "free"))
        assert Counter(job.kind for job in taken) == {KIND: 2, "free": 3}
        assert [job.priority for job in taken[:2]] == [9, 9]

    async def test_the_places_of_a_kind_are_dealt_among_tenants_in_turn(self, store: JobStore) -> None:
        await added_many(store, 8, tenant="acme")
        await added_many(store, 8, tenant="bolt")
        assert sorted(job.tenant for job in await self._claim(store, TWO)) == ["acme", "bolt"]

    async def test_claims_at_once_never_exceed_a_limit(self, store: JobStore, other: JobStore) -> None:
        terms = Terms(limits={KIND: Limit(total=3, per_tenant=2)})
        for tenant in ("acme", "bolt"):
            await added_many(store, 6, tenant=tenant)
        await added_many(store, 3, kind="free")
        ended = 0
        for _ in range(3):
            claims = await asyncio.gather(
                *(
                    (store, other)[n % 2].claim(f"worker-{n}", [KIND, "free"], 9, LEASE, terms)
                    for n in range(AT_ONCE)
                )
            )
            taken = [job for claim in claims for job in claim if job.kind == KIND]
            assert len(taken) <= 3
            assert max(Counter(job.tenant for job in taken).values(), default=0) <= 2
            taken += [
                job for job in await self._claim(store, terms, kinds=(KIND, "free")) if job.kind == KIND
            ]
            assert len(taken) == 3, f"places stayed free: {taken}"
            assert (
                await store.apply([move.complete(job, None, await stamp(store)) for job in taken])
                == [True] * 3
            )
            ended += 3
        counts = (await store.stats(None)).counts
        assert counts[KIND] == {JobState.COMPLETED: ended, JobState.PENDING: 12 - ended}
        assert counts["free"] == {JobState.RUNNING: 3}


class ShareSuite(JobStoreSuite):
    """Within a priority tenants get jobs by their shares, and the small ones do not wait."""

    async def _order(self, store: JobStore, terms: Terms, limit: int, number: int) -> list[str]:
        order: list[str] = []
        while len(order) < number and (jobs := await store.claim("w", [KIND], limit, LEASE, terms)):
            order += [job.tenant for job in jobs]
        return order

    @pytest.mark.parametrize("limit", [1, 2, 7])
    async def test_tenants_get_jobs_by_their_shares(self, store: JobStore, limit: int) -> None:
        for tenant in ("acme", "bolt", "core"):
            await added_many(store, 24, tenant=tenant)
        terms = Terms(shares={"acme": 3, "core": 2})
        got = Counter((await self._order(store, terms, limit, 24))[:24])
        for tenant, share in (("acme", 12), ("bolt", 4), ("core", 8)):
            assert abs(got[tenant] - share) <= 3, f"of 24 jobs {tenant} should have had about {share}: {got}"

    async def test_with_a_limit_too(self, store: JobStore) -> None:
        for tenant in ("acme", "bolt"):
            await added_many(store, 10, tenant=tenant)
        terms = Terms(limits={KIND: Limit(total=8)}, shares={"acme": 3})
        assert Counter(await self._order(store, terms, 8, 8)) == {"acme": 6, "bolt": 2}

    @pytest.mark.parametrize("limit", [1, 4])
    async def test_the_smallest_waits_no_longer_than_two_rounds(self, store: JobStore, limit: int) -> None:
        await added_many(store, 30, tenant="big")
        await added_many(store, 2, tenant="small")
        order = await self._order(store, Terms(shares={"big": 4}), limit, 20)
        places = [place for place, name in enumerate(order) if name == "small"]
        assert len(places) == 2, order
        assert places[0] < 10, order
        assert places[1] < 15, order

    async def test_a_share_does_not_outdo_a_priority(self, store: JobStore) -> None:
        await added_many(store, 5, tenant="big")
        await added_many(store, 2, tenant="small", priority=1)
        assert (await self._order(store, Terms(shares={"big": 9}), 1, 3)) == ["small", "small", "big"]

    async def test_ten_jobs_beside_very_many_start_within_two_claims(self, store: JobStore) -> None:
        """Half of each of two claims is enough for them."""
        for _ in range(self.crowd // 100):
            await added_many(store, 100, tenant="big")
        await added_many(store, 10, tenant="small")
        taken = [job.tenant for _ in range(2) for job in await store.claim("w", [KIND], 20, LEASE)]
        assert taken.count("small") == 10, f"of {len(taken)} jobs that were started"
