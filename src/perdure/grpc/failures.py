"""Errors on the wire: a status, and details that a program can act on."""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from perdure.domain.errors import PerdureError, RetryAfter
from perdure.problems import KINDS, RETRY_SECONDS, kind_of

log = logging.getLogger(__name__)

DOMAIN: Final = "perdure"
_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.ALREADY_EXISTS,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    502: grpc.StatusCode.FAILED_PRECONDITION,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""The status for that of the same problem in HTTP."""


async def refuse(
    context: grpc.aio.ServicerContext[object, object], error: Exception, method: str
) -> NoReturn:
    """End a call with what went wrong: what a client may know, with the rest in the log."""
    kind = kind_of(error) if isinstance(error, PerdureError) else KINDS["internal-error"]
    message = str(error) or kind.about
    if kind.status >= 500:
        # What a database or a provider says may name hosts and paths: it goes to the log, not to the client.
        log.error("%s: %s: %s", method, type(error).__name__, error, exc_info=kind.status == 500)
        message = kind.about
    await end(context, kind.slug, message, error.seconds if isinstance(error, RetryAfter) else None)


async def end(
    context: grpc.aio.ServicerContext[object, object], slug: str, message: str, seconds: float | None = None
) -> NoReturn:
    """End a call with a problem of one kind."""
    kind = KINDS[slug]
    details = [ErrorInfo(reason=slug.replace("-", "_").upper(), domain=DOMAIN, metadata={"type": kind.type})]
    packed = [_packed(one) for one in details]
    if kind.status in {429, 503}:
        wait = Duration()
        wait.FromMilliseconds(round(1000 * (RETRY_SECONDS if seconds is None else seconds)))
        packed.append(_packed(RetryInfo(retry_delay=wait)))
    code = _CODES[kind.status]
    status = Status(code=code.value[0], message=message, details=packed)
    await context.abort_with_status(rpc_status.to_status(status))


def _packed(message: ErrorInfo | RetryInfo) -> Packed:
    packed = Packed()
    packed.Pack(message)
    return packed
