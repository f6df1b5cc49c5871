"""On which terms jobs are claimed: how many of a kind run at once, and how large a tenant's share is.

Where a store chooses in Python, it does so with what is here; a store that chooses in its own language agrees with it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

import msgspec

from perdure.domain import validation as check
from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record

T = TypeVar("T")

MAX_WEIGHT: Final = 1000
_ANY_NUMBER: Final = 1_000_000_000


class Limit(Record):
    """How many jobs of one kind may run at once, over all workers of a store.

    Attributes:
        total: of all tenants together; None: any number.
        per_tenant: of each tenant; None: any number.

    Raises:
        InvalidInput: one is below 1.
    """

    total: int | None = None
    per_tenant: int | None = None

    def __post_init__(self) -> None:
        check.at_least(1 if self.total is None else self.total, 1, "limit")
        check.at_least(1 if self.per_tenant is None else self.per_tenant, 1, "limit_per_tenant")


class Terms(Record):
    """What `JobStore.claim` heeds beyond priority, turn and age. All workers of a store should be given the same.

    Attributes:
        limits: by kind.
        shares: by tenant: how many jobs it gets in one turn, 1 to `MAX_WEIGHT`; of others 1.
    """

    limits: dict[str, Limit] = msgspec.field(default_factory=dict)
    shares: dict[str, int] = msgspec.field(default_factory=dict)

    def weight(self, tenant: str) -> int:
        """The tenant's share."""
        return self.shares.get(tenant, 1)

    def of(self, kinds: Iterable[str]) -> Mapping[str, Limit]:
        """The limits of these kinds, in the order of their names."""
        return {kind: self.limits[kind] for kind in sorted(set(kinds) & self.limits.keys())}

    def portions(self, tenants: Sequence[str], room: int) -> dict[str, int]:
        """How many jobs of each are worth looking at for a claim of `room` jobs; never less than one turn."""
        weights = {tenant: self.weight(tenant) for tenant in tenants}
        whole = sum(weights.values())
        return {tenant: max(weight, -(-room * weight // whole)) for tenant, weight in weights.items()}


PLAIN: Final = Terms()
"""No limits, and equal shares."""


def parse_shares(text: str) -> dict[str, int]:
    """Read ``acme=3,beta=1``.

    Raises:
        InvalidInput: naming what does not fit.
    """
    shares: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        tenant, _, weight = (piece.strip() for piece in part.partition("="))
        if not weight.isdecimal() or not 1 <= int(weight) <= MAX_WEIGHT or tenant in shares:
            raise InvalidInput(
                f"the shares say {part!r}; expected each tenant once, with a whole number from 1 to {MAX_WEIGHT}, "
                "as in acme=3,beta=1"
            )
        shares[check.name(tenant, "tenant")] = int(weight)
    return shares


class Slots:
    """How many more jobs of each kind and tenant one claim may take.

    Args:
        running: (kind, tenant) → running jobs, of the kinds with a limit.
    """

    def __init__(self, limits: Mapping[str, Limit], running: Mapping[tuple[str, str], int]) -> None:
        self._limits = limits
        self._lanes = Counter(running)
        self._kinds = Counter[str]()
        for (kind, _tenant), number in running.items():
            self._kinds[kind] += number

    def left(self, kind: str, tenant: str | None = None) -> int:
        """Jobs of the kind that may still be taken, of this tenant (None: of any)."""
        limit = self._limits.get(kind)
        if limit is None:
            return _ANY_NUMBER
        left = _ANY_NUMBER if limit.total is None else limit.total - self._kinds[kind]
        if tenant is not None and limit.per_tenant is not None:
            left = min(left, limit.per_tenant - self._lanes[kind, tenant])
        return max(0, left)

    def take(self, kind: str, tenant: str) -> bool:
        """Take one, if there is one left."""
        if kind not in self._limits:
            return True
        if not self.left(kind, tenant):
            return False
        self._lanes[kind, tenant] += 1
        self._kinds[kind] += 1
        return True

    def full(self) -> list[tuple[str, str]]:
        """(kind, tenant) of those that may take none, though others of the kind may."""
        return [lane for lane in self._lanes if not self.left(*lane)]


class Turns(Generic[T]):
    """Whose turn it is, priority by priority; remembered from claim to claim."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[str, int]] = {}

    def last(self, priority: int, terms: Terms) -> tuple[str, int]:
        """The tenant served last ("": none yet), and how many jobs it has had in its turn; 0: that is over."""
        tenant, had = self._last.get(priority, ("", 0))
        return tenant, had if had < terms.weight(tenant) else 0

    def deal(
        self,
        priority: int,
        lines: Mapping[str, Iterable[tuple[str, T]]],
        room: int,
        terms: Terms,
        slots: Slots,
    ) -> list[T]:
        """Up to `room` jobs of the lines, in turn among the tenants, each as many in a turn as its share is.

        Args:
            lines: tenant → its jobs (kind, job), first first; begins with the tenant whose turn it is.
        """
        last, begun = self.last(priority, terms)
        waiting = {tenant: deque(line) for tenant, line in lines.items()}
        dealt: list[T] = []
        while waiting:
            for tenant, line in list(waiting.items()):
                had, begun = (begun if tenant == last else 0), 0
                while had < terms.weight(tenant):
                    if len(dealt) == room:
                        return dealt
                    while line and not slots.take(line[0][0], tenant):
                        line.popleft()
                    if not line:
                        del waiting[tenant]
                        break
                    dealt.append(line.popleft()[1])
                    had += 1
                    self._last[priority] = tenant, had
        return dealt
