"""A peer that speaks the data plane of one Pinecone index over HTTP, as its official SDK uses it.

It is eventually consistent as Pinecone is: a write is answered with its place in the namespace's log, fetches and lists see it
later, and queries later still. It refuses what Pinecone refuses: batches, metadata, filters and vectors that are no good.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from aiohttp import web

Json = dict[str, Any]
Floats = npt.NDArray[np.float32]
Change = Callable[["View"], None]

KEY = "pc-test"


class Record:
    """A vector without the zeros at its end, and its metadata."""

    def __init__(self, values: Floats, metadata: Json) -> None:
        self.values = values
        self.metadata = metadata


class View:
    """What reads of one kind see of a namespace."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.applied = 0
        self._matrix: tuple[list[str], Floats] | None = None

    def catch_up(self, log: list[tuple[float, Change]], until: float) -> None:
        behind = bisect_right(log, until, key=lambda entry: entry[0])
        for _, change in log[self.applied : behind]:
            change(self)
            self._matrix = None
        self.applied = max(self.applied, behind)

    @property
    def units(self) -> tuple[list[str], Floats]:
        """The ids, and their vectors brought to length 1."""
        if self._matrix is None:
            width = max((len(record.values) for record in self.records.values()), default=1)
            rows = np.zeros((len(self.records), width))
            for row, record in zip(rows, self.records.values(), strict=True):
                row[: len(record.values)] = record.values
            units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            self._matrix = list(self.records), units.astype(np.float32)
        return self._matrix


class Space:
    """One namespace: a log, and two views that follow it."""

    def __init__(self) -> None:
        self.log: list[tuple[float, Change]] = []
        self.reads, self.searches = View(), View()


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class PineconePeer:
    """One index.

    Attributes:
        url: where it listens, as Perdure names a store.
        lag: seconds until queries see a write; fetches and lists see it after half of that. Infinity: never.
        tells_lsn: whether answers say where the log is.
        refusals: answers to the next requests, one each.
        calls: how often each route was called.
        lost: told (route, body), whether the request is carried out while its answer never comes.
        after: told the route once it was carried out; its answer waits until this ends.
        held: told (route, body), whether the request waits until the peer ends, and is not carried out.
    """

    def __init__(self, dimension: int = 8, metric: str = "cosine") -> None:
        self.url = ""
        self.dimension = dimension
        self.metric = metric
        self.lag = 0.0
        self.tells_lsn = True
        self.refusals: list[Refusal] = []
        self.calls: Counter[str] = Counter()
        self.lost: Callable[[str, Json], bool] = lambda route, body: False
        self.held: Callable[[str, Json], bool] = lambda route, body: False
        self.after: Callable[[str], Awaitable[None]] | None = None
        self.holds = asyncio.Event()
        """Set once a request is held."""
        self._ended = asyncio.Event()
        self.spaces: dict[str, Space] = {}

    def newest(self, space: str) -> dict[str, Record]:
        """All that was written to a namespace, whether anybody sees it yet or not."""
        view = View()
        view.catch_up(self.spaces[space].log, math.inf)
        return view.records

    def put(self, space: str, name: str, record: Record) -> None:
        """Write a record as if somebody else did."""
        self._write({"namespace": space}, lambda view: view.records.update({name: record}))

    def remove(self, space: str, name: str) -> None:
        """Remove a record as if somebody else did."""

        def change(view: View) -> None:
            view.records.pop(name, None)

        self._write({"namespace": space}, change)

    # --- routes -----------------------------------------------------------------------------

    async def answer(self, request: web.Request) -> web.StreamResponse:
        route = request.path
        self.calls[route] += 1
        body = await self._body(request)
        try:
            if request.headers.get("Api-Key") != KEY:
                raise Refusal(401, "Invalid API Key")
            if self.refusals:
                raise self.refusals.pop(0)
            if self.held(route, body):
                self.holds.set()
                await self._ended.wait()
            told, headers = self._route(request, body)
            if self.after is not None:
                await self.after(route)
            if self.lost(route, body):
                assert request.transport is not None
                request.transport.close()
        except Refusal as refusal:
            error = {"code": refusal.status, "message": str(refusal), "details": []}
            return web.json_response(error, status=refusal.status, headers=refusal.headers)
        return web.Response(body=orjson.dumps(told), content_type="application/json", headers=headers)

    async def _body(self, request: web.Request) -> Json:
        if request.method != "POST":
            return {name: request.query.getall(name) for name in request.query}
        read = await request.read()
        if len(read) > 2 * 1024 * 1024:
            self.refusals.insert(0, Refusal(413, "Request size exceeds the maximum of 2097152 bytes"))
            return {}
        return dict(orjson.loads(read or b"{}"))

    def _route(self, request: web.Request, body: Json) -> tuple[Json, dict[str, str]]:
        match request.path:
            case "/vectors/upsert":
                return self._upsert(body)
            case "/query":
                return self._query(body)
            case "/vectors/fetch":
                return self._fetch(body)
            case "/vectors/fetch_by_metadata":
                return self._fetch_by_metadata(body)
            case "/vectors/list":
                return self._list(body)
            case "/vectors/update":
                return self._update(body)
            case "/vectors/delete":
                return self._delete(body)
            case "/describe_index_stats":
                return self._stats()
            case _:
                raise Refusal(404, f"no route {request.path}")

    def _stats(self) -> tuple[Json, dict[str, str]]:
        counts = {name: {"vectorCount": len(self._searched(name).records)} for name in self.spaces}
        total = sum(count["vectorCount"] for count in counts.values())
        return {
            "namespaces": counts,
            "dimension": self.dimension,
            "indexFullness": 0,
            "totalVectorCount": total,
            "metric": self.metric,
            "vectorType": "dense",
        }, {}

    # --- writing ----------------------------------------------------------------------------

    def _upsert(self, body: Json) -> tuple[Json, dict[str, str]]:
        vectors = body["vectors"]
        if not 1 <= len(vectors) <= 1000:
            raise Refusal(400, f"{len(vectors)} vectors; expected 1 to 1000")
        records = {one["id"]: Record(self._values(one["values"]), stored(one)) for one in vectors}

        def change(view: View) -> None:
            view.records.update(records)

        return {"upsertedCount": len(vectors)}, self._write(body, change)

    def _update(self, body: Json) -> tuple[Json, dict[str, str]]:
        more = body.get("setMetadata", {})
        if "values" in body:
            raise Refusal(501, "this peer sets metadata only")

        def change(view: View) -> None:
            for name, record in view.records.items():
                if name == body.get("id") or ("filter" in body and holds(body["filter"], record.metadata)):
                    record.metadata = record.metadata | more

        return {}, self._write(body, change)

    def _delete(self, body: Json) -> tuple[Json, dict[str, str]]:
        ids = set(body.get("ids", ()))
        if len(ids) > 1000:
            raise Refusal(400, f"{len(ids)} ids; expected at most 1000")

        def change(view: View) -> None:
            for name, record in list(view.records.items()):
                chosen = "filter" in body and holds(body["filter"], record.metadata)
                if body.get("deleteAll") or name in ids or chosen:
                    del view.records[name]

        return {}, self._write(body, change)

    def _write(self, body: Json, change: Change) -> dict[str, str]:
        log = self.spaces.setdefault(body.get("namespace", ""), Space()).log
        log.append((asyncio.get_running_loop().time(), change))
        return {"x-pinecone-lsn-committed": str(len(log))} if self.tells_lsn else {}

    def _values(self, values: list[float]) -> Floats:
        if len(values) != self.dimension:
            raise Refusal(
                400,
                f"Vector dimension {len(values)} does not match the dimension of the index {self.dimension}",
            )
        kept = np.trim_zeros(np.array(values, dtype=np.float32), "b")
        if not len(kept):
            raise Refusal(400, "Dense vectors must contain at least one non-zero value.")
        return kept

    # --- reading ----------------------------------------------------------------------------

    def _read(self, name: str) -> View:
        space = self.spaces.get(name, Space())
        space.reads.catch_up(space.log, asyncio.get_running_loop().time() - self.lag / 2)
        return space.reads

    def _searched(self, name: str) -> View:
        space = self.spaces.get(name, Space())
        space.searches.catch_up(space.log, asyncio.get_running_loop().time() - self.lag)
        return space.searches

    def _query(self, body: Json) -> tuple[Json, dict[str, str]]:
        view = self._searched(body.get("namespace", ""))
        if not 1 <= body["topK"] <= 10_000:
            raise Refusal(400, f"topK is {body['topK']}; expected 1 to 10000")
        asked = self._values(body["vector"])
        ids, units = view.units
        check(body.get("filter", {}))
        places = [
            place
            for place, name in enumerate(ids)
            if "filter" not in body or holds(body["filter"], view.records[name].metadata)
        ]
        query = np.zeros(max(units.shape[1], len(asked)))
        query[: len(asked)] = asked
        query = (query / np.linalg.norm(query))[: units.shape[1]].astype(np.float32)
        scores = (units[places] * query).sum(axis=1)
        best = np.argsort(-scores, kind="stable")[: body["topK"]]
        matches = [{"id": ids[places[place]], "score": float(scores[place]), "values": []} for place in best]
        headers = {"x-pinecone-lsn-reconciled": str(view.applied)} if self.tells_lsn else {}
        return self._told(body, matches=matches), headers

    def _fetch(self, body: Json) -> tuple[Json, dict[str, str]]:
        if len(body["ids"]) > 1000:
            raise Refusal(400, f"{len(body['ids'])} ids; expected at most 1000")
        space = body.get("namespace", [""])[0]
        records = self._read(space).records
        found = {name: self._shown(name, records[name]) for name in body["ids"] if name in records}
        return self._told({"namespace": space}, vectors=found), {}

    def _fetch_by_metadata(self, body: Json) -> tuple[Json, dict[str, str]]:
        check(body["filter"])
        records = self._read(body.get("namespace", "")).records
        names = sorted(name for name, record in records.items() if holds(body["filter"], record.metadata))
        page, pagination = _page(names, body.get("limit", 100), body.get("paginationToken"))
        vectors = {name: self._shown(name, records[name]) for name in page}
        return self._told(body, vectors=vectors, **pagination), {}

    def _list(self, body: Json) -> tuple[Json, dict[str, str]]:
        space, prefix = body.get("namespace", [""])[0], body.get("prefix", [""])[0]
        limit, token = int(body.get("limit", ["100"])[0]), body.get("paginationToken", [None])[0]
        if not 1 <= limit <= 100:
            raise Refusal(400, f"limit is {limit}; expected 1 to 100")
        names = sorted(name for name in self._read(space).records if name.startswith(prefix))
        page, pagination = _page(names, limit, token)
        return self._told({"namespace": space}, vectors=[{"id": name} for name in page], **pagination), {}

    def _shown(self, name: str, record: Record) -> Json:
        values = record.values.tolist()
        return {
            "id": name,
            "values": values + [0.0] * (self.dimension - len(values)),
            "metadata": record.metadata,
        }

    def _told(self, body: Json, **parts: Any) -> Json:
        return {"namespace": body.get("namespace", ""), "usage": {"readUnits": 1}, **parts}


def _page(names: list[str], limit: int, token: str | None) -> tuple[list[str], Json]:
    after = base64.b64decode(token).decode() if token else ""
    page = names[bisect_right(names, after) :][: limit + 1]
    if len(page) <= limit:
        return page, {}
    return page[:limit], {"pagination": {"next": base64.b64encode(page[limit - 1].encode()).decode()}}


def stored(vector: Json) -> Json:
    """The metadata of a vector as Pinecone keeps it: numbers as doubles, nulls left out."""
    name, metadata = vector["id"], vector.get("metadata") or {}
    if not name.isascii() or not 1 <= len(name) <= 512:
        raise Refusal(400, f"no vector id: {name!r}")
    if len(json.dumps(metadata, ensure_ascii=False).encode()) > 40_960:
        raise Refusal(400, "Metadata size exceeds the limit of 40960 bytes per vector")
    for key, value in metadata.items():
        texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if key.startswith("$") or not (texts or value is None or isinstance(value, (str, int, float))):
            raise Refusal(
                400, f"Metadata value must be a string, number, boolean or list of strings, got '{key}'"
            )
    return {
        key: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for key, value in metadata.items()
        if value is not None
    }


# --- the filter language --------------------------------------------------------------------


def check(where: Json) -> None:
    """Refuse filters that Pinecone refuses."""
    for key, ask in where.items():
        if key in {"$and", "$or"}:
            if not ask:
                raise Refusal(400, f"{key} needs at least one filter")
            for part in ask:
                check(part)
        elif isinstance(ask, dict):
            for op, value in ask.items():
                _check_operator(op, value)
        elif not isinstance(ask, (str, int, float)):
            raise Refusal(400, f"{ask!r} is no value of a filter")


def _check_operator(op: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match op:
        case "$gt" | "$gte" | "$lt" | "$lte":
            fits = number
        case "$in" | "$nin":
            scalars = isinstance(value, list) and all(type(one) in {str, int, float} for one in value)
            fits = scalars and 1 <= len(value) <= 10_000
        case "$eq" | "$ne":
            fits = isinstance(value, (str, int, float))
        case "$exists":
            fits = isinstance(value, bool)
        case _:
            fits = False
    if not fits:
        raise Refusal(400, f"the operator {op} does not take {str(value)[:100]}")


def holds(where: Json, metadata: Json) -> bool:
    """Whether metadata passes a filter."""
    return all(_holds(key, ask, metadata) for key, ask in where.items())


def _holds(key: str, ask: Any, metadata: Json) -> bool:
    match key:
        case "$and":
            return all(holds(part, metadata) for part in ask)
        case "$or":
            return any(holds(part, metadata) for part in ask)
    asks = ask.items() if isinstance(ask, dict) else [("$eq", ask)]
    return all(_compares(op, value, metadata.get(key)) for op, value in asks)


def _compares(op: str, value: Any, held: Any) -> bool:
    if op == "$exists":
        return bool((held is not None) == value)
    if held is None:
        return False  # also $ne and $nin: whoever relies on either answer will notice
    among = [_typed(one) for one in (held if isinstance(held, list) else [held])]
    match op:
        case "$eq" | "$in":
            return any(_typed(one) in among for one in (value if op == "$in" else [value]))
        case "$ne" | "$nin":
            return not any(_typed(one) in among for one in (value if op == "$nin" else [value]))
    if isinstance(held, bool) or not isinstance(held, float):
        return False
    return bool({"$gt": held > value, "$gte": held >= value, "$lt": held < value, "$lte": held <= value}[op])


def _typed(value: Any) -> tuple[str, Any]:
    if isinstance(value, bool):
        return ("boolean", value)
    return ("text", value) if isinstance(value, str) else ("number", float(value))


# --- running it -----------------------------------------------------------------------------


@asynccontextmanager
async def serving(peer: PineconePeer) -> AsyncIterator[PineconePeer]:
    """Listen on a free port of this machine."""
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{tail:.*}", peer.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        peer.url = site.name.replace("http://", f"pinecone+http://:{KEY}@")
        yield peer
    finally:
        peer._ended.set()
        await runner.cleanup()
