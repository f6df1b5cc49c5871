"""Values beside the jobs, and the log of all entries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

from perdure.domain.errors import CursorLost
from perdure.domain.log import Logged, LogPage
from perdure.domain.record import Json
from perdure.domain.value import Value, decoded, encoded
from perdure.stores.postgres.rows import decode_entry

Fetch: TypeAlias = Callable[..., Awaitable[Sequence[Any]]]

_BEGINNING: Final = "0/00000000-0000-0000-0000-000000000000/-1"


class PostgresValues:
    """See `perdure.ports.key_value.KeyValueStore`.

    Args:
        fetch: runs a statement by its name.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def read(self, space: str, keys: Sequence[str]) -> dict[str, Value]:
        """See the port."""
        return {row["key"]: decoded(*row) for row in await self._fetch("read_values", space, list(keys))}

    async def spaces(self) -> list[str]:
        """See the port."""
        return [row["space"] for row in await self._fetch("spaces")]

    async def scan(self, space: str, limit: int, after: str = "") -> list[Value]:
        """See the port."""
        return [decoded(row[0], *row[1:]) for row in await self._fetch("scan_values", space, after, limit)]

    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        """See the port."""
        text = encoded(space, key, value)
        if text is None:
            done = await self._fetch("remove_value", space, key, expect)
            return expect if done else None
        if expect == 0:
            rows = await self._fetch("create_value", space, key, text)
        else:
            rows = await self._fetch("change_value", space, key, text, expect)
        return int(rows[0]["version"]) if rows else None


async def log(fetch: Fetch, after: str | None, limit: int) -> LogPage:
    """A page of the log. A position names the transaction, the job and its version, as ``TX/JOB/VERSION``."""
    [end] = await fetch("end_of_log")
    if after is None:
        return LogPage(lines=(), next=_position(end) if end["tx"] else _BEGINNING)
    transaction, job_id, version = after.split("/")
    if int(transaction) > int(end["ahead"]):
        raise CursorLost(
            f"the log has come to transaction {end['ahead']}, this position is at {transaction}: it is of another server"
        )
    rows = await fetch("log", transaction, job_id, int(version), limit)
    lines = tuple(
        Logged(
            tenant=row["tenant"],
            job_id=str(row["job_id"]),
            kind=row["kind"],
            entry=decode_entry(row["entry"]),
        )
        for row in rows
        if row["tenant"] is not None
    )
    return LogPage(lines=lines, next=_position(rows[-1]) if rows else after, more=len(rows) == limit)


def _position(row: Any) -> str:
    return f"{row['tx']}/{row['job_id']}/{row['version']}"
