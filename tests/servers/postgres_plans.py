"""How PostgreSQL would answer a statement."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement


async def scans(
    connection: asyncpg.Connection[asyncpg.Record],
    statement: str,
    values: Sequence[Any],
    tables: Collection[str],
) -> set[str]:
    """Every index that the plan goes by, and every one of the tables, or index, that it reads from end to end."""
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *values))
    return _scans(plan[0]["Plan"], tables)


async def kept_scans(
    connection: asyncpg.Connection[asyncpg.Record],
    statement: PreparedStatement[asyncpg.Record],
    tables: Collection[str],
) -> set[str]:
    """As `scans`, by the plan that the connection keeps for a statement of its own; made now unless it is there."""
    values = ", ".join(["NULL"] * len(statement.get_parameters()))
    plan = json.loads(
        await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {statement.get_name()} ({values})")
    )
    return _scans(plan[0]["Plan"], tables)


def _scans(node: dict[str, Any], tables: Collection[str]) -> set[str]:
    found = set()
    bitmap = node["Node Type"].startswith("Bitmap Index") and not node["Index Name"].startswith("pg_")
    if node.get("Relation Name") in tables or bitmap:
        if node["Node Type"] == "Seq Scan":
            found.add(f"all of {node['Relation Name']}")
        elif "Index Name" in node:
            narrowed = "Index Cond" in node or "Order By" in node
            found.add(node["Index Name"] if narrowed else f"all of {node['Index Name']}")
    return found.union(*(_scans(child, tables) for child in node.get("Plans", [])))
