"""How a run ended, as a transition: the one place that turns exceptions into states."""

from __future__ import annotations

import traceback
from datetime import timedelta
from typing import cast

from perdure.core.context import Asked
from perdure.core.handlers import Handler, Partial
from perdure.domain import transition
from perdure.domain import validation as check
from perdure.domain.errors import DocumentError, Fatal, InvalidInput, ModelMismatch, RetryAfter, TextRejected
from perdure.domain.job import Failure, Job
from perdure.domain.record import Json
from perdure.domain.transition import Stamp, Transition

FATAL = (Fatal, DocumentError, InvalidInput, ModelMismatch, TextRejected)
"""Trying again cannot mend these."""

MAX_DETAIL = 4000


def returned(job: Job, result: object, stamp: Stamp) -> Transition:
    """The handler returned.

    Raises:
        InvalidInput: what it returned is no JSON.
    """
    failure = None
    if isinstance(result, Partial):
        failure = Failure(type="PartialFailure", message=check.storable(result.message))
        result = result.result
    check.json_value(result, f"the result of {job.kind!r}")
    return transition.complete(job, cast(Json, result), stamp, failure=failure)


def raised(job: Job, handler: Handler, error: BaseException, stamp: Stamp, chance: float) -> Transition:
    """The handler raised.

    Args:
        chance: uniform in [0, 1), for the jitter of the backoff.
    """
    match error:
        case Asked(question=question):
            return transition.ask(job, question, stamp)
        case RetryAfter(counts=False):
            wait = timedelta(seconds=error.seconds)
            return transition.release(job, stamp, delay=wait, reason=check.storable(error.reason))
        case RetryAfter():
            wait = timedelta(seconds=error.seconds)
            return transition.fail(job, describe(error), wait, stamp)
        case _:
            return transition.fail(job, describe(error), handler.retry.delay(job.attempt + 1, chance), stamp)


def describe(error: BaseException) -> Failure:
    """Turn an exception into a `Failure`."""
    fatal = isinstance(error, FATAL)
    # Our own errors say all in their message; of others the last frames are wanted too.
    detail = "" if fatal else "".join(traceback.format_exception(error))[-MAX_DETAIL:]
    message = str(error) or type(error).__name__
    return Failure(
        type=type(error).__name__,
        message=check.storable(message)[:MAX_DETAIL],
        fatal=fatal,
        detail=check.storable(detail),
    )
