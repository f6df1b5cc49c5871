"""The scripts of the store: one for each primitive, each one step on the server."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError

_HERE: Final = files(__package__)


class Script(NamedTuple):
    """The text of a script and the name that the server knows it by."""

    text: str
    digest: str


@cache
def script(name: str) -> Script:
    """Read ``NAME.lua``, with what all have in common before it."""
    text = "\n".join((_HERE / f"{part}.lua").read_text("utf-8") for part in ("common", name))
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


async def run(
    client: Redis | RedisCluster, name: str, key: str, arguments: Iterable[str | bytes | int]
) -> Any:
    """Run a script by its digest; a server that does not know it yet is given the text."""
    text, digest = script(name)
    given = tuple(arguments)
    try:
        return await client.execute_command("EVALSHA", digest, 1, key, *given)
    except NoScriptError:
        return await client.execute_command("EVAL", text, 1, key, *given)
