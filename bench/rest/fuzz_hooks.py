"""What Schemathesis is told about Perdure's calls; it loads this file."""

from __future__ import annotations

from typing import Any

import msgspec
import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response, SerializationContext

FREE = ("/healthz", "/readyz")


@schemathesis.serializer("application/x-ndjson")
def lines(_: SerializationContext, value: Any) -> bytes:
    """Send what was made up as one line."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.hook
def before_call(_: HookContext, case: Case[Any], __: dict[str, Any]) -> None:
    """Wait for nothing long: what is asked is whether the answer fits."""
    try:
        if case.query and 0 < float(case.query["wait"]) <= 60:
            case.query["wait"] = 0.01
    except (KeyError, TypeError, ValueError):
        pass
    # Another tenant's name is refused before all else, and calls in a row are to get further.
    if case.meta and case.meta.phase.name.value == "stateful" and case.headers:
        case.headers.pop("x-tenant", None)


@schemathesis.check
def only_probes_answer(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Without a key, nothing but probes answers."""
    if case.operation.path not in FREE:
        assert response.status_code in {401, 405, 413}, f"{response.status_code} without a key"


@schemathesis.check
def errors_are_problems(_: CheckContext, response: Response, __: Case[Any]) -> None:
    """Every error is a problem document that is whole, and says nothing of the inside."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    told = msgspec.json.decode(response.content)
    assert told["type"].startswith("/problems/")
    assert told["status"] == response.status_code
    assert told["title"]
    assert told["detail"]
    assert "Traceback (most" not in response.text
