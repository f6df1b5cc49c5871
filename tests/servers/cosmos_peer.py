"""A peer of Cosmos DB over its REST routes, in memory, for what the packaged emulator does wrong: 404, filtered patch, TTL,
atomic batches, the limits of size, signed requests, 429 with retry-after, session consistency; and answers that get lost.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from itertools import pairwise
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from aiohttp import web

from tests.servers.cosmos import KEY, local_url
from tests.servers.cosmos_sql import parsed

Doc = dict[str, Any]
LIMIT = 2 * 1024 * 1024


class Refused(Exception):
    """The service says no."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


class Container:
    """Items with their versions: a read may be answered by an older one, as of a replica that lags behind."""

    def __init__(self, properties: Doc, clock: Callable[[], float]) -> None:
        self.properties = properties
        self.lsn = 0
        self.versions: defaultdict[tuple[str, str], list[tuple[int, float, Doc | None]]] = defaultdict(list)
        self._clock = clock
        self._holders: dict[tuple[str, str, Any], str] = {}
        self._unique = [path for key in properties["uniqueKeyPolicy"]["uniqueKeys"] for path in key["paths"]]

    def rows(self, lsn: int | None = None) -> list[Doc]:
        """All items, as of a moment."""
        found = (self.get(*key, lsn) for key in tuple(self.versions))
        return [item for item in found if item is not None]

    def get(self, tenant: str, item_id: str, lsn: int | None = None) -> Doc | None:
        """An item, as of a moment, unless its time is over."""
        known = [v for v in self.versions[tenant, item_id] if lsn is None or v[0] <= lsn]
        item = known[-1][2] if known else None
        over = item is not None and item.get("ttl", -1) > 0 and item["_ts"] + item["ttl"] <= self._clock()
        return None if over else item

    def changes(self, after: int, limit: int, lane: tuple[int, int]) -> list[Doc]:
        """Items as they are now, in the order of their last change, of one of so many partitions."""
        number, lanes = lane
        last = [(held[-1][0], key) for key, held in self.versions.items() if held and held[-1][0] > after]
        ours = sorted(one for one in last if zlib.crc32(one[1][0].encode()) % lanes == number)
        found = ((lsn, self.get(*key)) for lsn, key in ours)
        return [{**item, "_lsn": lsn} for lsn, item in found if item is not None][:limit]

    def create(self, item: Doc) -> Doc:
        if self.get(item["tenantId"], item["id"]) is not None or any(map(self._taken, self._names_of(item))):
            raise Refused(409)
        return self.put(item)

    def _names_of(self, item: Doc) -> list[tuple[str, str, Any]]:
        return [(item["tenantId"], path[1:], item.get(path[1:])) for path in self._unique]

    def _taken(self, name: tuple[str, str, Any]) -> bool:
        holder = self.get(name[0], self._holders.get(name, ""))
        return holder is not None and holder.get(name[1]) == name[2]

    def put(self, item: Doc) -> Doc:
        self.lsn += 1
        kept = {**item, "_etag": f'"{uuid4()}"', "_ts": int(self._clock()), "_rid": str(self.lsn)}
        self._note(item["tenantId"], item["id"], kept)
        for name in self._names_of(item):
            self._holders[name] = item["id"]
        return kept

    def delete(self, tenant: str, item_id: str) -> None:
        self.lsn += 1
        self._note(tenant, item_id, None)

    def _note(self, tenant: str, item_id: str, item: Doc | None) -> None:
        known = self.versions[tenant, item_id]
        known.append((self.lsn, time.monotonic(), item))
        del known[:-8]

    def there(self, tenant: str, item_id: str, match: str | None) -> Doc:
        """The item that a write is about."""
        item = self.get(tenant, item_id)
        if item is None:
            raise Refused(404)
        if match not in (None, "*", item["_etag"]):
            raise Refused(412)
        return item


class Peer:
    """The service, and what a test does to it.

    Attributes:
        lag: seconds that a reader may be behind what it did not write itself.
        ahead: seconds that its clock is ahead of ours.
        seen: what it was asked for, e.g. ``replace``, with how often.
        queries: the texts and whether a partition was named.
        lost: how many answers it did not give.
        refusing: with which status and substatus it answers every write of an item; None: it writes.
        ranges: partitions that its change feeds have.
    """

    def __init__(self) -> None:
        self.lag = 0.0
        self.ahead = 0.0
        self.consistency = "Session"
        self.seen: defaultdict[str, int] = defaultdict(int)
        self.queries: list[tuple[str, str | None]] = []
        self.lost = 0
        self.refusing: tuple[int, int] | None = None
        self.ranges = 1
        self.databases: dict[str, dict[str, Container]] = {}
        self.url = ""
        self.port = 0
        self._throttling: tuple[int, int] = (0, 0)
        self._losing: dict[str, int] = {}

    def throttle(self, times: int, after_ms: int) -> None:
        """Answer that many requests about items with 429."""
        self._throttling = (times, after_ms)

    def lose(self, what: str, times: int) -> None:
        """Do what is asked that many times, and cut the connection instead of answering."""
        self._losing[what] = times

    def clock(self) -> float:
        return time.time() + self.ahead

    def container(self, database: str, name: str = "embedding-jobs") -> Container:
        try:
            return self.databases[database][name]
        except KeyError:
            raise Refused(404) from None

    # --- HTTP -----------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Date": formatdate(self.clock(), usegmt=True), "x-ms-request-charge": "1"}
        parts = [unquote(part) for part in request.path.strip("/").split("/") if part]
        try:
            what = _what(request, parts)
            self.seen[what] += 1
            _check_signature(request, parts)
            self._slow_down(parts, headers)
            if self.refusing and what in {"create", "batch", "replace", "patch", "delete"}:
                headers["x-ms-substatus"] = str(self.refusing[1])
                raise Refused(self.refusing[0], "refused by the test")
            if len(body) > LIMIT:
                raise Refused(413, "Request size is too large")
            answer = self._answer(request, parts, what, json.loads(body) if body else None, headers)
            status = 201 if what == "create" else 204 if what == "delete" else 200
        except Refused as refused:
            status, answer = refused.status, {"code": str(refused.status), "message": str(refused)}
            what = ""
        if self._losing.get(what, 0) > 0:
            self._losing[what] -= 1
            self.lost += 1
            assert request.transport is not None
            request.transport.abort()
        if isinstance(answer, dict) and "_etag" in answer:
            headers["etag"] = answer["_etag"]
        text = None if status in {204, 304} else json.dumps(answer)
        return web.Response(status=status, text=text, headers=headers, content_type="application/json")

    def _slow_down(self, parts: list[str], headers: dict[str, str]) -> None:
        times, after_ms = self._throttling
        if times > 0 and "docs" in parts:
            self._throttling = (times - 1, after_ms)
            headers["x-ms-retry-after-ms"] = str(after_ms)
            raise Refused(429, "Request rate is large")

    def _answer(
        self, request: web.Request, parts: list[str], what: str, body: Any, headers: dict[str, str]
    ) -> Any:
        match parts:
            case []:
                return self._account()
            case ["dbs"]:
                return self._made(self.databases, body["id"], dict)
            case ["dbs", database]:
                return self._named(self.databases, database, delete=request.method == "DELETE")
            case ["dbs", database, "colls"]:
                properties = {"uniqueKeyPolicy": {"uniqueKeys": []}, **body}
                return self._made(
                    self.databases[database], body["id"], lambda: Container(properties, self.clock)
                )
            case ["dbs", database, "colls", name]:
                self._named(self.databases.get(database, {}), name, delete=request.method == "DELETE")
                held = self.databases[database].get(name)
                return {
                    **(held.properties if held else {}),
                    "_rid": "cGVlcg==",
                    "_self": "s",
                    "_ts": 0,
                    "_etag": "e",
                }
            case ["dbs", _, "colls", _, "pkranges"]:
                headers["etag"] = "1"
                if request.headers.get("if-none-match") == "1":
                    raise Refused(304)
                edges = ["", *(f"{255 * n // self.ranges:02X}" for n in range(1, self.ranges)), "FF"]
                ranges = [
                    {"id": str(n), "minInclusive": low, "maxExclusive": high, "_rid": "r", "parents": []}
                    for n, (low, high) in enumerate(pairwise(edges))
                ]
                return {"PartitionKeyRanges": ranges, "_count": self.ranges, "_rid": "cGVlcg=="}
            case ["dbs", database, "colls", name, "docs", *rest]:
                held = self.container(database, name)
                if what == "changes":
                    return self._changes(request, held, headers)
                answer = self._items(request, held, what, rest, body)
                headers["x-ms-session-token"] = f"0:-1#{held.lsn}"
                headers["x-ms-alt-content-path"] = f"dbs/{database}/colls/{name}"
                headers["x-ms-documentdb-partitionkeyrangeid"] = "0"
                return answer
        raise Refused(400, request.path)

    def _account(self) -> Doc:
        place = [{"name": "Here", "databaseAccountEndpoint": f"http://127.0.0.1:{self.port}/"}]
        return {
            "id": "peer",
            "_rid": "peer",
            "writableLocations": place,
            "readableLocations": place,
            "enableMultipleWriteLocations": False,
            "userConsistencyPolicy": {"defaultConsistencyLevel": self.consistency},
        }

    def _made(self, held: dict[str, Any], name: str, make: Callable[[], Any]) -> Doc:
        if name in held:
            raise Refused(409)
        held[name] = make()
        return self._named(held, name)

    def _named(self, held: dict[str, Any], name: str, *, delete: bool = False) -> Doc:
        if name not in held:
            raise Refused(404)
        if delete:
            del held[name]
        return {"id": name, "_rid": "cGVlcg==", "_self": "s", "_ts": 0, "_etag": "e"}

    # --- items ----------------------------------------------------------------------------

    def _items(self, request: web.Request, held: Container, what: str, rest: list[str], body: Any) -> Any:
        key = json.loads(request.headers.get("x-ms-documentdb-partitionkey", "[null]"))[0]
        match = request.headers.get("if-match")
        match what:
            case "query":
                return self._query(request, held, key, body)
            case "batch":
                return self._batch(held, key, body)
            case "create":
                _same_partition(body, key)
                upsert = request.headers.get("x-ms-documentdb-is-upsert", "").lower() == "true"
                return held.put(body) if upsert else held.create(body)
            case "read":
                found = held.get(key, rest[0], self._as_of(request, held))
                if found is None:
                    raise Refused(404)
                return found
            case "replace":
                held.there(key, rest[0], match)
                _same_partition(body, key)
                return held.put(body)
            case "patch":
                return self._patch(held, held.there(key, rest[0], match), body)
            case _:
                held.there(key, rest[0], match)
                held.delete(key, rest[0])
                return None

    def _changes(self, request: web.Request, held: Container, headers: dict[str, str]) -> Doc:
        after = request.headers.get("if-none-match", "").strip('"') or "0"
        if not after.isdigit():
            raise Refused(400, "no such continuation")
        number = int(request.headers["x-ms-documentdb-partitionkeyrangeid"])
        limit = int(request.headers.get("x-ms-max-item-count", 100))
        found = held.changes(int(after), limit, (number, self.ranges))
        headers["etag"] = f'"{found[-1]["_lsn"] if found else after}"'
        if not found:
            raise Refused(304)
        return {"Documents": found, "_count": len(found), "_rid": "cGVlcg=="}

    def _query(self, request: web.Request, held: Container, key: str | None, body: Any) -> Doc:
        self.queries.append((body["query"], key))
        indexed = {path["path"][1:-2] for path in held.properties["indexingPolicy"]["includedPaths"]}
        asked = set(re.findall(r"c\.(\w+)", body["query"].partition(" WHERE ")[2]))
        if asked - indexed - {"id", "_ts"}:  # the service does so for ORDER BY; else the query is merely dear
            raise Refused(400, f"{asked - indexed} are excluded from indexing")
        values = {each["name"]: each["value"] for each in body.get("parameters", [])}
        rows = [row for row in held.rows(self._as_of(request, held)) if key is None or row["tenantId"] == key]
        try:
            found = parsed(body["query"]).run(rows, values)
        except SyntaxError as error:
            raise Refused(400, str(error)) from error
        return {"Documents": found, "_count": len(found), "_rid": "cGVlcg=="}

    def _batch(self, held: Container, key: str, body: list[Doc]) -> list[Doc]:
        """All or none. (The driver reads the fault of a batch in the statuses of its operations.)"""
        assert len(body) <= 100
        before = held.lsn
        statuses = []
        for step in body:
            try:
                assert step["operationType"] == "Create"
                _same_partition(step["resourceBody"], key)
                held.create(step["resourceBody"])
                statuses.append(201)
            except Refused as refused:
                for versions in held.versions.values():
                    versions[:] = [version for version in versions if version[0] <= before]
                statuses = [424] * len(statuses) + [refused.status]
                statuses += [424] * (len(body) - len(statuses))
                break
        return [{"statusCode": status, "requestCharge": 1} for status in statuses]

    def _patch(self, held: Container, item: Doc, body: Doc) -> Doc:
        assert len(body["operations"]) <= 10
        if "condition" in body and not parsed(f"SELECT * {body['condition']}").run([item], {}):
            raise Refused(412)
        changed = dict(item)
        for step in body["operations"]:
            name = step["path"][1:]
            changed[name] = step["value"] + (changed[name] if step["op"] == "incr" else type(step["value"])())
        return held.put(changed)

    def _as_of(self, request: web.Request, held: Container) -> int | None:
        """What a replica that lags behind has, but never less than the reader's own session saw."""
        if not self.lag:
            return None
        token = request.headers.get("x-ms-session-token", "0:-1#0")
        until = time.monotonic() - self.lag
        lsns = [v[0] for versions in held.versions.values() for v in versions if v[1] <= until]
        return max([int(token.rpartition("#")[2]), *lsns])


def _what(request: web.Request, parts: list[str]) -> str:
    if "docs" not in parts:
        return "other"
    if request.method == "POST":
        if request.headers.get("x-ms-documentdb-isquery", "").lower() == "true":
            return "query"
        return "batch" if request.headers.get("x-ms-cosmos-is-batch-request") else "create"
    if "a-im" in request.headers:
        return "changes"
    return {"GET": "read", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}[request.method]


def _same_partition(item: Doc, key: str | None) -> None:
    if item["tenantId"] != key:
        raise Refused(
            400, "PartitionKey extracted from document doesn't match the one specified in the header"
        )


def _check_signature(request: web.Request, parts: list[str]) -> None:
    kind = parts[-1] if len(parts) % 2 else parts[-2] if parts else ""
    link = "/".join(parts[:-1] if len(parts) % 2 else parts)
    text = f"{request.method.lower()}\n{kind}\n{link}\n{request.headers['x-ms-date'].lower()}\n\n"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    if not unquote(request.headers["authorization"]).endswith(f"sig={base64.b64encode(digest).decode()}"):
        raise Refused(401, "The input authorization token can't serve the request")


@contextmanager
def cosmos_peer() -> Iterator[Peer]:
    """Run a peer on a free port of the loopback, in a thread of its own."""
    peer, loop, ready = Peer(), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        application = web.Application(client_max_size=8 * LIMIT)
        application.router.add_route("*", "/{path:.*}", peer.serve)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        peer.port = runner.addresses[0][1]
        peer.url = local_url(peer.port)
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(120)
    try:
        yield peer
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
