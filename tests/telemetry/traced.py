"""A process that traces: `python -m tests.telemetry.traced FOLDER submit|work`. Its spans go to stdout, an object a line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import perdure
from perdure.domain.query import JobFilter


class Lines(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            assert span.context is not None
            told = {
                "name": span.name,
                "trace": span.context.trace_id,
                "id": span.context.span_id,
                "parent": None if span.parent is None else span.parent.span_id,
                "begun": span.start_time,
                "job": dict(span.attributes or {}).get("perdure.job"),
            }
            print(json.dumps(told), flush=True)
        return SpanExportResult.SUCCESS


async def main(folder: Path, what: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Lines()))
    trace.set_tracer_provider(provider)
    url = f"sqlite:///{folder / 'perdure.db'}"
    async with perdure.open(url, embedder="hashing", worker=what == "work") as app:
        if what == "submit":
            with trace.get_tracer("caller").start_as_current_span("request"):
                text = " ".join(f"Leave is {days} days a year." for days in range(2500))
                await app.ingest_text(text, document_id="handbook", chunking="recursive:100")
        else:
            [job] = (await app.jobs.page(JobFilter(tenant="default"))).jobs
            await app.wait(job.id, timeout=60)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
