"""What each networked store says of a place that is wrong, forbidden, full or not what it should be; and writes nothing there.

A host that is down, URLs that cannot be and what is too large are told beside each store's own tests; PostgreSQL's in
test_postgres_refusals.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from perdure.domain import transition as move
from perdure.domain.errors import (
    InvalidInput,
    PerdureError,
    SchemaMismatch,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
)
from perdure.ports.job_store import JobStore
from perdure.stores.cosmos import CosmosJobStore
from perdure.stores.mongodb import MongoJobStore
from perdure.stores.redis import RedisJobStore
from perdure.testing.builders import make_stamp
from perdure.testing.jobs.base import added, added_many, read, running
from tests.refusing import PASSWORD, nothing_was_written, opened, refused, writes_are_refused
from tests.servers.cosmos_peer import Peer, cosmos_peer
from tests.servers.mongodb import MongoServer, fresh_database, mongodb_server
from tests.servers.proxy import tcp_proxy
from tests.servers.redis import RedisServer, binaries, redis_server

pytestmark = pytest.mark.server

MARKS = [(99, SchemaMismatch, "upgrade"), (0, StoreCorrupt, "expected 1"), ("x", StoreCorrupt, "'x'")]
"""What a store may say that its schema is."""


def be_patient(store: JobStore, seconds: float) -> None:
    """How long each of its calls tries from now on."""
    assert isinstance(store, (MongoJobStore, CosmosJobStore))
    store._patience = seconds


@pytest.fixture(scope="module")
def mongod() -> Iterator[MongoServer]:
    with mongodb_server() as server:
        yield server


@pytest.mark.xdist_group("mongodb")
class TestMongo:
    @pytest_asyncio.fixture
    async def url(self, mongod: MongoServer) -> AsyncIterator[str]:
        async with fresh_database(mongod.url) as name:
            yield mongod.url + name

    async def test_a_wrong_password_user_or_database_is_told_from_one_another(self) -> None:
        with mongodb_server() as server:
            async with AsyncMongoClient[dict[str, Any]](server.url) as client:
                for user, right in (("ann", "readWrite"), ("eve", "read")):
                    roles = [{"role": right, "db": "jobs"}]
                    await client.admin.command("createUser", user, pwd=PASSWORD, roles=roles)
                server.stop()
                server.options["require_auth"] = True
                server.start()

                def store(login: str, database: str = "jobs") -> MongoJobStore:
                    return MongoJobStore(
                        f"mongodb://{login}127.0.0.1:{server.port}/{database}?authSource=admin"
                    )

                await refused(
                    store(f"ann:{PASSWORD}-not@"), StoreError, "does not accept this user and password"
                )
                for other in (store(""), store(f"eve:{PASSWORD}@"), store(f"ann:{PASSWORD}@", "others")):
                    await refused(other, StoreError, "role readWrite")
                async with opened(store(f"ann:{PASSWORD}@")) as ours:
                    assert await ours.get("default", (await added(ours)).id)
                server.stop()
                server.options["require_auth"] = False
                server.start()
                assert "others" not in await client.list_database_names()

    @pytest.mark.parametrize(
        ("code", "kind", "remedy"),
        [
            (14031, StoreUnavailable, "disk .* is full; nothing was written"),
            (10107, StoreUnavailable, "has (no|a) primary"),
            (13, StoreError, "role readWrite"),
        ],
        ids=["full disk", "read-only replica", "no right"],
    )
    async def test_a_server_that_refuses_writes(
        self, url: str, code: int, kind: type[PerdureError], remedy: str
    ) -> None:
        refusing = {"failCommands": ["insert", "update", "commitTransaction"], "errorCode": code}
        async with (
            opened(MongoJobStore(url)) as store,
            opened(MongoJobStore(url)) as other,
            AsyncMongoClient[Any](url) as client,
        ):
            job = await running(store)
            be_patient(store, 3.0)
            await client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=refusing)
            try:
                await writes_are_refused(store, job, kind, remedy)
            finally:
                await client.admin.command("configureFailPoint", "failCommand", mode="off")
            await nothing_was_written(other, job)

    @pytest.mark.parametrize(("mark", "kind", "remedy"), MARKS)
    async def test_the_mark_of_another_schema(
        self, url: str, mark: object, kind: type[PerdureError], remedy: str
    ) -> None:
        async with opened(MongoJobStore(url)) as store, AsyncMongoClient[Any](url) as client:
            marks = client.get_default_database()["vectorization_jobs.schema"]
            await marks.update_one({}, {"$set": {"version": mark}})
            await refused(MongoJobStore(url), kind, remedy)
            await marks.update_one({}, {"$unset": {"version": 1}})
            await refused(MongoJobStore(url), StoreCorrupt, "None")
            assert (await store.stats(None)).total == 0

    async def test_an_index_that_is_missing_is_made_again(self, url: str) -> None:
        async with opened(MongoJobStore(url)) as store, AsyncMongoClient[Any](url) as client:
            jobs = client.get_default_database()["vectorization_jobs"]
            before = await jobs.index_information()
            await jobs.drop_indexes()
            job = await running(store)
            async with opened(MongoJobStore(url)) as other:
                assert await jobs.index_information() == before
                assert await read(other, job) == job


@pytest.mark.xdist_group("redis")
class TestRedis:
    @pytest.fixture(params=binaries())
    def server(self, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
        with redis_server(request.param) as server:
            yield server

    async def test_a_disk_that_cannot_be_written(self, server: RedisServer) -> None:
        async with opened(RedisJobStore(server.url)) as store:
            job = await running(store)
            (server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
            server.say("CONFIG", "SET", "save", "3600 1")
            server.say("BGSAVE")
            while b"rdb_last_bgsave_status:err" not in server.say("INFO", "persistence"):
                await asyncio.sleep(0.02)
            await writes_are_refused(
                store, job, StoreUnavailable, "free some space there. Nothing was written"
            )
            server.say("CONFIG", "SET", "save", "")
            await nothing_was_written(store, job)

    async def test_memory_that_is_used_up(self, server: RedisServer) -> None:
        async with opened(RedisJobStore(server.url)) as store:
            job = await running(store)
            server.say("CONFIG", "SET", "maxmemory", "1")
            await writes_are_refused(store, job, StoreUnavailable, "used up its maxmemory; raise it")
            server.say("CONFIG", "SET", "maxmemory", "0")
            await nothing_was_written(store, job)

    async def test_a_read_only_replica(self, server: RedisServer) -> None:
        async with opened(RedisJobStore(server.url)) as store:
            job = await running(store)
            server.say("REPLICAOF", "127.0.0.1", "1")
            await writes_are_refused(store, job, StoreUnavailable, "read-only replica; name the primary")
            server.say("REPLICAOF", "NO", "ONE")
            await nothing_was_written(store, job)

    async def test_what_is_too_large(self, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("perdure.stores.redis.store.LIMIT", 100_000)
        async with opened(RedisJobStore(server.url)) as store:
            job = await running(store)
            with pytest.raises(InvalidInput, match="at most 100,000"):
                await store.apply([move.complete(job, "x" * 100_000, make_stamp(job.created_at))])
            with pytest.raises(InvalidInput, match="at most 100,000"):
                await added_many(store, 1000)
            await nothing_was_written(store, job)

    @pytest.mark.parametrize(("mark", "kind", "remedy"), MARKS)
    async def test_the_mark_of_another_schema(
        self, server: RedisServer, mark: object, kind: type[PerdureError], remedy: str
    ) -> None:
        server.say("SET", "{perdure}|schema", str(mark))
        await refused(RedisJobStore(server.url), kind, remedy)
        assert server.say("DBSIZE") == b":1\r\n"


@pytest.mark.xdist_group("cosmos-own")
class TestCosmos:
    @pytest.fixture
    def peer(self) -> Iterator[Peer]:
        with cosmos_peer() as peer:
            yield peer

    @pytest.mark.parametrize(
        ("answer", "kind", "remedy"),
        [
            ((403, 1014), StoreError, "20 GB at most; nothing was written"),
            ((403, 0), StoreError, "read-write key"),
        ],
        ids=["full partition", "read-only key"],
    )
    async def test_an_account_that_refuses_writes(
        self, peer: Peer, answer: tuple[int, int], kind: type[PerdureError], remedy: str
    ) -> None:
        async with opened(CosmosJobStore(peer.url)) as store:
            job = await running(store)
            be_patient(store, 5.0)
            peer.refusing = answer
            await writes_are_refused(store, job, kind, remedy)
            peer.refusing = None
            be_patient(store, 60.0)
            await nothing_was_written(store, job)

    @pytest.mark.parametrize(("mark", "kind", "remedy"), MARKS)
    async def test_the_mark_of_another_schema(
        self, peer: Peer, mark: object, kind: type[PerdureError], remedy: str
    ) -> None:
        async with opened(CosmosJobStore(peer.url)) as store:
            held = peer.container("perdure")
            kept = held.get("~perdure", "schema")
            assert kept is not None
            held.put({**kept, "version": mark})
            await refused(CosmosJobStore(peer.url), kind, remedy)
            held.put({name: value for name, value in kept.items() if name != "version"})
            await refused(CosmosJobStore(peer.url), StoreCorrupt, "None")
            assert (await store.stats(None)).total == 0

    @pytest.mark.parametrize(
        ("part", "index"),
        [("includedPaths", "/dueAt/?"), ("compositeIndexes", r"/tenantId \+ /status \+ -/createdAt")],
    )
    async def test_an_index_that_is_missing_is_named(self, peer: Peer, part: str, index: str) -> None:
        async with opened(CosmosJobStore(peer.url)) as store:
            policy = peer.container("perdure").properties["indexingPolicy"]
            policy[part] = [
                each for each in policy[part] if not re.search(index, str(each)) and part == "includedPaths"
            ]
            await refused(CosmosJobStore(peer.url), SchemaMismatch, f"lacks indexes for .*{index}")
            assert (await store.stats(None)).total == 0

    async def test_a_service_that_went_away_is_named_and_found_again(self, peer: Peer) -> None:
        async with tcp_proxy(peer.port) as proxy:
            url = peer.url.replace(f":{peer.port}", f":{proxy.port}")
            async with opened(CosmosJobStore(url)) as store:
                job = await running(store)
                be_patient(store, 3.0)
                proxy.refusing = True
                proxy.cut()
                await writes_are_refused(store, job, StoreUnavailable, f"127.0.0.1:{proxy.port}")
                proxy.refusing = False
                be_patient(store, 60.0)
                await nothing_was_written(store, job)
