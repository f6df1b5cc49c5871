"""Cosmos DB when its answers get lost, when it throttles everybody, and when many processes pull at one queue."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import ClassVar

import pytest

from perdure.domain import transition as move
from perdure.domain.errors import StoreUnavailable
from perdure.domain.query import JobFilter
from perdure.ports.job_store import JobStore
from perdure.stores.cosmos import CosmosJobStore
from perdure.testing.builders import KIND, make_job, make_stamp
from perdure.testing.jobs.base import LEASE, running
from tests.faults.suite import AnswerSuite, Line
from tests.servers.cosmos import emulator_url, fresh_database
from tests.servers.cosmos_peer import Peer, cosmos_peer

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.xdist_group("cosmos-own")]


class PeerLine:
    """The peer loses its answers itself."""

    calls: ClassVar = {"add": "create", "add_many": "batch", "extend": "patch", "delete": "delete"}

    def __init__(self, url: str, peer: Peer) -> None:
        self.url, self.peer = url, peer

    @property
    def lost(self) -> int:
        return self.peer.lost

    def lose(self, call: str, times: int) -> None:
        self.peer.lose(self.calls.get(call, "replace"), times)


class TestCosmosFaults(AnswerSuite):
    total, batch = 400, 16

    @pytest.fixture
    def server(self) -> Iterator[Peer]:
        with cosmos_peer() as self.peer:
            yield self.peer

    @pytest.fixture
    def url(self, server: Peer) -> str:
        return server.url + "/ai"

    @pytest.fixture
    def line(self, server: Peer, url: str) -> Line:
        return PeerLine(url, server)

    def make(self, url: str, patience: float) -> CosmosJobStore:
        return CosmosJobStore(url, patience=patience)

    async def forgotten(self, store: JobStore) -> None:
        self.peer.ahead = 60
        await store.count(JobFilter(tenant=None))

    @pytest.mark.parametrize(("what", "times"), [("create", 1), ("create", 1000), ("batch", 1000)])
    async def test_an_add_of_many_leaves_no_half_of_it(
        self, store: JobStore, lossy: JobStore, what: str, times: int
    ) -> None:
        now = await store.now()
        jobs = [make_job(now, idempotency_key=f"order-{n}") for n in range(150)]
        self.peer.lose(what, times)
        with suppress(StoreUnavailable):
            await lossy.add(jobs)
        self.peer.lose(what, 0)
        await self.forgotten(store)
        assert await store.add(jobs) == jobs
        assert len([row for row in self.peer.container("ai").rows() if row["type"] == "job"]) == 150

    async def test_a_report_stands_with_what_follows_it(
        self, store: JobStore, lossy: JobStore, line: Line
    ) -> None:
        job = await running(store)
        report = move.save(job, await store.now(), checkpoint={"page": 1})
        done = move.complete(report.after, 1, make_stamp(await store.now()))
        line.lose("apply", 1)
        assert await lossy.apply([report, done]) == [True, True]
        assert await store.apply([report, done]) == [True, True]

    @pytest.mark.timeout(300)
    async def test_four_processes_run_each_job_once_on_the_emulator(self) -> None:
        with emulator_url() as url:
            async with fresh_database(url) as database:
                await self.share_out(f"{url}/{database}", 200)

    async def test_in_a_storm_of_429_each_job_runs_once(self, url: str) -> None:
        stores = [self.make(url, 30.0) for _ in range(3)]
        for store in stores:
            await store.setup()
        now = await stores[0].now()
        jobs = await stores[0].add([make_job(now, tenant=f"tenant-{n % 3}") for n in range(60)])
        chance, done = random.Random(3), asyncio.Event()
        ran: list[str] = []

        async def storm() -> None:
            while not done.is_set():
                self.peer.throttle(chance.randint(1, 12), after_ms=chance.randint(1, 9))
                await asyncio.sleep(0.05)

        async def work(store: JobStore, name: str) -> None:
            while taken := await store.claim(name, [KIND], 4, LEASE):
                ran.extend(job.id for job in taken)
                ends = [move.complete(job, 1, make_stamp(await store.now())) for job in taken]
                assert await store.apply(ends) == [True] * len(taken)

        async with asyncio.TaskGroup() as group:
            group.create_task(storm())
            await asyncio.gather(*(work(store, f"worker-{n}") for n, store in enumerate(stores)))
            done.set()
        assert sum(charge.throttled for store in stores for charge in store.charges.values()) > 0
        assert sorted(ran) == sorted(job.id for job in jobs)
        for store in stores:
            await store.close()
