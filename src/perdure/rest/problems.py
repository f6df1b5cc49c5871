"""Errors on the wire: every error becomes an RFC 9457 problem document of one kind, all of which one table lists."""

from __future__ import annotations

import json
import logging
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from perdure.domain.errors import NotFound, PerdureError, RetryAfter
from perdure.domain.record import Record
from perdure.problems import KINDS, RETRY_SECONDS, Kind, kind_of

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"


def kind_of_status(status: int) -> Kind:
    """Which kind of problem an HTTP error is that the framework raised."""
    fallback = KINDS["invalid-request" if status < 500 else "internal-error"]
    return next((kind for kind in KINDS.values() if kind.status == status), fallback)


class Fault(Record):
    """One field that does not fit."""

    field: str
    message: str


class Problem(Record, omit_defaults=True):
    """RFC 9457.

    Attributes:
        type: identifies the kind; a page on this server explains it.
        detail: what was expected, what came, what to do.
        instance: the path that was called.
        errors: all fields that do not fit, of a request that is not valid.
        parts: part → `ok` or what it is, of a server that is not ready.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[Fault] = msgspec.field(default_factory=list)
    parts: dict[str, str] = msgspec.field(default_factory=dict)


def problem(
    slug: str, detail: str, path: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """Render one problem.

    Args:
        slug: of its kind.
        detail: what was expected, what came, what to do.
        path: that was called, decoded.
        members: further members of the document.
    """
    kind = KINDS[slug]
    document = Problem(
        type=kind.type, title=kind.title, status=kind.status, detail=detail, instance=quote(path), **members
    )
    # ASCII only: `detail` may quote what came in, and a lone surrogate has no UTF-8 form.
    return Response(json.dumps(msgspec.to_builtins(document)), kind.status, headers, MEDIA_TYPE)


def install(api: FastAPI) -> None:
    """Make every error that a call raises a problem, and serve the page of each kind."""
    api.add_exception_handler(PerdureError, _on_perdure_error)
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_api_route("/problems/{slug}", page, methods=["GET"], include_in_schema=False)


async def page(slug: str) -> PlainTextResponse:
    """Serve what a problem's `type` leads to."""
    if slug not in KINDS:
        raise NotFound(f"no kind of problem is named {slug!r}; there are: {', '.join(KINDS)}")
    kind = KINDS[slug]
    return PlainTextResponse(f"{kind.title} ({kind.status})\n\n{kind.about}\n")


def unexpected(error: Exception, method: str, path: str) -> Response:
    """Log an error that nobody foresaw, and answer without its internals."""
    log.error("%s %s failed", method, path, exc_info=error)
    return problem("internal-error", KINDS["internal-error"].remedy, path)


async def _on_perdure_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PerdureError)
    kind = kind_of(error)
    path = request.scope["path"]
    if kind.slug == "internal-error":
        return unexpected(error, request.method, path)
    headers = {"Retry-After": _seconds(error)} if kind.status in {429, 503} else {}
    if kind.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="perdure"'
    if kind.status < 500:
        return problem(kind.slug, str(error), path, headers=headers)
    # What a database or a provider says may name hosts and paths: it goes to the log, not to the client.
    log.error("%s %s: %s: %s", request.method, path, type(error).__name__, error)
    return problem(kind.slug, kind.about, path, headers=headers)


def _seconds(error: PerdureError) -> str:
    return str(max(1, math.ceil(error.seconds)) if isinstance(error, RetryAfter) else RETRY_SECONDS)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Render what the framework refused: an unknown path, a wrong method, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    headers = dict(error.headers or {})
    if error.status_code == 405 and (methods := _methods(request)):
        headers["Allow"] = ", ".join(methods)  # the framework names those of one route alone
    detail = {
        400: "the body cannot be read; expected JSON in UTF-8, not nested thousands of levels deep",
        404: f"there is no call {path}; GET /openapi.json lists all of them",
        405: f"{path} does not take {request.method}; the header Allow lists what it takes",
    }.get(error.status_code, str(error.detail))
    return problem(kind_of_status(error.status_code).slug, detail, path, headers=headers)


def _methods(request: Request) -> list[str]:
    """What a path takes by the description; nothing where it is not there."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    paths: Mapping[str, Mapping[str, Any]] = request.app.openapi()["paths"]
    fits = (item for name, item in paths.items() if re.fullmatch(re.sub(r"{\w+}", "[^/]+", name), path))
    return sorted(map(str.upper, paths.get(path) or next(fits, {})))


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Render what a body's model refused: the first fault in `detail`, all of them in `errors`."""
    assert isinstance(error, RequestValidationError)
    faults = [Fault(field=_field(fault["loc"]), message=_message(fault)) for fault in error.errors()]
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    detail = f"{first.field}: {first.message}{more}"
    return problem("invalid-request", detail, request.scope["path"], errors=faults)


def _field(place: Sequence[str | int]) -> str:
    """Name the place of a fault: `metadata.page`, or `body` where it is the whole of it."""
    inner = place[1:] if place[:1] and place[0] in {"body", "query", "path", "header"} else place
    if len(inner) == 1 and isinstance(inner[0], int):  # where the body stops being JSON
        return "body"
    return ".".join(str(part) for part in inner) or "body"


def _message(fault: Mapping[str, Any]) -> str:
    match fault["type"]:
        case "json_invalid":
            return f"is not valid JSON ({fault.get('ctx', {}).get('error', 'cut short')})"
        case "missing":
            return "is required and was not given"
        case "extra_forbidden":
            return "is not known here; remove it, or look for a typing error"
        case "value_error":  # said by one of the domain's own checks, with its remedy
            return str(fault["ctx"]["error"])
        case _:
            return f"{fault['msg']}; got {reprlib.repr(fault.get('input'))}"
