"""The database and the container, and which schema it has."""

from __future__ import annotations

from typing import Any, Final

from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import CosmosResourceExistsError

from perdure.databases.cosmos.address import Address
from perdure.domain import validation as check
from perdure.domain.errors import SchemaMismatch, StoreError
from perdure.stores.cosmos.clock import StoreClock
from perdure.stores.cosmos.items import SYSTEM, Items

SCHEMA: Final = 1
"""Of the items; kept beside them, so that an older Perdure does not misread what a newer one wrote."""

PARTITION_KEY: Final = "/tenantId"
UNIQUE: Final[Any] = {"uniqueKeys": [{"paths": ["/once"]}]}
_WEAK: Final = frozenset({"Eventual", "ConsistentPrefix"})
_INDEXED: Final = (
    *("tenantId", "type", "kind", "status", "lane", "line", "dueAt", "expiresAt", "createdAt", "updatedAt"),
    *("shardId", "userId", "worker", "adding", "once"),
)


def _composite(*paths: str) -> list[dict[str, str]]:
    """Ascending, but for those that begin with ``-``."""
    return [
        {"path": f"/{path.lstrip('-')}", "order": "descending" if path.startswith("-") else "ascending"}
        for path in paths
    ]


# Only what is asked for is indexed: each path makes every write dearer.
INDEXES: Final[dict[str, Any]] = {
    "indexingMode": "consistent",
    "automatic": True,
    "includedPaths": [{"path": f"/{name}/?"} for name in _INDEXED],
    "excludedPaths": [{"path": "/*"}],
    "compositeIndexes": [
        _composite("tenantId", "status", "-createdAt"),
        _composite("tenantId", "shardId", "-updatedAt"),
    ],
}


async def prepare(client: CosmosClient, address: Address, clock: StoreClock) -> Items:
    """Create what is missing. Many replicas may do so at once.

    Raises:
        SchemaMismatch: a newer Perdure has been here, or the container is not as it must be.
        StoreCorrupt: the mark of its schema is none of ours.
        StoreError: the account's reads may be older than its own writes.
    """
    container = await _made(client, address)
    await _check_account(client, address.shown)
    await _check_container(container, address.shown)
    items = Items(container, clock)
    record = {"id": "schema", "tenantId": SYSTEM, "type": "schema", "once": "schema", "version": SCHEMA}
    kept = await items.read(SYSTEM, "schema")
    if kept is None and not await items.create(record):  # another replica was quicker
        kept = await items.read(SYSTEM, "schema")
    if kept is not None:
        check.schema(kept.get("version"), SCHEMA, address.shown)
    return items


async def _made(client: CosmosClient, address: Address) -> ContainerProxy:
    for tries_left in (2, 1, 0):
        try:
            database = await client.create_database_if_not_exists(address.database)
            return await database.create_container_if_not_exists(
                address.container,
                PartitionKey(path=PARTITION_KEY),
                indexing_policy=INDEXES,
                default_ttl=-1,
                unique_key_policy=UNIQUE,
            )
        except CosmosResourceExistsError:  # the driver looks, then creates: another replica was quicker
            if not tries_left:
                raise
    raise AssertionError


async def _check_account(client: CosmosClient, shown: str) -> None:
    account = await client._get_database_account()
    level = (account.ConsistencyPolicy or {}).get("defaultConsistencyLevel")
    if level in _WEAK:
        raise StoreError(
            f"the account of {shown} has the consistency {level}, under which a process may not see what it wrote itself; "
            "set the account's default to Session, or better to BoundedStaleness or Strong"
        )


async def _check_container(container: ContainerProxy, shown: str) -> None:
    """A container that was there before may lack what cannot be added later."""
    found = await container.read()
    faults = []
    if found["partitionKey"]["paths"] != [PARTITION_KEY]:
        faults.append(f"its partition key is {found['partitionKey']['paths']}, not {PARTITION_KEY}")
    unique = (found.get("uniqueKeyPolicy") or {}).get("uniqueKeys") or []
    if not any(key["paths"] == ["/once"] for key in unique):
        faults.append("it has no unique key /once")
    if found.get("defaultTtl") != -1:
        faults.append("its time to live is not 'on (no default)'")
    if faults:
        raise SchemaMismatch(
            f"{shown} was made by another program ({', '.join(faults)}); name another container, which setup() makes "
            "as it must be (cosmos://…/database/container)"
        )
    if lacking := _lacking(found.get("indexingPolicy") or {}):
        raise SchemaMismatch(
            f"{shown} lacks indexes for {', '.join(lacking)}; put them into the container's indexing policy again, as the "
            "reference shows it, or name another container"
        )


def _lacking(policy: dict[str, Any]) -> list[str]:
    """Which of `INDEXES` a policy does not have; it may have more."""
    included = {each["path"] for each in policy.get("includedPaths", ())}
    lacking = [each["path"] for each in INDEXES["includedPaths"] if included.isdisjoint({each["path"], "/*"})]
    there = [_paths(index) for index in policy.get("compositeIndexes", ())]
    wanted = [_paths(index) for index in INDEXES["compositeIndexes"]]
    return lacking + [" + ".join(paths) for paths in wanted if paths not in there]


def _paths(index: list[dict[str, str]]) -> list[str]:
    return [("-" if part.get("order") == "descending" else "") + part["path"] for part in index]
