"""One PostgreSQL database: a bounded pool of connections, and whatever listens to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg
import msgspec

from perdure.databases.postgres.codecs import equip
from perdure.databases.postgres.errors import Collision, translated
from perdure.databases.postgres.listening import Listening
from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.domain.record import Record

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

T = TypeVar("T")

ATTEMPTS: Final = 8
"""How often a transaction that collided with others is run."""

CLOSE_SECONDS: Final = 5.0
"""How long statements under way are waited for."""

AT_HAND_SECONDS: Final = 30.0
"""How long a free connection stays out of the pool at most, where it would be closed after a while."""

LONGEST_SECONDS: Final = 24 * 3600.0
"""How long a statement may take that runs alone."""

SESSION: Final = {
    "application_name": "perdure",
    "jit": "off",
    # A prepared plan may outlive the size that it was made for: a worker that polls an empty table would read all of it
    # once it is full. Planning anew costs a few hundredths of a call.
    "plan_cache_mode": "force_custom_plan",
    # Of pgvector, and ignored without it: a filter never leaves a search by index short.
    "hnsw.iterative_scan": "strict_order",
    "ivfflat.iterative_scan": "relaxed_order",
}

LASTING: Final = SESSION | {
    # For statements whose plan is the same at every size: planned once, by index and row by row, however little there is.
    "plan_cache_mode": "force_generic_plan",
    **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_material"), "off"),
}
"""What connections have whose plans are kept."""


class Options(Record):
    """What a store's URL may say beyond what PostgreSQL knows, as ``?name=value``.

    Attributes:
        pool_size: connections at most (beside one that listens); a third of them keep their plans, see `LASTING`.
        pooler: `transaction`, where a pooler stands between that gives each transaction another connection: nothing
            is then kept on a connection, and nobody listens. `none`: directly, or a pooler by session.
        hints: `on` or `off`: whether changes are announced by NOTIFY.
        migrate: `on` or `off`: whether starting may change tables; else only `perdure store init` does.
        timeout: seconds that a statement, or connecting, may take.
        index: of namespaces of vectors that are large: ``hnsw``, ``ivfflat``, ``hnsw-half``, ``ivfflat-half`` or ``off``.
        index_rows: from how many chunks on.
        ef_search, probes: how hard such an index looks, HNSW and IVFFlat.
    """

    pool_size: int = 10
    pooler: str = "none"
    hints: str = "on"
    migrate: str = "on"
    timeout: float = 60.0
    index: str = "hnsw"
    index_rows: int = 20_000
    ef_search: int = 400
    probes: int = 20


class PostgresDatabase:
    """Connections to one database, made when they are needed. Shared by the stores that live in it.

    Args:
        url: ``postgresql://user:password@host:port/database?name=value``, with `Options` among the values.

    Raises:
        InvalidInput: the URL is not of this form.
    """

    def __init__(self, url: str) -> None:
        self._url, self.options = _split(url)
        self.address = _address(self._url)
        lasting = self.options.pool_size // 3 if self.options.pooler == "none" else 0
        self._lanes = {
            False: _Lane(self.options.pool_size - lasting, SESSION),
            **({True: _Lane(lasting, LASTING)} if lasting else {}),
        }
        self._opening = asyncio.Lock()
        self._listening: Listening | None = None
        self._holders: set[object] = set()

    @property
    def keeps_plans(self) -> bool:
        """Whether there are connections that do."""
        return True in self._lanes

    def hold(self, holder: object) -> None:
        """Note that `holder` uses this database until it releases it."""
        self._holders.add(holder)

    async def release(self, holder: object) -> None:
        """Give the database back; the last holder closes it. May be called twice."""
        self._holders.discard(holder)
        if self._listening is not None:
            self._listening.end(holder)
        if self._holders:
            return
        if self._listening is not None:
            await self._listening.close()
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))

    async def run(
        self, work: Callable[[Connection], Awaitable[T]], *, atomic: bool = False, lasting: bool = False
    ) -> T:
        """Run `work` on a connection. It may be run again where it was undone.

        Args:
            atomic: inside a transaction.
            lasting: its statements have one plan for all sizes, which may be kept where a connection that does is free.

        Raises:
            PerdureError: what PostgreSQL says, in our words.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with translated(self.address):
                    return await self._run(work, atomic or self.options.pooler != "none", lasting)
            except Collision:
                if attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311  # jitter, not a secret
        raise AssertionError("the last attempt returns or raises")

    async def _run(self, work: Callable[[Connection], Awaitable[T]], atomic: bool, lasting: bool) -> T:
        lane = self._lane(lasting)
        pool = lane.pool or await self._open(lane)
        async with lane.turns:
            connection = await lane.take(pool)
            try:
                if atomic:
                    async with connection.transaction():
                        result = await work(connection)
                else:
                    result = await work(connection)
            except BaseException as error:
                if isinstance(error, asyncpg.InternalClientError):
                    connection.terminate()  # the server died while asyncpg was busy: no use for it any more
                await _return(pool, connection)
                raise
            await lane.put(pool, connection)
            return result

    async def run_alone(self, statements: Sequence[str]) -> None:
        """Run statements that may take hours and bear no transaction, on a connection of their own.

        Raises:
            PerdureError: what PostgreSQL says, in our words.
        """
        with translated(self.address):
            async with self.alone() as connection:
                for statement in statements:
                    await connection.execute(statement)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection outside the pool whose statements may take a day; errors are the driver's."""
        connection = await self._connect(LONGEST_SECONDS, statement_timeout="0")
        try:
            yield connection
        finally:
            await connection.close(timeout=CLOSE_SECONDS)

    def listen(self, holder: object, channel: str) -> AsyncIterator[str | None]:
        """Yield what is notified on the channel until `holder` releases the database; None: some may be missing."""
        if self._listening is None:
            self._listening = Listening(self.address, self._connect)
        return self._listening.listen(holder, channel)

    def _lane(self, lasting: bool) -> _Lane:
        others, keepers = self._lanes[False], self._lanes.get(lasting)
        if keepers is None or (keepers.turns.locked() and not others.turns.locked()):
            return others
        return keepers

    async def _open(self, lane: _Lane) -> asyncpg.Pool[asyncpg.Record]:
        if not self._holders:
            raise StoreUnavailable(f"{self.address} was closed; open it again")
        async with self._opening:
            if lane.pool is None:
                lane.pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=lane.size,
                    init=equip,
                    reset=_leave,
                    **self._connection_options(None, lane.session),
                )
        return lane.pool

    async def _connect(
        self, timeout: float | None = None, **settings: str
    ) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(self._url, **self._connection_options(timeout, SESSION | settings))

    def _connection_options(self, timeout: float | None, session: Mapping[str, str]) -> dict[str, Any]:
        direct = self.options.pooler == "none"
        looks = {"hnsw.ef_search": str(self.options.ef_search), "ivfflat.probes": str(self.options.probes)}
        settings = {**session, **looks}
        return {
            "timeout": self.options.timeout,
            "command_timeout": timeout or self.options.timeout,
            "server_settings": settings if direct else {},
            **({} if direct else {"statement_cache_size": 0}),
        }


class _Lane:
    """Connections that have the same settings: at most `size`, made when they are needed.

    Those that are free are at hand here for a while before they go back to the pool, whose ways in and out take
    as long as a small statement.
    """

    def __init__(self, size: int, session: Mapping[str, str]) -> None:
        self.size, self.session = size, session
        # The pool by itself lets newcomers overtake those who wait, some of them for seconds.
        self.turns = asyncio.Semaphore(size)
        self.pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._at_hand: list[PoolConnectionProxy[asyncpg.Record]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def take(self, pool: asyncpg.Pool[asyncpg.Record]) -> PoolConnectionProxy[asyncpg.Record]:
        """A connection; needs a turn."""
        while self._at_hand:
            connection = self._at_hand.pop()
            with suppress(asyncpg.InterfaceError):  # which says that it broke, and went back by itself
                if not connection.is_closed():
                    return connection
            await _return(pool, connection)
        # Without a timeout of its own, which would cost a task: whoever holds a connection has one.
        return await pool.acquire()

    async def put(
        self, pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]
    ) -> None:
        """Give it back in good order."""
        if self.pool is not pool:  # closed meanwhile
            await _return(pool, connection)
            return
        self._at_hand.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AT_HAND_SECONDS, self._tidy, pool)

    def _tidy(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._timer = None
        self._leaving = asyncio.create_task(self._release(pool))

    async def _release(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        free, self._at_hand = self._at_hand, []
        for connection in free:
            await _return(pool, connection)

    async def close(self) -> None:
        """Wait a little for statements under way."""
        pool, self.pool = self.pool, None
        if pool is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._release(pool)
                await pool.close()
        except (TimeoutError, OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
            pool.terminate()


async def _return(
    pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]
) -> None:
    with suppress(asyncpg.InternalClientError):  # which says that it broke just now, and went back by itself
        await pool.release(connection)


async def _leave(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Nothing is to be undone on a connection that goes back to the pool: asyncpg's own clean-up is a round trip more."""


def _split(url: str) -> tuple[str, Options]:
    """Take what is ours out of the URL's query."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    ours = {name: given.pop(name) for name in Options.__struct_fields__ if name in given}
    try:
        options = msgspec.convert(ours, Options, strict=False)
    except msgspec.ValidationError:
        options = Options(pool_size=0)
    well_formed = (
        _port_fits(parts)
        and options.pool_size > 0
        and options.timeout > 0
        and options.index_rows > 0
        and 0 < options.ef_search <= 1000
        and 0 < options.probes <= 32_768
        and options.pooler in {"none", "transaction"}
        and {options.hints, options.migrate} <= {"on", "off"}
    )
    if not well_formed or parts.scheme not in {"postgres", "postgresql"}:
        raise InvalidInput(
            f"{_address(url)}: the store's URL is not valid; expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "and after ? any of pool_size=10, pooler=none|transaction, hints=on|off, migrate=on|off, timeout=SECONDS, "
            "index=hnsw|ivfflat|hnsw-half|ivfflat-half|off, index_rows=20000, ef_search=400, probes=20"
        )
    return urlunsplit(parts._replace(scheme="postgresql", query=urlencode(given))), options


def _port_fits(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _address(url: str) -> str:
    """How the database is called in messages: without a password."""
    parts = urlsplit(url)
    user = f"{unquote(parts.username)}@" if parts.username else ""
    return f"PostgreSQL at {user}{parts.netloc.rpartition('@')[2]}{parts.path}"
