"""What is asked of the container: read an item, query, create, and change only what has not changed since."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosHttpResponseError

from perdure.domain.errors import StoreUnavailable
from perdure.stores.cosmos.clock import StoreClock
from perdure.stores.cosmos.documents import Document
from perdure.stores.cosmos.errors import CHANGED, CONFLICT, LOST, MISSING

SYSTEM: Final = "~perdure"
"""The partition of what is nobody's job: the schema, and the outcomes of large adds. No tenant can have this name."""

AT_ONCE: Final = 16
"""Requests of one call that are under way at a time."""

TOKENS: Final = 10_000
"""Outcomes of adds that are remembered; they never change."""

TRIES: Final = 12
"""Each one more means that somebody else changed the same job in between."""

Decide = Callable[[Document | None], Document | None]
"""The item as it is → as it should be; None: leave it."""

_T = TypeVar("_T")


class Items:
    """The container's items. Errors that the caller can answer come back as values, all others as the driver's.

    An item of an add that is under way is not there for anybody (see `adding.py`): `outcome` tells of its token.
    """

    def __init__(self, container: ContainerProxy, clock: StoreClock) -> None:
        self.container = container
        self.clock = clock
        self._outcomes: dict[str, str] = {}

    # --- one item -------------------------------------------------------------------------

    async def read(self, tenant: str, item_id: str) -> Document | None:
        """The item, unless it is not there (yet)."""
        found = await self._read(tenant, item_id)
        if found is None or not found.get("adding"):
            return found
        return found if await self.outcome(found["adding"]) == "committed" else None

    async def _read(self, tenant: str, item_id: str) -> Document | None:
        try:
            return dict(await self.container.read_item(item_id, tenant))
        except CosmosHttpResponseError as error:
            if error.status_code == MISSING and not error.sub_status:
                return None
            if error.status_code != 500:
                raise
        # An emulator fails where it should say "not there"; a query says so everywhere.
        where = "SELECT * FROM c WHERE c.tenantId = @tenant AND c.id = @id"
        found = await self.query(where, {"tenant": tenant, "id": item_id}, tenant)
        return found[0] if found else None

    async def create(self, made: Document) -> bool:
        """Whether it was created; False where its id or key is taken, or the answer got lost."""
        return await _unless(CONFLICT, LOST, request=self.container.create_item(made, no_response=True))

    async def create_together(self, made: Sequence[Document]) -> bool:
        """All of one tenant or none, at most 100 and 2 MB: whether they were created; False as for `create`."""
        steps = [("create", (item,)) for item in made]
        return await _unless(
            CONFLICT, LOST, request=self.container.execute_item_batch(steps, made[0]["tenantId"])
        )

    async def change(self, tenant: str, item_id: str, decide: Decide) -> None:
        """Replace the item by what is decided about it, decided again where it changed in between."""
        for attempt in range(TRIES):
            found = await self.read(tenant, item_id)
            wanted = decide(found)
            if wanted is None or found is None:
                return
            if await self.replace(wanted, found):
                return
            await asyncio.sleep(0.005 * attempt)
        raise StoreUnavailable(f"job {item_id} keeps being changed by others; try again")

    async def replace(self, wanted: Document, found: Document) -> bool:
        """Whether it was replaced; False where it changed, or went, since it was found, or the answer got lost."""
        replaced = self.container.replace_item(found["id"], wanted, no_response=True, **_unchanged(found))
        return await _unless(CHANGED, MISSING, LOST, request=replaced)

    async def delete(self, found: Document) -> bool:
        """Whether it was deleted; False where it changed, or went, since it was found."""
        deleted = self.container.delete_item(found["id"], found["tenantId"], **_unchanged(found))
        return await _unless(CHANGED, MISSING, request=deleted)

    async def patch(self, found: Document, steps: list[Document], condition: str) -> bool:
        """Whether it was patched; False where the condition does not hold, or it is not there."""
        only = f"FROM c WHERE {condition}"
        patched = self.container.patch_item(
            found["id"], found["tenantId"], steps, filter_predicate=only, no_response=True
        )
        return await _unless(CHANGED, MISSING, request=patched)

    # --- many -----------------------------------------------------------------------------

    async def query(self, text: str, values: Document, tenant: str | None = None) -> list[Any]:
        """All rows of a query, over one tenant's partition or all of them.

        Args:
            text: names the tenant, too, where there is one: an emulator may not heed the partition key.
            values: of its parameters, by their names without ``@``; in ``IN (@name)`` a list stands for its values.
        """
        for name in [
            name for name in values if f"IN (@{name})" in text
        ]:  # which an index serves, as no list does
            each = {f"{name}{number}": value for number, value in enumerate(values[name])}
            text = text.replace(f"IN (@{name})", f"IN ({', '.join('@' + one for one in each)})")
            values = {**values, **each}
        named = [{"name": f"@{name}", "value": value} for name, value in values.items() if f"@{name}" in text]
        where: Document = {} if tenant is None else {"partition_key": tenant}
        return [row async for row in self.container.query_items(text, parameters=named, **where)]

    async def visible(self, text: str, values: Document, tenant: str | None = None) -> list[Document]:
        """The rows of a query that are not of an add that is under way. Either all jobs of an add are seen, or none.

        Args:
            text: selects `adding`, and has ``NOT ARRAY_CONTAINS(@hidden, c.adding)`` in its condition.
        """
        hidden: set[str] = set()
        while True:
            known = {token for token, outcome in self._outcomes.items() if outcome == "committed"}
            rows = await self.query(text, {**values, "hidden": sorted(hidden)}, tenant)
            tokens = {row["adding"] for row in rows} - known - {""}
            # What was hidden and is committed meanwhile may show in part; what was not known to be committed, too.
            outcomes = {token: await self.outcome(token) for token in tokens | hidden}
            late = {token for token in hidden if outcomes[token] == "committed"}
            if not tokens and not late:
                return rows
            hidden = {token for token, outcome in outcomes.items() if outcome != "committed"}

    async def outcome(self, token: str) -> str | None:
        """How an add ended: ``committed``, ``aborted``; None while it is under way."""
        if token not in self._outcomes:
            found = await self._read(SYSTEM, token)
            if found is None:
                return None
            while len(self._outcomes) >= TOKENS:
                del self._outcomes[next(iter(self._outcomes))]
            self._outcomes[token] = found["outcome"]
        return self._outcomes[token]

    async def decide(self, token: str, outcome: str) -> str:
        """End an add, unless somebody ended it before; how it ended."""
        await self.create({"id": token, "tenantId": SYSTEM, "type": "add", "once": token, "outcome": outcome})
        ended = await self.outcome(token)
        if ended is None:  # what was created, by whomever, did not reach this replica yet: never guess
            raise StoreUnavailable("it is not known yet how an add ended; try again")
        return ended


async def together(work: Iterable[Awaitable[_T]]) -> list[_T]:
    """The results in order. All are awaited also where one fails; then its error is raised.

    Each is taken from `work` in its turn, so that a call that is cancelled leaves none that nobody awaits.
    """
    waiting = enumerate(work)
    done: dict[int, _T | Exception] = {}

    async def some() -> None:
        for place, task in waiting:
            try:
                done[place] = await task
            except Exception as error:  # noqa: BLE001  # raised below
                done[place] = error

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    results = []
    for place in sorted(done):
        result = done[place]
        if isinstance(result, Exception):
            raise result
        results.append(result)
    return results


def _unchanged(found: Document) -> dict[str, Any]:
    """The condition that nobody wrote the item since it was found."""
    return {"etag": found["_etag"], "match_condition": MatchConditions.IfNotModified}


async def _unless(*refusals: int, request: Awaitable[object]) -> bool:
    """Whether it went through; False where the service refused it with one of these, or nobody knows and `LOST` is one."""
    try:
        await request
    except (ServiceRequestError, ServiceResponseError):
        if LOST not in refusals:
            raise
        return False
    except HttpResponseError as error:
        if error.status_code not in refusals:
            raise
        return False
    return True
