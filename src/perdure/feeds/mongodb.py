"""A MongoDB collection, by its change stream; what was there before, and what a lost position missed, by a scan."""

from __future__ import annotations

import time
from typing import Any, Final

from bson import json_util
from pymongo import AsyncMongoClient
from pymongo.asynchronous.change_stream import AsyncCollectionChangeStream
from pymongo.errors import OperationFailure, PyMongoError

from perdure.domain.change import Action, Batch, Change, Poison, facts
from perdure.domain.errors import StoreUnavailable
from perdure.domain.record import Json
from perdure.ports.change_feed import Recall

POSITION: Final = "position"
PATIENCE_MS: Final = 500
GATHERED: Final = 0.2
"""Seconds for which events are gathered into a batch."""
RENEW: Final = 60.0
"""Seconds after which a quiet collection's position is kept anew, so that it does not grow too old."""
_LOST: Final = frozenset({9, 260, 280, 286, 50811})
"""The resume token is unreadable or invalid, the stream can't be resumed, its history is gone."""
_UPSERTS: Final = frozenset({"insert", "update", "replace"})
_SCANNED = (
    "the position was lost ({}), so the whole collection was read anew; documents that were deleted meanwhile are not "
    "known to the server any more: compare, and delete them by hand"
)


class MongoFeed:
    """The documents of one collection; a document's id is its ``_id`` as text, its version the server's cluster time in microseconds.

    Args:
        url: of the server, a replica set.
        text: the field that holds the content. metadata: fields that become the document's.
    """

    def __init__(
        self,
        url: str,
        database: str,
        collection: str,
        *,
        text: str = "text",
        metadata: tuple[str, ...] = (),
        media_type: str = "text/plain",
        tenant: str = "default",
        namespace: str = "default",
    ) -> None:
        self._url, self._names = url, (database, collection)
        self._text, self._metadata = text, metadata
        self._whose: dict[str, Any] = {"tenant": tenant, "namespace": namespace}
        self._media_type = media_type
        self._client: AsyncMongoClient[dict[str, Any]] | None = None
        self._stream: AsyncCollectionChangeStream[dict[str, Any]] | None = None
        self._kept_at = time.monotonic()

    @property
    def _collection(self) -> Any:
        if self._client is None:
            self._client = AsyncMongoClient(self._url, serverSelectionTimeoutMS=5000)
        database, collection = self._names
        return self._client[database][collection]

    async def read(self, recall: Recall, limit: int) -> Batch:
        """A piece of the scan, as long as that is under way, else what the stream tells."""
        kept: Any = (await recall([POSITION])).get(POSITION) or {}
        try:
            if not kept:
                kept = await self._begin()
            if "version" in kept:
                return await self._scan(kept, limit)
            return await self._follow(kept["token"], limit)
        except OperationFailure as error:
            if error.code not in _LOST or not kept:
                raise StoreUnavailable(f"MongoDB refused to tell of changes: {error}") from None
            return await self._lost(str(error.code))
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB is out of reach: {error}") from None

    async def _begin(self) -> dict[str, Any]:
        """Where a scan starts: the stream is noted first, so that it tells what changes meanwhile."""
        await self._drop()
        async with await self._collection.watch(max_await_time_ms=1) as stream:
            await stream.try_next()
            token = stream.resume_token
        answer = await self._collection.database.command("ping")
        now = answer.get("operationTime")
        version = _version(now) if now else int(time.time() * 1_000_000)
        return {"token": json_util.dumps(token), "version": version, "after": None}

    async def _lost(self, why: str) -> Batch:
        try:
            return Batch(marks={POSITION: await self._begin()}, note=_SCANNED.format(why))
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB is out of reach: {error}") from None

    async def _scan(self, at: dict[str, Any], limit: int) -> Batch:
        query = {"_id": {"$gt": json_util.loads(at["after"])}} if at["after"] else {}
        found = await self._collection.find(query).sort("_id", 1).limit(limit).to_list()
        told = [self._upsert(document["_id"], document, at["version"], True) for document in found]
        if len(found) < limit:
            position: dict[str, Json] = {"token": at["token"]}
        else:
            position = {**at, "after": json_util.dumps(found[-1]["_id"])}
        return Batch.of(told, {POSITION: position})

    async def _follow(self, token: str, limit: int) -> Batch:
        if self._stream is None:
            self._stream = await self._collection.watch(
                resume_after=json_util.loads(token),
                full_document="updateLookup",
                max_await_time_ms=PATIENCE_MS,
            )
        told: list[Change | Poison] = []
        events, until = 0, float("inf")
        while events < limit and time.monotonic() < until:
            if (event := await self._stream.try_next()) is None:
                break
            if (events := events + 1) == 1:
                until = (
                    time.monotonic() + GATHERED
                )  # else a steady trickle would fill the batch before it is told
            kind = event["operationType"]
            if kind in {"drop", "rename", "dropDatabase", "invalidate"}:
                return await self._lost(f"the collection was gone: {kind}")
            version = _version(event["clusterTime"])
            if kind == "delete":
                told.append(self._delete(event["documentKey"]["_id"], version))
            elif kind in _UPSERTS and event.get("fullDocument") is not None:
                key, document = event["documentKey"]["_id"], event["fullDocument"]
                told.append(self._upsert(key, document, version, kind == "update"))
            # Without a full document it went meanwhile, of which a later event tells.
        position = json_util.dumps(self._stream.resume_token)
        if events or (position != token and time.monotonic() - self._kept_at > RENEW):
            self._kept_at = time.monotonic()
            return Batch.of(told, {POSITION: {"token": position}})
        return Batch()

    def _upsert(self, key: Any, document: dict[str, Any], version: int, looked_up: bool) -> Change | Poison:
        text = document.get(self._text)
        if not isinstance(text, str) or not text.strip():
            what = "nothing" if text is None else "no word" if text == "" else type(text).__name__
            reason = (
                f"field {self._text!r} of document {key!s} holds {what}; expected a text with a word in it"
            )
            return Poison(id=f"{key!s}@{version}"[:500], reason=reason, event=str(document)[:2000])
        return Change(
            action=Action.UPSERT,
            document_id=str(key),
            version=version,
            text=text,
            media_type=self._media_type,
            metadata=facts({field: document[field] for field in self._metadata if field in document}),
            at=version / 1_000_000,
            looked_up=looked_up,
            **self._whose,
        )

    def _delete(self, key: Any, version: int) -> Change:
        return Change(
            action=Action.DELETE, document_id=str(key), version=version, at=version / 1_000_000, **self._whose
        )

    async def settle(self, batch: Batch) -> None:
        """Nothing: the server keeps no position."""

    async def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    async def close(self) -> None:
        """Close the stream and the client."""
        await self._drop()
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _version(stamp: Any) -> int:
    """A cluster time as microseconds: below 2⁵³, and of the size of the versions that Perdure gives itself."""
    return int(stamp.time) * 1_000_000 + min(int(stamp.inc), 999_999)
