"""A PostgreSQL table: by an outbox that its triggers fill, or, as a lesser way, by a column that tells when a row changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any, Final, TypeAlias

import asyncpg

from perdure.domain.change import Action, Batch, Change, Poison
from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.domain.record import Json, Record
from perdure.ports.change_feed import Recall

POSITION: Final = "position"
CHANNEL: Final = "perdure_feed"
LONGEST_NAME: Final = 50
"""Of an outbox: the names of its index and triggers are longer, and PostgreSQL cuts them at 63."""
_STATEMENTS: Final = {
    name: statement
    for name, _, statement in (
        piece.partition(":")
        for piece in (files("perdure.feeds") / "postgres.sql").read_text("utf-8").split("-- @")[1:]
    )
}
_MADE_ANEW: Final = (
    "the outbox was made anew, so the whole table was read; rows that were deleted while there was none are not known any "
    "more: compare, and delete their documents by hand"
)
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Table(Record):
    """What of a table becomes documents.

    Attributes:
        name: ``table`` or ``schema.table``. key: a unique column; as text it is the document's id.
        text: the column that holds the content. metadata: columns that become the document's.
    """

    name: str
    key: str = "id"
    text: str = "text"
    metadata: tuple[str, ...] = ()
    media_type: str = "text/plain"

    @property
    def parts(self) -> tuple[str, str]:
        """Schema and table."""
        schema, _, table = self.name.rpartition(".")
        return schema or "public", table

    @property
    def sql(self) -> dict[str, str]:
        """What stands for it in a statement."""
        pairs = ", ".join(f"{_literal(name)}, t.{_quoted(name)}" for name in self.metadata)
        told = (self.key, self.text, *self.metadata)
        return {
            "table": ".".join(map(_quoted, self.parts)),
            "key": _quoted(self.key),
            "text": _quoted(self.text),
            "metadata": f"jsonb_build_object({pairs})",
            "old": ", ".join(f"OLD.{_quoted(name)}" for name in told),
            "new": ", ".join(f"NEW.{_quoted(name)}" for name in told),
        }


class _TableFeed:
    """One connection to the table's database, made when it is needed."""

    def __init__(self, url: str, table: Table, tenant: str, namespace: str) -> None:
        self._url, self._table = url, table
        self._whose: dict[str, Any] = {"tenant": tenant, "namespace": namespace}
        self._connection: Connection | None = None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """Lets nothing of the driver out of the block."""
        try:
            if self._connection is None or self._connection.is_closed():
                settings = {"application_name": "perdure feed", "timezone": "UTC"}
                self._connection = await asyncpg.connect(
                    self._url, timeout=10, command_timeout=60, server_settings=settings
                )
                await self._greet(self._connection)
            yield self._connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            await self.close()
            raise StoreUnavailable(f"table {self._table.name}: {self._remedy(error)}") from None
        except ValueError as error:
            raise InvalidInput(f"the feed's URL is not one of PostgreSQL: {error}") from None

    async def _greet(self, connection: Connection) -> None:
        """What a new connection needs."""

    def _remedy(self, error: Exception) -> str:
        return " ".join(str(error).split())[:300] or type(error).__name__

    def _tell(self, row: asyncpg.Record, gone: bool, version: int, at: float) -> Change | Poison:
        key: str = row["id"]
        whose: dict[str, Any] = {"document_id": key, "version": version, "at": at, **self._whose}
        if gone:
            return Change(action=Action.DELETE, **whose)
        if not (row["text"] or "").strip():
            reason = (
                f"column {self._table.text!r} of row {key} holds no word; expected a text with a word in it"
            )
            return Poison(id=f"{key}@{version}"[:500], reason=reason, event=row["metadata"][:2000])
        metadata: dict[str, Json] = {
            name: value if isinstance(value, str | int | float) else json.dumps(value)
            for name, value in json.loads(row["metadata"]).items()
            if value is not None
        }
        return Change(
            action=Action.UPSERT,
            text=row["text"],
            media_type=self._table.media_type,
            metadata=metadata,
            **whose,
        )

    async def settle(self, batch: Batch) -> None:
        """Nothing, where the position is all."""

    async def close(self) -> None:
        """Drop the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


class OutboxFeed(_TableFeed):
    """Each change leaves the row's key in an outbox, in its own transaction; what was carried out is deleted there.

    So there is no position that a transaction which commits late could fall behind. A document's version is its last number in the
    outbox, which begins with the microseconds since 1970.

    Args:
        outbox: its table; None: ``perdure_`` and the table's name, in the table's schema.
        notify: whether `migration` lets triggers notify, and `read` waits for that up to `patience` seconds. Commits that notify
            stand in one line, so a table of thousands of writes a second is better asked each second.
    """

    def __init__(
        self,
        url: str,
        table: Table,
        *,
        outbox: str | None = None,
        notify: bool = False,
        patience: float = 2.0,
        tenant: str = "default",
        namespace: str = "default",
    ) -> None:
        super().__init__(url, table, tenant, namespace)
        schema, name = table.parts
        schema, _, name = (outbox or f"{schema}.perdure_{name}").rpartition(".")
        if len(name) > LONGEST_NAME:
            raise InvalidInput(
                f"the outbox {name!r} has {len(name)} characters; name one of at most {LONGEST_NAME} by outbox=NAME"
            )
        self._outbox = f"{_quoted(schema or 'public')}.{_quoted(name)}"
        named = {
            "index": "order",
            "function": "note",
            "came": "came",
            "changed": "changed",
            "emptied": "emptied",
        }
        self._names = {
            **table.sql,
            **{what: _quoted(f"{name}_{suffix}") for what, suffix in named.items()},
            "function": f"{_quoted(schema or 'public')}.{_quoted(f'{name}_note')}",
            "outbox": self._outbox,
            "outbox_text": _literal(self._outbox),
            "notify": f"PERFORM pg_notify('{CHANNEL}', '');\n    " if notify else "",
        }
        self._notify, self._patience = notify, patience
        self._news = asyncio.Event()
        self._seqs: list[int] = []

    def migration(self) -> str:
        """The statements that make outbox and triggers, for ``psql``."""
        return self._sql("migration")

    def _sql(self, name: str) -> str:
        return _STATEMENTS[name].format(**self._names).strip()

    async def _greet(self, connection: Connection) -> None:
        if self._notify:
            await connection.add_listener(CHANNEL, lambda *_: self._news.set())

    def _remedy(self, error: Exception) -> str:
        hint = ""
        if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
            hint = "; run what `perdure feed sql URL` writes, and check the names in the URL"
        return super()._remedy(error) + hint

    async def read(self, recall: Recall, limit: int) -> Batch:
        """The rows that changed longest ago, as they are now."""
        self._news.clear()
        async with self._connected() as connection:
            made = await connection.fetchval("SELECT $1::text::regclass::oid::bigint", self._outbox)
            kept: Any = (await recall([POSITION])).get(POSITION)
            if kept != made:
                await connection.execute(self._sql("fill"), timeout=3600)
                return Batch(marks={POSITION: made}, note=_MADE_ANEW if kept else "")
            rows = await connection.fetch(self._sql("read"), limit)
        if not rows and self._notify:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._news.wait()
            async with self._connected() as connection:
                rows = await connection.fetch(self._sql("read"), limit)
        self._seqs = [seq for row in rows for seq in row["seqs"]]
        return Batch.of(
            [self._tell(row, not row["there"], row["seqs"][-1], row["at"].timestamp()) for row in rows]
        )

    async def settle(self, batch: Batch) -> None:
        """Delete what was carried out."""
        seqs, self._seqs = self._seqs, []
        if seqs:
            async with self._connected() as connection:
                await connection.execute(self._sql("settle"), seqs)


class PollingFeed(_TableFeed):
    """Rows by the time of their last change, for who may not make triggers.

    It misses what does not set that time, transactions that take longer than `lag`, and deletes but those that a column tells of.

    Args:
        updated: the column, a timestamp that each change sets to the current time; with an index.
        deleted: a column that is true, or not null, in rows that are gone; None: nothing is ever deleted.
        lag: seconds for which a change is left alone: as long as a writing transaction may take.
    """

    def __init__(
        self,
        url: str,
        table: Table,
        updated: str,
        *,
        deleted: str | None = None,
        lag: float = 10.0,
        tenant: str = "default",
        namespace: str = "default",
    ) -> None:
        super().__init__(url, table, tenant, namespace)
        gone = f"coalesce(t.{_quoted(deleted)}::text <> 'false', false)" if deleted else "false"
        self._since = _STATEMENTS["since"].format(**table.sql, updated=_quoted(updated), gone=gone)
        self._lag = lag

    async def read(self, recall: Recall, limit: int) -> Batch:
        """The rows after the position."""
        kept: Any = (await recall([POSITION])).get(POSITION) or ["-infinity", ""]
        async with self._connected() as connection:
            rows = await connection.fetch(self._since, *kept, self._lag, limit)
        told = [self._tell(row, row["gone"], row["version"], row["version"] / 1e6) for row in rows]
        return Batch.of(told, {POSITION: [rows[-1]["updated"], rows[-1]["id"]]} if rows else {})


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
