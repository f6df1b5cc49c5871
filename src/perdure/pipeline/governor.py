"""When a provider may be asked: within its limits, not before it said, and not while it is down. All processes together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Final

import msgspec
from msgspec.structs import replace

from perdure.domain import validation as check
from perdure.domain.errors import (
    EmbedderError,
    EmbedderRefused,
    EmbedderSpent,
    RetryAfter,
    StoreError,
    TextRejected,
)
from perdure.domain.limits import Limit
from perdure.domain.record import Record
from perdure.domain.value import STAYING
from perdure.pipeline.budget import Budget, Share
from perdure.ports.embedder import Metered, Purpose
from perdure.ports.key_value import KeyValueStore

SPACE: Final = f"providers{STAYING}"
PATIENCE: Final[Mapping[Purpose, float]] = {"document": 15.0, "query": 3.0}
"""Seconds that a call waits here; then its job goes back to the queue, and others have its place."""
TRIES: Final = 4
"""Calls that fail, while others are answered, before the job has failed."""
PAUSE: Final = 0.5
"""Seconds after the first failure, twice as many after each other; times 0.5 to 1.5."""
OPEN: Final = 5
"""Failures one after the other, of all processes, after which a provider is down."""
COOL: Final = 5.0
"""Seconds until one process looks whether it is back; twice as many each time it is not."""
COOLEST: Final = 60.0
PROBING: Final = 30.0
"""Seconds after which a process that looks is taken for dead."""
FRESH: Final = 1.0
"""Seconds for which what the store said of a provider is believed."""
_TOKENS_PER_BYTE: Final = 0.4
"""More than of any known tokenizer with any common text, until the provider has told."""


class Health(Record):
    """How a provider is.

    Attributes:
        until: nobody asks it before; seconds of the store's clock.
        failures: calls that failed one after the other.
        probing: until then somebody looks whether it is back.
        why: what it said last.
    """

    until: float = 0.0
    failures: int = 0
    probing: float = 0.0
    why: str = ""

    @property
    def down(self) -> bool:
        """Whether it must show that it is back before it is asked for work."""
        return self.failures >= OPEN

    def waits(self, until: float, why: str) -> Health:
        """It asked to wait."""
        return replace(self, until=max(self.until, until), why=why)

    def failed(self, now: float, why: str, at_least: int = 0) -> Health:
        """A call failed; that counts as so many failures at least."""
        if self.down and self.until > now:
            return self  # calls that were under way when it went down say nothing new
        failures = max(self.failures + 1, at_least)
        pause = min(COOLEST, COOL * 2.0 ** min(failures - OPEN, 10)) if failures >= OPEN else 0.0
        return replace(self, failures=failures, until=max(self.until, now + pause), probing=0.0, why=why)

    def works(self) -> Health:
        """A call was answered."""
        return Health() if self.down else replace(self, failures=0, probing=0.0)


class Governor:
    """Lets calls through to one provider; see `perdure.ports.embedder.Gate`. One event loop uses it.

    Args:
        provider: its key in the store.
        limits: of the provider. tenants: of each tenant there; ``*``: of each that is not named.
        now: the store's clock, in seconds.
    """

    def __init__(
        self,
        values: KeyValueStore,
        provider: str,
        now: Callable[[], float],
        *,
        limits: Sequence[Limit] = (),
        tenants: Mapping[str, Sequence[Limit]] | None = None,
        chance: Random | None = None,
    ) -> None:
        self._values = values
        self._provider = provider
        self._now = now
        self._chance = chance or Random()  # noqa: S311 - for jitter
        self._budget = Budget(values, provider, limits, now, self._chance)
        self._limits = tenants or {}
        self._tenants: dict[str, Budget] = {}
        self._health = Health()
        self._version = 0
        self._read_at = -FRESH
        self._tokens_per_byte = _TOKENS_PER_BYTE

    async def take(self, tenant: str, texts: Sequence[str]) -> tuple[Budget, Share | None] | None:
        """Wait until the tenant's limits allow a call with these texts; what is to be settled once it is answered.

        Raises:
            RetryAfter: they do not for long.
        """
        limits = self._limits.get(tenant, self._limits.get("*", ()))
        if not limits:
            return None
        key = f"{self._provider}/{tenant}"
        made = Budget(self._values, key, limits, self._now, self._chance)
        budget = self._tenants.setdefault(tenant, made)
        return budget, await budget.take(self._estimate(texts), PATIENCE["document"])

    async def run(
        self,
        texts: Sequence[str],
        call: Callable[[], Awaitable[Metered]],
        probe: Callable[[], Awaitable[object]] | None = None,
        purpose: Purpose = "document",
    ) -> Metered:
        """See the port. A failure is tried again here, `TRIES` times in all, before it is the job's; of a provider that is
        down one process after the other asks with the probe, and nobody's work is risked.
        """
        patience, failed = PATIENCE[purpose], 0
        while True:
            patience = await self._wait(patience, probe)
            begun = self._now()
            share = await self._budget.take(self._estimate(texts), patience)
            patience = max(0.0, patience - (self._now() - begun))
            try:
                answer = await call()
            except RetryAfter as error:
                await self._waits(error)
                failed += error.counts
                if error.counts and failed >= TRIES:
                    raise
            except (TextRejected, EmbedderRefused):
                await self._works()
                raise
            except EmbedderError as error:
                failed += 1
                await self._failed(str(error), OPEN if isinstance(error, EmbedderSpent) else 0)
                # Where nobody was answered since, it is not this call: then it waits until the provider is back.
                if purpose == "query" or (failed >= TRIES and self._health.failures < failed):
                    raise
                await asyncio.sleep(PAUSE * 2 ** (failed - 1) * (0.5 + self._chance.random()))
            else:
                await self._budget.settle(share, self._learned(texts, sum(answer.tokens)))
                await self._works()
                return answer

    # --- waiting ----------------------------------------------------------------------------

    async def _wait(self, patience: float, probe: Callable[[], Awaitable[object]] | None) -> float:
        """Wait until the provider may be asked; the patience that is left."""
        while True:
            health, now = await self._look(), self._now()
            wait = health.until - now
            if wait <= 0 and not health.down:
                return patience
            if wait <= 0 and health.probing <= now and await self._is_back(health, probe):
                return patience
            health = self._health
            wait = max(health.until - self._now(), FRESH if health.down else 0.0)
            # Not all at once, when the time is up; nor a moment early, where a clock was read late.
            wait += min(1.0, 0.1 * wait) * self._chance.random()
            if wait > patience:
                await asyncio.sleep(patience)
                raise RetryAfter(max(wait - patience, FRESH), f"{self._provider} is given time: {health.why}")
            await asyncio.sleep(wait)
            patience -= wait

    async def _is_back(self, health: Health, probe: Callable[[], Awaitable[object]] | None) -> bool:
        """Look whether it is, unless another process does so."""
        version = self._version
        until = self._now() + PROBING
        if not await self._change(lambda it: replace(it, probing=until), only=version):
            return False
        if probe is None:
            return True  # the call itself will tell
        share = await self._budget.take(1, FRESH)
        try:
            await probe()
            await self._budget.settle(share, 1)
        except (TextRejected, EmbedderRefused):
            pass
        except RetryAfter as error:
            await self._waits(error)
            return False
        except EmbedderError as error:
            await self._failed(str(error))
            return False
        await self._works()
        return True

    # --- what is known of it ----------------------------------------------------------------

    async def _waits(self, error: RetryAfter) -> None:
        until, why = self._now() + max(error.seconds, 0.1), check.storable(error.reason)
        await self._change(lambda it: it.waits(until, why))
        if error.counts:
            await self._failed(error.reason)

    async def _failed(self, why: str, at_least: int = 0) -> None:
        told = check.storable(why)  # the server's own words, which may hold anything
        await self._change(lambda it: it.failed(self._now(), told, at_least))

    async def _works(self) -> None:
        if self._health.failures:
            await self._change(Health.works)

    async def _look(self) -> Health:
        if self._now() - self._read_at >= FRESH:
            try:
                found = (await self._values.read(SPACE, [self._provider])).get(self._provider)
            except StoreError:
                return self._health  # whoever has to do with the jobs will notice
            self._version = 0 if found is None else found.version
            self._health = Health() if found is None else msgspec.convert(found.value, Health)
            self._read_at = self._now()
        return self._health

    async def _change(self, change: Callable[[Health], Health], only: int | None = None) -> bool:
        """Change what all know; `only`: as long as it is at this version. Without the store, what this process knows."""
        while True:
            changed = change(self._health)
            try:
                value = msgspec.to_builtins(changed)
                version = await self._values.write(SPACE, self._provider, value, expect=self._version)
            except StoreError:
                self._health = changed
                return True
            if version is not None:
                self._health, self._version, self._read_at = changed, version, self._now()
                return True
            self._read_at = -FRESH
            await self._look()
            if only is not None:
                return False

    # --- tokens -----------------------------------------------------------------------------

    def _estimate(self, texts: Sequence[str]) -> int:
        return 1 + int(self._tokens_per_byte * sum(len(text.encode()) for text in texts))

    def _learned(self, texts: Sequence[str], tokens: int) -> int:
        """What a call cost, as far as the provider tells; the next estimates are the better for it."""
        if tokens:
            told = tokens / max(1, sum(len(text.encode()) for text in texts))
            self._tokens_per_byte = max(told, 0.9 * self._tokens_per_byte)
        return tokens or self._estimate(texts)
