"""Values beside the jobs, in a collection of their own; and the log of all entries, which is the change stream."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from bson import json_util
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, OperationFailure

from perdure.domain.errors import CursorLost
from perdure.domain.log import Logged, LogPage
from perdure.domain.record import Json
from perdure.domain.value import Value, decoded, encoded
from perdure.stores.mongodb.claiming import Jobs
from perdure.stores.mongodb.documents import Document, to_entry
from perdure.stores.mongodb.errors import FEED_LOST

_WRITES: Final[list[dict[str, Any]]] = [
    {"$match": {"operationType": {"$in": ["update", "replace"]}}},
    {
        "$project": {
            "operationType": 1,
            "updateDescription.updatedFields": 1,
            **{f"fullDocument.{name}": 1 for name in ("_id", "tenant", "kind", "history")},
        }
    },
]
_WAIT_MS: Final = 50


class MongoValues:
    """See `perdure.ports.key_value.KeyValueStore`. A key is part of the document's id, so that one is there once.

    Args:
        call: the gate of every call; gives the jobs' collection.
    """

    def __init__(self, call: Callable[[], AbstractContextManager[Jobs]]) -> None:
        self._call = call

    async def read(self, space: str, keys: Sequence[str]) -> dict[str, Value]:
        with self._call() as jobs:
            found = _kept(jobs).find({"_id": {"$in": [_id(space, key) for key in keys]}})
            return {kept["key"]: _value(kept) async for kept in found}

    async def spaces(self) -> list[str]:
        found: list[str] = []
        with self._call() as jobs:
            start = ""
            while kept := await _kept(jobs).find_one({"_id": {"$gt": start}}, sort=[("_id", 1)]):
                found.append(kept["_id"].partition(" ")[0])
                start = f"{found[-1]}!"
        return found

    async def scan(self, space: str, limit: int, after: str = "") -> list[Value]:
        with self._call() as jobs:
            inside = {"_id": {"$gt": _id(space, after), "$lt": f"{space}!"}}
            return [_value(kept) async for kept in _kept(jobs).find(inside).sort("_id").limit(limit)]

    async def write(self, space: str, key: str, value: Json, *, expect: int) -> int | None:
        text, here = encoded(space, key, value), {"_id": _id(space, key), "version": expect}
        with self._call() as jobs:
            kept = _kept(jobs)
            if text is None:
                return expect if (await kept.delete_one(here)).deleted_count else None
            version = secrets.randbits(62) + 1
            if expect:
                changed = await kept.update_one(here, {"$set": {"value": text, "version": version}})
                return version if changed.matched_count else None
            try:
                await kept.insert_one({**here, "key": key, "value": text, "version": version})
            except DuplicateKeyError:
                return None
            return version


def _kept(jobs: Jobs) -> AsyncCollection[Document]:
    return jobs.database[f"{jobs.name}.values"]


def _id(space: str, key: str) -> str:
    """A space before a blank, which no name of a space has, and which sorts before all that one may have."""
    return f"{space} {key}"


def _value(kept: Document) -> Value:
    return decoded(
        kept["key"], kept["value"], int(kept["version"])
    )  # bson's Int64 is an int that others do not know


async def log(jobs: Jobs, after: str | None, limit: int) -> LogPage:
    """A page of the log. A position is the change stream's token; of a changed job all entries are told again."""
    token = None if after is None else json_util.loads(after)
    lines: list[Logged] = []
    number = 0
    try:
        async with await jobs.watch(
            _WRITES, full_document="updateLookup", start_after=token, max_await_time_ms=_WAIT_MS
        ) as stream:
            while number < limit:
                event = await stream.try_next()
                if event is None:
                    break
                number += 1
                lines += _lines(event)
            reached = stream.resume_token
    except OperationFailure as error:
        if error.code not in FEED_LOST:
            raise
        raise CursorLost(
            "the server's oplog does not go back to this position any more; read on from its end"
        ) from error
    position = after if reached is None else json_util.dumps(reached)
    assert position is not None, "a server gives a token with the first answer"
    return LogPage(lines=tuple(lines) if after is not None else (), next=position, more=number == limit)


def _lines(event: Document) -> list[Logged]:
    changed = (event.get("updateDescription") or {}).get("updatedFields") or {}
    job = event.get("fullDocument")
    if job is None or not any(name.partition(".")[0] == "history" for name in changed):
        return []
    return [
        Logged(tenant=job["tenant"], job_id=job["_id"], kind=job["kind"], entry=to_entry(entry))
        for entry in job["history"]
    ]
