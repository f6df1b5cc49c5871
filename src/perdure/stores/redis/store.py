"""Jobs on a Redis or Valkey server: each primitive is one script there, and so one step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.domain.job import Entry, Job
from perdure.domain.log import LogPage
from perdure.domain.moments import micros, micros_of, moment
from perdure.domain.query import JobFilter, Stats
from perdure.domain.state import JobState
from perdure.domain.terms import PLAIN, Terms
from perdure.domain.transition import Transition
from perdure.ports.job_store import Capabilities, Change
from perdure.stores.redis import feed
from perdure.stores.redis.address import connect, disconnect, parse
from perdure.stores.redis.durability import is_durable
from perdure.stores.redis.errors import translated
from perdure.stores.redis.rows import (
    entries_of,
    job_of,
    jobs_argument,
    transitions_argument,
)
from perdure.stores.redis.scripts import run
from perdure.stores.redis.values import RedisValues, log

SCHEMA: Final = 1
LIMIT: Final = 512 * 1024 * 1024
"""Bytes of one argument of a command, unless somebody changed the server's proto-max-bulk-len."""

LOG: Final = 500_000
"""Lines of the log that are kept, about 50 MB."""

BUDGET: Final = 2000
"""Ids that one step of a search looks at, so that a rare match does not hold up the server."""


class RedisJobStore:
    """A `JobStore` on one server, behind sentinels, or in a cluster (on the node of one slot).

    Args:
        url: as of `perdure.stores.redis.address.parse`.

    Raises:
        InvalidInput: the URL is none of those.
    """

    def __init__(self, url: str) -> None:
        address = parse(url)
        self._server = address.name
        self._prefix = "{" + address.prefix + "}"
        self._client = connect(address)
        self._closing = asyncio.Event()
        self.values = RedisValues(self._run)
        self._capabilities = Capabilities(
            durable=False,  # until the server said so
            multi_process=True,
            change_feed=True,
            # A finished job leaves counters and lists with it, which only `purge` can do in the same step.
            native_ttl=False,
            constant_stats=True,
            transactions=True,
        )

    @property
    def capabilities(self) -> Capabilities:
        """See `JobStore.capabilities`. `durable` is known after `setup`: it asks how the server writes its disk."""
        return self._capabilities

    async def setup(self) -> None:
        """See `JobStore.setup`. Warns where the server's settings put jobs at risk."""
        found = await self._run("setup", SCHEMA)
        mark = int(found) if found.isdigit() else found.decode(errors="replace")
        check.schema(mark, SCHEMA, f"what lies on {self._server} under ?prefix={self._prefix[1:-1]}")
        with translated(self._server):
            durable = await is_durable(self._client, self._server)
        self._capabilities = replace(self._capabilities, durable=durable)

    async def close(self) -> None:
        self._closing.set()
        await disconnect(self._client)

    async def now(self) -> datetime:
        return moment(int(await self._run("now")))

    # --- writing ----------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        answers = await self._run("add", jobs_argument(jobs))
        return [job_of(row) if row else job for row, job in zip(answers, jobs, strict=True)]

    async def claim(
        self, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
    ) -> list[Job]:
        packed = b"" if terms == PLAIN else _packed_terms(terms, kinds)
        rows = await self._run("claim", worker, micros_of(lease), limit, packed, *dict.fromkeys(kinds))
        return [job_of(row) for row in rows]

    async def extend(self, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
        pairs = (part for pair in epochs.items() for part in pair)
        return {job_id.decode() for job_id in await self._run("extend", worker, micros_of(lease), *pairs)}

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        return [stands == 1 for stands in await self._run("apply", transitions_argument(transitions))]

    async def delete(self, tenant: str, job_id: str) -> bool:
        return bool(await self._run("delete", tenant, job_id))

    async def purge(self, limit: int) -> int:
        return int(await self._run("purge", limit, LOG))

    # --- reading ----------------------------------------------------------------------------

    async def get(self, tenant: str, job_id: str) -> Job | None:
        row = await self._run("get", tenant, job_id)
        return job_of(row) if row else None

    async def find(self, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
        """See `JobStore.find`. The narrowest index leads; what a step did not finish the next one goes on with."""
        jobs: list[Job] = []
        while len(jobs) < limit:
            rest, *rows = await self._run("find", _packed(query, limit - len(jobs), after))
            jobs += map(job_of, rows)
            if not rest:
                break
            after = rest.decode()
        return jobs

    async def count(self, query: JobFilter) -> int:
        total = 0
        after: str | None = None
        while True:
            rest, number = await self._run("find", _packed(query, BUDGET, after, counting=True))
            total += int(number)
            if not rest:
                return total
            after = rest.decode()

    async def stats(self, tenant: str | None) -> Stats:
        counts: dict[str, dict[JobState, int]] = {}
        for kind, state, number in await self._run("stats", "*" if tenant is None else tenant):
            counts.setdefault(kind.decode(), {})[JobState(state.decode())] = number
        return Stats(counts=counts)

    async def tenants(self, limit: int, after: str = "") -> dict[str, datetime | None]:
        found = await self._run("tenants", after, limit)
        return {name.decode(): None if due is None else moment(int(due)) for name, due in found}

    async def expired(self, limit: int) -> list[Job]:
        return [job_of(row) for row in await self._run("expired", limit)]

    async def history(self, tenant: str, job_id: str) -> list[Entry]:
        return entries_of(await self._run("history", tenant, job_id))

    async def entries(self, after: str | None, limit: int) -> LogPage:
        """See `JobStore.entries`. The last `LOG` lines, about."""
        return log(await self._run("log", after or "", limit), limit, after)

    def changes(self) -> AsyncIterator[Change]:
        return feed.changes(self._client, self._prefix, self._server, self._closing)

    async def _run(self, name: str, *arguments: str | bytes | int) -> Any:
        """Run a script; what goes wrong comes out in our words."""
        if self._closing.is_set():
            raise StoreUnavailable(f"the store on {self._server} is closed; open a new one")
        largest = max((len(part) for part in arguments if not isinstance(part, int)), default=0)
        if largest > LIMIT:
            raise InvalidInput(
                f"what is to be written has {largest:,} bytes; {self._server} takes at most {LIMIT:,} in one command: "
                "keep large results elsewhere and store where they are, or add fewer jobs at once"
            )
        with translated(self._server):
            return await run(self._client, name, self._prefix, arguments)


def _packed_terms(terms: Terms, kinds: Sequence[str]) -> bytes:
    """Terms as `claim.lua` takes them."""
    limits = {
        kind: (limit.total or False, limit.per_tenant or False) for kind, limit in terms.of(kinds).items()
    }
    return msgspec.msgpack.encode({"limits": limits, "shares": terms.shares})


def _packed(query: JobFilter, limit: int, after: str | None, *, counting: bool = False) -> bytes:
    """A filter as `find.lua` takes it."""
    fields = {
        "tenant": query.tenant,
        "states": list(dict.fromkeys(query.states)) or None,
        "kinds": list(dict.fromkeys(query.kinds)) or None,
        "user": query.user_id,
        "document": query.document_id,
        "from": None if query.created_from is None else micros(query.created_from),
        "before": None if query.created_before is None else micros(query.created_before),
        "after": after,
        "limit": limit,
        "budget": BUDGET,
        "counting": counting or None,
        "oldest": query.oldest_first or None,
    }
    return msgspec.msgpack.encode({name: value for name, value in fields.items() if value is not None})
