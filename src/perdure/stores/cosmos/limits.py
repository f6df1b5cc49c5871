"""Limits, where nothing can be changed together with an item of another partition: a place is reserved before a job is taken.

Each limited kind has one item that lists its reservations, and is replaced only if it is as it was read. A reservation counts
until its job is seen to have run under it, or is older than any claim can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Final

from perdure.domain.state import JobState
from perdure.domain.terms import Limit, Slots
from perdure.stores.cosmos.documents import Document, text_of
from perdure.stores.cosmos.items import SYSTEM, Items

GRACE: Final = timedelta(seconds=45)
"""A claim that is under way for longer has died: a call takes at most `store.PATIENCE`."""

LAG: Final = timedelta(seconds=5)
"""Replicas of a partition do not write in step: a job that is not seen is gone only if it was reserved before that."""

_HOLDING: Final = (
    "SELECT c.id, c.tenantId, c.epoch, c.status FROM c WHERE c.type = 'job' AND c.kind = @kind "
    "AND (c.lane = @lane OR c.id IN (@reserved))"
)


class Reservations:
    """What one claim found, and may add to.

    Attributes:
        slots: the places that are left.
    """

    def __init__(self, items: Items, ledgers: Mapping[str, Document], slots: Slots) -> None:
        self._items = items
        self._ledgers = ledgers
        self.slots = slots

    @classmethod
    async def look(cls, items: Items, limits: Mapping[str, Limit]) -> Reservations:
        """See how many jobs of each of these kinds run, or are about to."""
        ledgers: dict[str, Document] = {}
        running = Counter[tuple[str, str]]()
        for kind in limits:
            ledger = await _ledger(items, kind)
            rows = await items.query(
                _HOLDING,
                {"kind": kind, "lane": f"{kind}!{JobState.RUNNING}", "reserved": [*ledger["reserved"], ""]},
            )
            epochs = {row["id"]: row["epoch"] for row in rows}
            alive = {row["id"]: row["tenantId"] for row in rows if row["status"] == JobState.RUNNING}
            now = items.clock.now()
            ledger["reserved"] = {
                job_id: (tenant, epoch, since)
                for job_id, (tenant, epoch, since) in ledger["reserved"].items()
                if job_id in alive
                or (
                    epochs.get(job_id, -1) < epoch
                    and since > text_of(now - (GRACE if job_id in epochs else LAG))
                )
            }
            alive |= {job_id: tenant for job_id, (tenant, _, _) in ledger["reserved"].items()}
            running.update((kind, tenant) for tenant in alive.values())
            ledgers[kind] = ledger
        return cls(items, ledgers, Slots(limits, running))

    async def reserve(self, chosen: Sequence[Document]) -> list[Document]:
        """Those of the jobs that may be taken: not of a kind for which somebody else reserved since."""
        now, refused = text_of(self._items.clock.now()), set[str]()
        for kind, ledger in self._ledgers.items():
            mine = {
                job["id"]: (job["tenantId"], job["epoch"] + 1, now) for job in chosen if job["kind"] == kind
            }
            wanted = {**ledger, "reserved": {**ledger["reserved"], **mine}}
            if mine and not await self._items.replace(wanted, ledger):
                refused.add(kind)
        return [job for job in chosen if job["kind"] not in refused]


async def _ledger(items: Items, kind: str) -> Document:
    """The kind's item; made where there is none."""
    item_id = "limit-" + sha256(kind.encode()).hexdigest()
    made: Document = {"id": item_id, "tenantId": SYSTEM, "type": "limit", "once": item_id, "reserved": {}}
    while (found := await items.read(SYSTEM, item_id)) is None:
        await items.create(made)
    return found
