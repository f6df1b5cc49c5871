"""Values in the partition that is nobody's; and the log of all entries, by the seconds in which the items were written."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from typing import Final

from perdure.domain.log import Logged, LogPage
from perdure.domain.record import Json
from perdure.domain.value import Value, decoded, encoded
from perdure.stores.cosmos.documents import Document, to_entry
from perdure.stores.cosmos.items import SYSTEM, Items, together

OVERLAP: Final = 5
"""Seconds of the log's end that are told again: replicas of a partition do not write in step."""

_SCAN: Final = (
    "SELECT TOP @limit c.line, c.text, c.version FROM c WHERE c.tenantId = @tenant AND c.type = 'value' "
    "AND c.kind = @space AND c.line > @after ORDER BY c.line"
)
_NEXT_SPACE: Final = (
    "SELECT TOP @limit c.kind FROM c WHERE c.tenantId = @tenant AND c.type = 'value' AND c.kind > @after "
    "ORDER BY c.kind"
)
_LOG: Final = (
    "SELECT TOP @limit c.id, c.tenantId, c.kind, c.history, c._ts FROM c WHERE c.type = 'job' AND c._ts >= @since "
    "ORDER BY c._ts"
)


class CosmosValues:
    """See `perdure.ports.key_value.KeyValueStore`.

    Args:
        call: the gate of every call.
    """

    def __init__(self, call: Callable[[str], AbstractAsyncContextManager[Items]]) -> None:
        self._call = call

    async def read(self, space: str, keys: Sequence[str]) -> dict[str, Value]:
        async with self._call("values") as items:
            found = await together(items.read(SYSTEM, _id(space, key)) for key in keys)
        return {kept["line"]: _value(kept) for kept in found if kept is not None}

    async def spaces(self) -> list[str]:
        found = [""]
        async with self._call("values") as items:
            while rows := await items.query(
                _NEXT_SPACE, {"limit": 1, "tenant": SYSTEM, "after": found[-1]}, SYSTEM
            ):
                found.append(rows[0]["kind"])
        return found[1:]

    async def scan(self, space: str, limit: int, after: str = "") -> list[Value]:
        asked = {"limit": limit, "tenant": SYSTEM, "space": space, "after": after}
        async with self._call("values") as items:
            return [_value(kept) for kept in await items.query(_SCAN, asked, SYSTEM)]

    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        text, item_id = encoded(space, key, value), _id(space, key)
        async with self._call("values") as items:
            found = await items.read(SYSTEM, item_id)
            if (found["version"] if found else 0) != expect:
                return None
            if text is None:
                return expect if found is not None and await items.delete(found) else None
            version = secrets.randbits(52) + 1  # JSON's numbers are doubles here
            made: Document = {
                "id": item_id,
                "tenantId": SYSTEM,
                "type": "value",
                "once": item_id,
                "kind": space,
            }
            made |= {"line": key, "text": text, "version": version}
            done = await (items.create(made) if found is None else items.replace(made, found))
            return version if done else None


def _id(space: str, key: str) -> str:
    """Some characters of keys may not be in an id."""
    return "value-" + sha256(f"{space} {key}".encode()).hexdigest()


def _value(kept: Document) -> Value:
    return decoded(kept["line"], kept["text"], kept["version"])


async def log(items: Items, after: str | None, limit: int) -> LogPage:
    """A page of the log. A position is a second: all that was written before it was told. Of a job all entries are."""
    settled = int(items.clock.now().timestamp()) - OVERLAP
    if after is None:
        return LogPage(lines=(), next=str(settled))
    since = int(after)
    while True:
        rows = await items.query(_LOG, {"limit": limit, "since": since})
        full = len(rows) == limit
        if not full or rows[-1]["_ts"] > since:
            break
        limit *= 2  # more than a page was written in one second
    lines = [
        Logged(tenant=row["tenantId"], job_id=row["id"], kind=row["kind"], entry=to_entry(text))
        for row in rows
        for text in row["history"]
    ]
    reached = rows[-1]["_ts"] if full else max(since, settled)
    return LogPage(lines=tuple(lines), next=str(reached), more=full)
