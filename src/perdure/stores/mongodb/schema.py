"""The collection's indexes, and which schema it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from perdure.domain import validation as check
from perdure.domain.errors import StoreCorrupt, StoreError
from perdure.stores.mongodb.documents import Document

SCHEMA: Final = 1
"""Of the documents; kept beside them, so that an older Perdure does not misread what a newer one wrote."""


def _index(name: str, *keys: str, **options: Any) -> IndexModel:
    """An index on `keys`; one that begins with ``-`` descends."""
    order = [(key.lstrip("-"), DESCENDING if key.startswith("-") else ASCENDING) for key in keys]
    return IndexModel(order, name=name, **options)


def _where(field: str, kind: str) -> dict[str, Any]:
    """Index only documents that have a value there."""
    return {"partialFilterExpression": {field: {"$type": kind}}}


INDEXES: Final = (
    _index("job_id", "job_id", unique=True),
    _index("idempotency", "tenant", "idempotency_key", unique=True, **_where("idempotency_key", "string")),
    # Claims: the priorities of a kind, the tenants of a priority, a tenant's jobs by age; each by skipping in the index.
    _index("claim", "status", "kind", "-priority", "tenant", "due_us", "_id"),
    # Leases and deadlines that ran out.
    _index("status", "status", "due_us", "_id"),
    # Pages, newest first; `lane` holds all that `stats` counts, too.
    _index("tenant_status", "tenant", "status", "-_id"),
    _index("lane", "tenant", "kind", "status", "-_id"),
    _index("document_id", "document_id", "-_id", **_where("document_id", "string")),
    _index("user_id", "user_id", "-_id", **_where("user_id", "string")),
    _index("completed_at", "completed_at", **_where("completed_at", "date")),
    # The server removes each job at its own time: only finished jobs have a date there.
    _index("expires_at", "expires_at", expireAfterSeconds=0, **_where("expires_at", "date")),
)


def check_server(hello: Mapping[str, Any], shown: str) -> None:
    """Refuse a server that cannot keep the promises.

    Raises:
        StoreError: it is a lone `mongod`.
    """
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise StoreError(
            f"{shown} is a mongod alone, which has neither transactions nor change streams; start it with "
            "--replSet rs0 and run rs.initiate() once: a replica set of one member is enough"
        )


async def prepare(jobs: AsyncCollection[Document], shown: str) -> None:
    """Create what is missing. Many replicas may do so at once.

    Raises:
        SchemaMismatch: a newer Perdure has been here.
        StoreCorrupt: the collection holds something else, or its mark is none of ours.
    """
    about: AsyncCollection[Document] = jobs.database[f"{jobs.name}.schema"]
    kept = await about.find_one({"_id": "schema"})
    if kept is None:
        if await jobs.find_one({"due_us": {"$exists": False}}, {"_id": 1}) is not None:
            raise StoreCorrupt(
                f"{shown} holds documents that are not Perdure's; name another collection (mongodb://…/database.collection)"
            )
        kept = {"version": SCHEMA}
        try:
            await about.insert_one({"_id": "schema", **kept})
        except DuplicateKeyError:  # another replica was quicker; of which version shows at its next start
            kept = await about.find_one({"_id": "schema"}) or kept
    check.schema(kept.get("version"), SCHEMA, shown)
    await jobs.create_indexes(list(INDEXES))
