"""Indexes for search by meaning: one for each namespace that is large, over its rows only, built beside all other work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from perdure.databases.postgres import PostgresDatabase
from perdure.domain.errors import InvalidInput, NotFound, PerdureError
from perdure.domain.record import Record

log = logging.getLogger(__name__)

QUIET: Final = timedelta(seconds=20)
"""A load is taken for done when nothing was published for so long."""

MOST: Final = {"vector": 2000, "halfvec": 4000}
"""Dimensions that an index takes."""

CREATE: Final = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON perdure_vector_chunks
USING {method} ((embedding::{type}({dimension})) {type}_cosine_ops) WITH ({options})
WHERE namespace = {namespace} AND dimension = {dimension}
"""

HNSW: Final = "m = 32, ef_construction = 400"
"""Neighbours of each, and how many are looked at for them: with these a search finds 0.99 of what is nearest."""


class Kind(NamedTuple):
    """How an index finds what is near: `method` hnsw or ivfflat, over `type` vector or halfvec (half precision: half the
    size; the found are then ordered by their full vectors).
    """

    method: str
    type: str

    @property
    def name(self) -> str:
        """As settings say it."""
        return self.method if self.type == "vector" else f"{self.method}-half"

    def fitting(self, dimension: int) -> Kind | None:
        """What takes vectors of this dimension; None where nothing does."""
        for type_ in (self.type, "halfvec"):
            if dimension <= MOST[type_]:
                return Kind(self.method, type_)
        return None

    def options(self, chunks: int) -> str:
        """How it is built for so many chunks."""
        if self.method == "hnsw":
            return HNSW
        return f"lists = {max(10, min(32_768, chunks // 1000 if chunks < 1_000_000 else int(chunks**0.5)))}"

    def settings(self, effort: int) -> dict[str, str]:
        """What a search sets: how hard to look, and to look on while a filter leaves too few."""
        if self.method == "hnsw":
            return {"hnsw.ef_search": str(min(1000, effort)), "hnsw.iterative_scan": "strict_order"}
        return {"ivfflat.probes": str(min(32_768, effort)), "ivfflat.iterative_scan": "relaxed_order"}


class Index(Record):
    """An index of a namespace.

    Attributes:
        kind: ``hnsw``, ``ivfflat``, ``hnsw-half`` or ``ivfflat-half``.
        ready: it is used.
        phase: what its building is at, in PostgreSQL's words; None: nobody builds it.
        fraction: of the phase, 0 to 1.
    """

    kind: str
    ready: bool
    phase: str | None
    fraction: float | None


def kind_of(setting: str) -> Kind | None:
    """The kind of index that a setting names; None: none is wanted.

    Raises:
        InvalidInput: no kind has this name.
    """
    method, _, half = setting.partition("-")
    if setting != "off" and (method not in {"hnsw", "ivfflat"} or half not in {"", "half"}):
        raise InvalidInput(
            f"there is no index of kind {setting!r}; expected hnsw, ivfflat, hnsw-half, ivfflat-half or off"
        )
    return None if setting == "off" else Kind(method, "halfvec" if half else "vector")


def kind_named(index: str | None) -> Kind | None:
    """The kind of an index, by its name in the database."""
    return None if index is None else Kind(*index.rsplit("_", 2)[1:])


class Indexes:
    """Builds indexes."""

    def __init__(self, database: PostgresDatabase, queries: Mapping[str, str]) -> None:
        self._database = database
        self._queries = queries
        self._building: asyncio.Task[None] | None = None

    def build_what_is_due(self) -> None:
        """See to it, beside other work, that a namespace that has become large gets its index."""
        if self._building is None or self._building.done():
            self._building = asyncio.create_task(self._build_what_is_due())

    async def close(self) -> None:
        """Break off a build under way; whoever looks next begins it anew."""
        if self._building is not None:
            self._building.cancel()
            await asyncio.wait([self._building])

    async def build(self, tenant: str, namespace: str, setting: str | None) -> None:
        """Build the namespace's index and wait for it; remove those that it had before.

        Args:
            setting: see `kind_of`; it is remembered for the namespace. None: what was chosen before, or the URL says.
        """
        wanted = kind_of(setting) if setting else None
        if setting:
            await self._run("choose_index", tenant, namespace, setting)
        [row] = await self._run("index_wanted", tenant, namespace) or [None]
        if row is None:
            raise NotFound(f"there is no namespace {namespace!r} of this tenant")
        wanted = kind_of(row["index_kind"] or self._database.options.index)
        wanted = wanted and wanted.fitting(row["dimension"])
        name = wanted and f"perdure_vectors_{row['id']}_{row['dimension']}_{wanted.method}_{wanted.type}"
        there = {index["name"]: index for index in await self._run("indexes", row["id"])}
        if name in there and there[name]["phase"] is not None:
            return  # another process is at it
        unfit = [each for each, index in there.items() if each != name or not index["ready"]]
        statements = [f"DROP INDEX CONCURRENTLY IF EXISTS {each}" for each in unfit if each == name]
        if wanted is not None and not (name in there and there[name]["ready"]):
            facts = {"name": name, "namespace": row["id"], "dimension": row["dimension"], **wanted._asdict()}
            statements.append(CREATE.format(options=wanted.options(row["chunks"]), **facts))
        statements += [f"DROP INDEX CONCURRENTLY IF EXISTS {each}" for each in unfit if each != name]
        log.info("namespace %r: index %s for %s chunks …", namespace, name, f"{row['chunks']:,}")
        await self._database.run_alone(statements)
        log.info("namespace %r: index %s is ready", namespace, name)

    async def progress(self, tenant: str, namespace: str) -> list[Index]:
        """The indexes of a namespace, those under way among them."""
        rows = await self._run("index_wanted", tenant, namespace)
        found = await self._run("indexes", rows[0]["id"]) if rows else []
        return [_index(row) for row in found]

    async def _build_what_is_due(self) -> None:
        options = self._database.options
        try:
            for row in await self._run("index_due", options.index, options.index_rows, QUIET):
                await self.build(row["tenant"], row["name"], None)
        except PerdureError as error:
            log.warning("an index could not be built for now: %s", error)

    async def _run(self, name: str, *values: object) -> list[Any]:
        return await self._database.run(lambda connection: connection.fetch(self._queries[name], *values))


def _index(row: Any) -> Index:
    kind = kind_named(row["name"])
    assert kind is not None
    return Index(kind=kind.name, ready=row["ready"], phase=row["phase"], fraction=row["fraction"])
