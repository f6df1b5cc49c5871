"""A share of limits that all processes have together, taken through the store in small grants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic
from typing import Final, NamedTuple

import msgspec

from perdure.domain.errors import RetryAfter, StoreError
from perdure.domain.limits import SLICES, Book, Cost, Limit, Move
from perdure.domain.value import STAYING
from perdure.ports.key_value import KeyValueStore

SPACE: Final = f"budgets{STAYING}"
HOLD: Final = 3
"""Slices after which what is left of a grant goes back. `perdure.domain.limits.SPARE` covers that."""
MOST: Final = 64
"""Calls of one grant."""
AWAY: Final = 1.0
"""Seconds until a store that does not answer is asked again."""


_READ_AGAIN: Final = 0.001
"""Seconds by which a clock jumps only when it is read again."""


class Share(NamedTuple):
    """The right to one call."""

    at: float
    tokens: int


class Budget:
    """What one process uses of limits. One event loop uses it.

    A grant counts from the moment it is made, a call from its answer on: when between the two the provider counted
    it, nobody knows. A process that dies leaves its grant to the window, which forgets it.

    Args:
        key: names the limits for all processes.
        now: the store's clock, in seconds.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        values: KeyValueStore,
        key: str,
        limits: Sequence[Limit],
        now: Callable[[], float],
        chance: Random,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self._values = values
        self._key = key
        self._limits = limits
        self._clock = now
        self._monotonic = monotonic
        self._origin = self._late = 0.0
        self._chance = chance
        self._hold = HOLD * min((limit.seconds for limit in limits), default=0.0) / SLICES
        self._counts_tokens = any(limit.what == "tokens" for limit in limits)
        self._turn = asyncio.Lock()
        self._held = Move(0.0, Cost(0, 0))
        self._granted_at = 0.0
        self._back: list[Move] = []
        self._size = 1
        self._waiting = 0

    async def take(self, tokens: int, patience: float) -> Share | None:
        """Wait for the right to one call of about so many tokens; None where nothing is limited.

        Args:
            patience: seconds.

        Raises:
            RetryAfter: it takes longer. Counts as no attempt.
        """
        if not self._limits:
            return None
        each = Cost(1, tokens if self._counts_tokens else 0)
        self._waiting += 1
        wait = 0.0
        try:
            async with asyncio.timeout(patience), self._turn:
                while not self._fits(each):
                    wait = await self._ask(each)
                    if not self._fits(each):
                        await asyncio.sleep(wait + self._hold * self._chance.random())
                at, left = self._held
                self._held = Move(at, Cost(left.requests - 1, left.tokens - each.tokens))
                return Share(at, each.tokens)
        except TimeoutError:
            told = ", ".join(map(str, self._limits))
            pause = max(wait, patience, AWAY) * (1 + self._chance.random())
            raise RetryAfter(pause, f"{self._key} is used up to its limit: {told}") from None
        finally:
            self._waiting -= 1

    async def settle(self, share: Share | None, tokens: int) -> None:
        """The call was answered, and cost so many tokens."""
        if share is None:
            return
        now = self._now()
        self._back += [
            Move(share.at, Cost(-1, -share.tokens)),
            Move(now, Cost(1, tokens if self._counts_tokens else 0)),
        ]
        if now - share.at > self._hold:
            await self._ask(None)

    def _now(self) -> float:
        """The time as far as the log has told that this process read the clock late, until it reads it again."""
        now = self._clock()
        origin = now - self._monotonic()
        if abs(origin - self._origin) > _READ_AGAIN:
            self._origin, self._late = origin, 0.0
        return now + self._late

    def _fits(self, each: Cost) -> bool:
        left = self._held.cost
        good = abs(self._now() - self._granted_at) <= self._hold
        return good and left.requests >= 1 and left.tokens >= each.tokens

    async def _ask(self, each: Cost | None) -> float:
        """Tell what was given back, and take what the next calls need; seconds until there is some, where there is none."""
        back, self._back = self._back, []
        if each is not None:
            back += self._leave()
        name = f"{self._chance.getrandbits(64):x}"
        try:
            while True:
                found = (await self._values.read(SPACE, [self._key])).get(self._key)
                book = Book() if found is None else msgspec.convert(found.value, Book, str_keys=True)
                if book.last == name:
                    return (
                        0.0  # it went through, and the answer was lost; what it granted is left to the window
                    )
                granted, book, wait = self._granted(book, back, each, name)
                if not back and not granted.cost.requests:
                    return wait
                value = msgspec.to_builtins(book, str_keys=True)
                expect = 0 if found is None else found.version
                if await self._values.write(SPACE, self._key, value, expect=expect) is not None:
                    if each is not None:
                        # By our own clock: the log may be ahead of it.
                        self._held, self._granted_at = granted, self._now()
                    return wait
                await asyncio.sleep(0.02 * self._chance.random())
        except StoreError:
            # Whether it went through nobody knows: what was used may be told twice, what was given back may not.
            self._back += [move for move in back if move.cost.requests > 0]
            return AWAY

    def _leave(self) -> list[Move]:
        """Give back what is left of the grant before; the next one is smaller by that, or larger where nothing is left."""
        (at, left), self._held = self._held, Move(0.0, Cost(0, 0))
        self._size = max(1, min(self._size - left.requests if left.requests else 2 * self._size, MOST))
        return [Move(at, Cost(-left.requests, -left.tokens))] if left.requests else []

    def _granted(
        self, book: Book, back: Sequence[Move], each: Cost | None, name: str
    ) -> tuple[Move, Book, float]:
        now = self._now()
        time = book.time(self._limits, now)
        self._late += time - now
        # What is given back was counted by the time of the book, what was used is told by our clock.
        moves = [move if move.cost.requests < 0 else Move(move.at + time - now, move.cost) for move in back]
        book = book.noted(self._limits, moves, time, name)
        if each is None:
            return Move(0.0, Cost(0, 0)), book, 0.0
        calls = book.calls(self._limits, each, max(self._waiting, self._size), time)
        granted = Move(time, Cost(calls, calls * each.tokens))
        wait = 0.0 if calls else book.wait(self._limits, each, time)
        return granted, book.noted(self._limits, [granted], time, name), wait
