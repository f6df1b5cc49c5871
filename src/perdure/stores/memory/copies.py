"""Copies of jobs that share nothing that can be changed."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.domain.job import Entry, Job
from perdure.domain.record import Json

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def own(job: Job) -> Job:
    """A copy that shares nothing that can be changed, as if it had been to a database and back."""
    progress = job.progress and replace(job.progress, counts=dict(job.progress.counts))
    return replace(
        job,
        payload=_copy(job.payload),
        labels=dict(job.labels),
        progress=progress,
        checkpoint=_copy(job.checkpoint),
        questions=tuple(
            replace(question, default=_copy(question.default), answer=_copy(question.answer))
            for question in job.questions
        ),
        result=_copy(job.result),
    )


def own_entry(entry: Entry) -> Entry:
    """A copy, as of `own`."""
    return replace(entry, detail=_copy(entry.detail))


def _copy(value: Json) -> Any:
    """The same JSON, made anew."""
    return _decode(_encode(value))
