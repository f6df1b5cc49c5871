"""What a claim loop costs at least on each store: the bare driver, one table or a few keys, no history, no counters.

Each ceiling does what the store is measured at, with a payload of the same size, on the same server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import apsw
import asyncpg
from redis.asyncio import Redis

LIMIT = 100
"""Jobs of one claim."""

POSTGRES_TABLE = """
CREATE TABLE raw_jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue text NOT NULL DEFAULT 'default',
    state smallint NOT NULL DEFAULT 0, priority smallint NOT NULL DEFAULT 0, run_at timestamptz NOT NULL DEFAULT now(),
    attempt smallint NOT NULL DEFAULT 0, lease_until timestamptz, finished_at timestamptz, payload jsonb, result jsonb
) WITH (fillfactor = 85);
CREATE INDEX raw_ready ON raw_jobs (queue, priority, run_at, id) WHERE state = 0"""
POSTGRES_CLAIM = """
UPDATE raw_jobs SET state = 1, attempt = attempt + 1, lease_until = now() + interval '60s' WHERE id IN (
    SELECT id FROM raw_jobs WHERE state = 0 AND queue = 'default' AND run_at <= now()
    ORDER BY priority, run_at, id FOR UPDATE SKIP LOCKED LIMIT $1
) RETURNING id, payload"""
POSTGRES_DONE = (
    "UPDATE raw_jobs SET state = 2, finished_at = now(), lease_until = NULL WHERE id = ANY ($1) AND state = 1"
)
POSTGRES_ADD = "INSERT INTO raw_jobs (payload) VALUES ($1) RETURNING id"

REDIS_ADD = """for i = 1, #ARGV, 2 do redis.call('hset', 'j:' .. ARGV[i], 'p', ARGV[i + 1], 's', 'q')
redis.call('zadd', 'j:ready', i, ARGV[i]) end"""
REDIS_CLAIM = """local r = {} local ids = redis.call('zpopmin', 'j:ready', ARGV[1])
for i = 1, #ids, 2 do local k = 'j:' .. ids[i] redis.call('hset', k, 's', 'r')
redis.call('zadd', 'j:run', ARGV[2], ids[i]) r[#r + 1] = ids[i] r[#r + 1] = redis.call('hget', k, 'p') end return r"""
REDIS_DONE = """for i = 2, #ARGV do redis.call('hset', 'j:' .. ARGV[i], 's', 'd', 't', ARGV[1])
redis.call('zrem', 'j:run', ARGV[i]) end return #ARGV - 1"""

SQLITE_TABLE = """
CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT, due_at INTEGER, epoch INTEGER, payload TEXT, result TEXT);
CREATE INDEX due ON jobs (due_at, id) WHERE state = 'pending'"""
SQLITE_ADD = "INSERT INTO jobs (state, due_at, epoch, payload) VALUES ('pending', 0, 0, ?)"
SQLITE_CLAIM = (
    "SELECT id, payload FROM jobs WHERE state = 'pending' AND due_at <= 1 ORDER BY due_at, id LIMIT ?"
)
SQLITE_CLAIMED = "UPDATE jobs SET state = 'running', due_at = 2, epoch = epoch + 1 WHERE id = ?"
SQLITE_DONE = (
    "UPDATE jobs SET state = 'completed', result = ? WHERE id = ? AND state = 'running' AND epoch = 1"
)


class Ceiling(Protocol):
    """The same work as a store's, and nothing else."""

    async def add(self, payloads: list[str]) -> None:
        """Add jobs in one call."""
        ...

    async def drain(self) -> int:
        """Claim, run and complete all that is there; how many."""
        ...

    async def pick_up(self, payload: str) -> float | None:
        """Seconds from adding a job, by a hint, to its claim; None where the store knows no hints."""
        ...

    async def close(self) -> None: ...


async def handle(payload: str) -> str:
    """What stands for a handler."""
    return payload


class PostgresCeiling:
    """One table with a primary key and one index."""

    _connection: asyncpg.Connection[asyncpg.Record]
    _listener: asyncpg.Connection[asyncpg.Record]
    _woken: asyncio.Event
    _insert: Any

    @classmethod
    async def open(cls, url: str) -> PostgresCeiling:
        self = cls()
        self._connection = await asyncpg.connect(url)
        self._listener = await asyncpg.connect(url)
        self._woken = asyncio.Event()
        await self._listener.add_listener("raw_jobs", lambda *_: self._woken.set())
        await self._connection.execute(POSTGRES_TABLE)
        self._insert = await self._connection.prepare(POSTGRES_ADD)
        return self

    async def add(self, payloads: list[str]) -> None:
        if len(payloads) == 1:
            await self._insert.fetchval(payloads[0])
            return
        rows = [(payload,) for payload in payloads]
        await self._connection.copy_records_to_table("raw_jobs", columns=["payload"], records=rows)

    async def drain(self) -> int:
        claim = await self._connection.prepare(POSTGRES_CLAIM)
        done = await self._connection.prepare(POSTGRES_DONE)
        count = 0
        while rows := await claim.fetch(LIMIT):
            await asyncio.gather(*[handle(row["payload"]) for row in rows])
            await done.fetch([row["id"] for row in rows])
            count += len(rows)
        return count

    async def pick_up(self, payload: str) -> float | None:
        self._woken.clear()
        start = time.perf_counter()
        async with self._connection.transaction():
            await self._connection.execute("INSERT INTO raw_jobs (payload) VALUES ($1)", payload)
            await self._connection.execute("SELECT pg_notify('raw_jobs', '')")
        await self._woken.wait()
        rows = await self._listener.fetch(POSTGRES_CLAIM, 10)
        spent = time.perf_counter() - start
        await self._listener.fetch(POSTGRES_DONE, [row["id"] for row in rows])
        return spent

    async def close(self) -> None:
        await self._connection.close()
        await self._listener.close()


class RedisCeiling:
    """A hash for each job and two sorted sets, by scripts."""

    _client: Redis
    _added: int
    _add: Any
    _claim: Any
    _done: Any

    @classmethod
    async def open(cls, url: str) -> RedisCeiling:
        self = cls()
        self._client = Redis.from_url(url)
        self._added = 0
        scripts = (REDIS_ADD, REDIS_CLAIM, REDIS_DONE)
        self._add, self._claim, self._done = (self._client.register_script(text) for text in scripts)
        return self

    async def add(self, payloads: list[str]) -> None:
        self._added += len(payloads)
        numbered = enumerate(payloads, self._added)
        await self._add(args=[part for number, payload in numbered for part in (number, payload)])

    async def drain(self) -> int:
        count = 0
        while rows := await self._claim(args=[LIMIT, int(time.time()) + 60]):
            await asyncio.gather(*[handle(payload) for payload in rows[1::2]])
            count += await self._done(args=[time.time(), *rows[::2]])
        return count

    async def pick_up(self, payload: str) -> float | None:
        return None

    async def close(self) -> None:
        async for key in self._client.scan_iter("j:*"):
            await self._client.unlink(key)
        await self._client.aclose()


class SqliteCeiling:
    """One table with one index, WAL, synchronous=FULL."""

    _connection: apsw.Connection

    @classmethod
    async def open(cls, path: Path) -> SqliteCeiling:
        self = cls()
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("synchronous", "full")
        self._connection.execute(SQLITE_TABLE)
        return self

    async def add(self, payloads: list[str]) -> None:
        with self._connection:
            self._connection.executemany(SQLITE_ADD, [(payload,) for payload in payloads])

    async def drain(self) -> int:
        count = 0
        while rows := self._connection.execute(SQLITE_CLAIM, (LIMIT,)).fetchall():
            with self._connection:
                self._connection.executemany(SQLITE_CLAIMED, [(number,) for number, _ in rows])
            await asyncio.gather(*[handle(str(payload)) for _, payload in rows])
            with self._connection:
                self._connection.executemany(SQLITE_DONE, [('{"n":1}', number) for number, _ in rows])
            count += len(rows)
        return count

    async def pick_up(self, payload: str) -> float | None:
        return None

    async def close(self) -> None:
        self._connection.close()


OPEN: dict[str, Callable[[Any], Any]] = {
    "postgres": PostgresCeiling.open,
    "valkey": RedisCeiling.open,
    "redis": RedisCeiling.open,
    "sqlite": SqliteCeiling.open,
}
