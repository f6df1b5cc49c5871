"""What every call needs: the app, the tenant, the idempotency key, paths that work behind a prefix, and an answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final, TypeVar, cast

import msgspec
from fastapi import Depends, Header, HTTPException, Path, Request, Response
from fastapi.routing import APIRoute

from perdure.app import App
from perdure.domain import validation as check
from perdure.domain.access import Caller, Scope

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_READS: Final = frozenset({"GET", "HEAD"})
# All of these are coroutines, for the framework runs plain functions in a thread, which costs a call more than all the rest.


async def _app(request: Request) -> App:
    return app_of(request)


def app_of(request: Request) -> App:
    """The app that a request is for."""
    return cast(App, request.app.state.perdure)


class Guarded(APIRoute):
    """A call that lets its caller in before anything else is read or checked: to look with GET, or where it `looks`, else
    to write.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, behind the gate."""
        handle = super().get_route_handler()
        only_looks = (self.methods or {""}) <= _READS or getattr(self.endpoint, "looks", False)
        scope = getattr(self.endpoint, "scope", Scope.READ if only_looks else Scope.WRITE)
        quick = getattr(self.endpoint, "quick", None)

        async def guarded(request: Request) -> Response:
            request.state.caller = await admit(request, scope)
            if quick is None or request.scope["query_string"]:
                return await handle(request)
            await _json_only(request)
            return cast(Response, await quick(request))

        return guarded


async def admit(request: Request, scope: Scope) -> Caller:
    """Check the credential of a request, and that the tenant which it names is the credential's.

    Raises:
        InvalidInput: a header does not fit. Unauthenticated, Forbidden, RateLimited: see `Gate.admit`.
    """
    word, _, credential = request.headers.get("authorization", "").partition(" ")
    actor = request.headers.get("x-actor")
    tenant = request.headers.get("x-tenant")
    if tenant is None and request.scope["route"].path.startswith("/api/"):
        tenant = request.query_params.get("tenantId")  # as those calls name it
    return await app_of(request).gate.admit(
        credential.strip() if word.lower() == "bearer" else None,
        scope,
        tenant=tenant,
        actor=actor,
    )


def looks(endpoint: Endpoint) -> Endpoint:
    """Mark a call that only looks although it is a POST."""
    endpoint.looks = True  # type: ignore[attr-defined]
    return endpoint


def quickly(answer: Callable[[Request], Coroutine[Any, Any, Response]]) -> Callable[[Endpoint], Endpoint]:
    """Let `answer` answer whoever sends no query parameters: what the framework does before it calls takes longer."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.quick = answer  # type: ignore[attr-defined]
        return endpoint

    return mark


async def _tenant(request: Request) -> str:
    return tenant_of(request)


def tenant_of(request: Request) -> str:
    """The tenant that the caller may see."""
    return cast(Caller, request.state.caller).tenant


async def _actor(request: Request) -> str:
    return cast(Caller, request.state.caller).actor


async def _idempotency_key(
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Repeating a request with the same key adds nothing and answers with the same id. Keys belong "
            "to a tenant and live as long as the job.",
            examples=["order-4711"],
            json_schema_extra={"minLength": 1},
        ),
    ] = None,
) -> str | None:
    return None if idempotency_key is None else check.text(idempotency_key, "Idempotency-Key")


def media_type_of(request: Request) -> str:
    """The content type of the body, without its parameters, in lower case; empty if none was sent."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _json_only(request: Request) -> None:
    """Refuse a body of another content type. It also keeps foreign web pages out: JSON needs a CORS preflight."""
    if (sent := media_type_of(request)) not in {"", "application/json"}:
        raise HTTPException(415, f"the body is {sent}; send application/json")


def path_of(request: Request, path: str) -> str:
    """The path under which a client reaches `path`, also where this application is mounted under a prefix."""
    return f"{request.scope.get('root_path', '')}{path}"


def reply(
    answer: msgspec.Struct,
    status: int = 200,
    *,
    location: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send an answer as JSON."""
    if location is not None:
        headers = {"Location": location}
    return Response(msgspec.json.encode(answer), status, headers, "application/json")


JobId = Annotated[str, Path(json_schema_extra={"format": "uuid"}, description="A UUID, in any spelling.")]
AppOf = Annotated[App, Depends(_app)]
TenantOf = Annotated[str, Depends(_tenant)]
ActorOf = Annotated[str, Depends(_actor)]
KeyOf = Annotated[str | None, Depends(_idempotency_key)]
JsonOnly = Depends(_json_only)
