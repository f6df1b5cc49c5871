"""Values beside the jobs, and the log of all entries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from perdure.domain.errors import CursorLost
from perdure.domain.log import Logged, LogPage
from perdure.domain.record import Json
from perdure.domain.value import Value, decoded, encoded
from perdure.stores.redis.rows import entries_of


class RedisValues:
    """See `perdure.ports.key_value.KeyValueStore`.

    Args:
        run: runs a script by its name.
    """

    def __init__(self, run: Callable[..., Awaitable[Any]]) -> None:
        self._run = run

    async def read(self, space: str, keys: Sequence[str]) -> dict[str, Value]:
        texts = await self._run("read_values", space, *keys) if keys else []
        return {key: _value(key, text) for key, text in zip(keys, texts, strict=True) if text}

    async def spaces(self) -> list[str]:
        return sorted(space.decode() for space in await self._run("spaces"))

    async def scan(self, space: str, limit: int, after: str = "") -> list[Value]:
        found = await self._run("scan_values", space, limit, after)
        return [_value(key.decode(), text) for key, text in zip(found[::2], found[1::2], strict=True)]

    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        text = encoded(space, key, value)
        version = await self._run("write_value", space, key, text or "", expect)
        return None if version is None else int(version)


def log(answer: Any, limit: int, after: str | None) -> LogPage:
    """A page of the log, of what the script answers."""
    if answer is None:
        raise CursorLost(f"the log does not go back to {after} any more; read on from its end")
    position, number, *parts = answer
    lines = tuple(
        Logged(
            tenant=parts[n].decode(), kind=parts[n + 1].decode(), job_id=parts[n + 2].decode(), entry=entry
        )
        for n in range(0, len(parts), 5)
        for entry in entries_of(parts[n + 3 : n + 5])
    )
    return LogPage(lines=lines, next=position.decode(), more=int(number) == limit)


def _value(key: str, text: bytes) -> Value:
    version, _, value = text.partition(b" ")
    return decoded(key, value, int(version))
