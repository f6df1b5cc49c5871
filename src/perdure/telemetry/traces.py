"""OpenTelemetry spans of a job, from its submission to what its run does, in whatever processes.

The W3C trace context travels in the job's labels (`traceparent`, `tracestate`), where the job's own code never meets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from perdure.domain.job import Job

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


def tracing() -> Tracing | None:
    """What makes spans; None where OpenTelemetry is not installed, or no provider has been set: then none is made."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    return Tracing(provider.get_tracer("perdure"))


class Tracing:
    """See `perdure.core.jobs.Tracing`."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._kind, self._context = tracer, SpanKind, TraceContextTextMapPropagator()

    @contextmanager
    def submitting(self, number: int) -> Iterator[dict[str, str]]:
        """Around the adding of jobs; gives the labels that they carry."""
        told = {"messaging.batch.message_count": number}
        with self._tracer.start_as_current_span("perdure.submit", kind=self._kind.PRODUCER, attributes=told):
            carried: dict[str, str] = {}
            self._context.inject(carried)
            yield carried

    @contextmanager
    def running(self, job: Job) -> Iterator[None]:
        """Around a run; the time until it was claimed becomes a span, too."""
        parent = self._context.extract(job.labels)
        begun = job.started_at or job.updated_at
        told: dict[str, str | int] = {
            "perdure.job": job.id,
            "perdure.kind": job.kind,
            "perdure.tenant": job.tenant,
            "perdure.run": job.epoch,
        }
        since = job.created_at if job.epoch == 1 else begun
        claim = self._tracer.start_span(
            "perdure.claim", parent, attributes=told, start_time=_nanoseconds(since)
        )
        claim.end(_nanoseconds(begun))
        with self._tracer.start_as_current_span("perdure.run", parent, self._kind.CONSUMER, attributes=told):
            yield

    def span(self, name: str) -> AbstractContextManager[object]:
        """A step of the run."""
        return self._tracer.start_as_current_span(f"perdure.{name}")


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
