"""What Prometheus reads: what this process did to jobs, and a few cheap looks into the store at each scrape."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.core.cache import CachedJobStore
from perdure.core.feeds import Feeds
from perdure.core.jobs import JobService
from perdure.domain.errors import StoreError
from perdure.domain.packages import needed
from perdure.domain.state import Event, JobState
from perdure.domain.transition import STOPPED, Transition

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Of the histograms' buckets, in seconds."""
MAX_KINDS: Final = 100
"""Kinds that get numbers of their own; those of all others are told as of `other`."""
PATIENCE: Final = 5.0
"""Seconds that a scrape waits for the store."""


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class Metrics:
    """Counts as transitions go by, which costs a job about a microsecond; all else is done when somebody asks.

    Args:
        jobs: whose transitions are counted; also what it knows of lost leases.
        tokens: what the model has read: (tenant, model) → tokens.
    """

    def __init__(self, jobs: JobService, tokens: Mapping[tuple[str, str], int]) -> None:
        self._jobs, self._tokens = jobs, tokens
        self._events: Counter[tuple[str, Event]] = Counter()
        self._throttled: Counter[str] = Counter()
        self._runs: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self._waits: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        jobs.listeners.append(self._heed)

    def _heed(self, move: Transition) -> None:
        entry = move.entry
        if entry is None:
            return
        kind = move.after.kind
        self._events[kind, entry.event] += 1
        if entry.started_at is not None:
            self._runs[kind].add((entry.at - entry.started_at).total_seconds())
            if entry.epoch == 1:
                self._waits[kind].add((entry.started_at - move.after.created_at).total_seconds())
            if entry.event is Event.RELEASED and entry.detail.get("reason") != STOPPED:
                self._throttled[kind] += 1

    async def scrape(self) -> bytes:
        """All numbers, in Prometheus' text format.

        Raises:
            InvalidInput: its client is not installed.
        """
        with needed("metrics need", "telemetry"):
            from prometheus_client import ProcessCollector, generate_latest
        told = [*await self._of_store(), *self._of_process(), *ProcessCollector(registry=None).collect()]
        return generate_latest(_Told(told))

    def _of_process(self) -> Iterator[Metric]:
        events = Counter[tuple[str, ...]]()
        shown = _shown(kind for kind, _ in self._events)
        for (kind, event), number in self._events.items():
            events[shown[kind], event.value] += number
        tally = self._jobs.tally
        yield _counter("job_events", "What happened to jobs through this process.", ("kind", "event"), events)
        yield _histogram("job_run_seconds", "How long runs took, however they ended.", self._runs)
        yield _histogram("job_wait_seconds", "From a job's coming in to its first run.", self._waits)
        throttled: dict[tuple[str, ...], float] = {
            (kind,): number for kind, number in self._throttled.items()
        }
        yield _counter(
            "provider_throttled", "Runs put off because a provider asked to wait.", ("kind",), throttled
        )
        yield _counter(
            "lease_losses", "Jobs that were lost to somebody else while they ran.", (), {(): tally["lost"]}
        )
        tokens = Counter[tuple[str, ...]]()
        for (_, model), number in self._tokens.items():
            tokens[(model,)] += number
        yield _counter("embed_tokens", "What the model has read.", ("model",), tokens)
        if isinstance(store := self._jobs.store, CachedJobStore):
            cache = store.cache_stats
            answers: dict[tuple[str, ...], float] = {("hit",): cache.hits, ("miss",): cache.misses}
            yield _counter("cache_answers", "Looks at a job that the cache answered.", ("result",), answers)
            yield _gauge("cache_bytes", "What the cache holds.", (), {(): cache.size})

    async def _of_store(self) -> list[Metric]:
        try:
            async with asyncio.timeout(PATIENCE):
                stats = await self._jobs.stats(None)
                oldest = await self._jobs.oldest_due()
                feeds = await Feeds(self._jobs.store.values, self._jobs.clock.now).all()
        except (StoreError, TimeoutError) as error:
            log.warning("no numbers from the store: %s", str(error) or f"no answer within {PATIENCE} s")
            return [_gauge("store_up", "Whether the store answers.", (), {(): 0})]
        counts = Counter[tuple[str, ...]]()
        shown = _shown(stats.counts)
        for kind, states in stats.counts.items():
            for state in JobState:
                counts[shown[kind], state.value] += states.get(state, 0)
        age = 0.0 if oldest is None else max(0.0, (self._jobs.clock.now() - oldest).total_seconds())
        return [
            _gauge("store_up", "Whether the store answers.", (), {(): 1}),
            _gauge("jobs", "Jobs in the store; every process tells the same.", ("kind", "state"), counts),
            _gauge(
                "feed_lag_seconds",
                "From the last change at a feed's source to its reading.",
                ("feed",),
                {(feed.name,): feed.lag or 0.0 for feed in feeds},
            ),
            _counter(
                "feed_events",
                "What feeds told of.",
                ("feed", "event"),
                {
                    (feed.name, event): getattr(feed, event)
                    for feed in feeds
                    for event in ("upserts", "deletes", "parked")
                },
            ),
            _gauge("oldest_due_seconds", "For how long the longest-waiting job has been due.", (), {(): age}),
        ]


class _Told(NamedTuple):
    """What the client's writer takes for a registry."""

    metrics: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def _shown(kinds: Iterable[str]) -> dict[str, str]:
    """How kinds are called: the first ones as they are. Whoever may submit jobs must not fill Prometheus with names."""
    return {kind: kind if place < MAX_KINDS else "other" for place, kind in enumerate(dict.fromkeys(kinds))}


def _counter(
    name: str, about: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(f"perdure_{name}", about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, about: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(f"perdure_{name}", about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, about: str, values: Mapping[str, _Histogram]) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(f"perdure_{name}", about, labels=["kind"])
    bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
    for kind, histogram in values.items():
        counts = accumulate(histogram.counts)
        family.add_metric([kind], list(zip(bounds, counts, strict=True)), histogram.total)
    return family
