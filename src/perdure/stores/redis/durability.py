"""Whether the server keeps what it acknowledged: asked once, told loudly."""

from __future__ import annotations

import logging
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


async def is_durable(client: Redis | RedisCluster, server: str) -> bool:
    """Whether a job survives the server's death the moment it is acknowledged. Warns where it may not."""
    config = await _config(client)
    if config is None:
        log.warning(
            "%s does not tell its settings (CONFIG is forbidden): JOBS MAY BE LOST unless it runs with "
            "appendonly yes, appendfsync always, maxmemory-policy noeviction; ask whoever runs it",
            server,
        )
        return False
    dangers = list(_dangers(config))
    for danger, remedy in dangers:
        log.warning("%s may LOSE JOBS: %s. Remedy: %s", server, danger, remedy)
    return not dangers


async def _config(client: Redis | RedisCluster) -> dict[str, str] | None:
    names = ("appendonly", "appendfsync", "maxmemory-policy")
    try:
        answer: Any = await client.config_get(*names)
    except RedisError:
        return None
    config = {_plain(name): _plain(value) for name, value in answer.items()}
    return config if config.keys() >= set(names) else None


def _dangers(config: dict[str, str]) -> list[tuple[str, str]]:
    found = []
    if config["appendonly"] != "yes":
        found.append(
            (
                "its append-only file is off, so that a crash loses everything since the last snapshot, if there is any",
                "CONFIG SET appendonly yes; CONFIG SET appendfsync always; CONFIG REWRITE",
            )
        )
    elif config["appendfsync"] != "always":
        found.append(
            (
                f"appendfsync is {config['appendfsync']}, so that a crash of the machine loses the last second or more",
                "CONFIG SET appendfsync always; CONFIG REWRITE",
            )
        )
    if config["maxmemory-policy"].startswith("allkeys"):
        found.append(
            (
                f"maxmemory-policy {config['maxmemory-policy']} drops jobs when memory is short",
                "CONFIG SET maxmemory-policy noeviction; CONFIG REWRITE",
            )
        )
    return found


def _plain(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
