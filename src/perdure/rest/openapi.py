"""The description of the calls (OpenAPI 3.1): what the framework cannot derive by itself."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel

from perdure.domain.job import DEFAULT_TENANT
from perdure.domain.validation import NAME
from perdure.problems import KINDS
from perdure.rest.bodies import TextRequest, UploadFields
from perdure.rest.problems import MEDIA_TYPE, Problem
from perdure.wire import EventLine

VERSION: Final = "1"
"""Of the API, as in its paths; not of the package."""

ABOUT: Final = """\
Documents become searchable vectors through durable jobs.

`POST /v1/ingest` takes a document and answers at once; `GET /v1/status/{id}` tells how far it has come; `POST /v1/search` finds it.

Errors are RFC 9457 problems: branch on `type`, show `detail`. Every `type` leads to a page that explains it.
"""

TAGS: Final = [
    {
        "name": "documents",
        "description": "Documents in, their state, found by meaning and words, and out again.",
    },
    {"name": "jobs", "description": "Durable jobs of any kind."},
    {"name": "webhooks", "description": "Who else is told what happens to jobs."},
    {"name": "feeds", "description": "Sources that start jobs by themselves."},
    {"name": "probes", "description": "For whoever runs the server."},
]
_REF: Final = "#/components/schemas/"
_told: Final[dict[type[msgspec.Struct], None]] = {EventLine: None}
"""What calls answer, and what the events of a stream hold."""

_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`pdk_…`), or a token of the issuer that the server trusts. A server without keys asks for none.",
}
_DOOR: Final = (
    {
        "name": "x-tenant",
        "in": "header",
        "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        "description": "Whose jobs and documents are meant: the credential's own, and needless. Where nobody is asked for a "
        f"credential: any, default `{DEFAULT_TENANT}`. Nobody sees another tenant's.",
    },
    {
        "name": "x-actor",
        "in": "header",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "description": "Who acts, as the client says; kept in the job's history.",
        "example": "ann",
    },
)
"""What the gate reads of every call (`perdure.rest.context.admit`); the framework need not look at it again."""

_MAKERS: Final = (
    ("/v1/ingest", "202", {"job_id": "job_id", "document_id": "document_id"}),
    ("/v1/jobs", "202", {"job_id": "id"}),
    ("/v1/webhooks", "201", {"webhook_id": "id"}),
)
"""Calls that make things (POST), the answer that says so, and where in it stands what other calls have in their path."""


class Api(FastAPI):
    """The framework's application, whose description also has what goes out."""

    def openapi(self) -> dict[str, Any]:
        """Describe all calls; made once."""
        if self.openapi_schema is None:
            _, schemas = msgspec.json.schema_components(_told, ref_template=f"{_REF}{{name}}")
            whole = super().openapi()
            whole["components"]["schemas"] |= schemas
            whole["components"]["securitySchemes"] = {"key": _KEY}
            guarded = (item for path, item in whole["paths"].items() if path.startswith(("/v1/", "/api/")))
            for operation in (operation for item in guarded for operation in item.values()):
                operation["parameters"] = [*operation.get("parameters", []), *_DOOR]
                operation["security"] = [{"key": []}]
            _link(whole["paths"])
        return super().openapi()


def _link(paths: dict[str, Any]) -> None:
    """Tell of each call that makes something what can be done with it (OpenAPI links)."""
    for maker, status, parts in _MAKERS:
        paths[maker]["post"]["responses"][status]["links"] = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {name: f"$response.body#/{field}"},
            }
            for name, field in parts.items()
            for path, item in paths.items()
            if f"{{{name}}}" in path
            for operation in item.values()
        }


def answers(answer: type[msgspec.Struct] | None, *problems: int, status: int = 200) -> dict[int | str, Any]:
    """Describe what a call answers, and the problems beside those that any call may end in."""
    good = {status: _content("Done", "application/json", answer)} if answer else {}
    bad = {
        status: _content(
            " / ".join(kind.title for kind in KINDS.values() if kind.status == status), MEDIA_TYPE, Problem
        )
        for status in sorted({400, 401, 403, 429, 500, 503, *problems})
    }
    # `default` also keeps the framework from describing its own error shape, which is never sent.
    return good | bad | {"default": _content("Any other problem", MEDIA_TYPE, Problem)}


def ingest_body() -> dict[str, Any]:
    """Describe the body of POST /v1/ingest, which comes in two forms."""
    form = _schema(UploadFields)
    form["properties"]["file"] = {
        "type": "string",
        "contentMediaType": "application/octet-stream",
        "description": "The document. It is stored as it arrives.",
    }
    form["required"] = ["file"]
    content = {
        "application/json": {"schema": _schema(TextRequest)},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "content": content}}


def stream(*problems: int) -> dict[int | str, Any]:
    """Describe a call that answers with events."""
    text = {"type": "string", "description": "Server-sent events; `data` of each is an EventLine as JSON."}
    good = {"description": "Events", "content": {"text/event-stream": {"schema": text}}}
    return {200: good, **answers(None, *problems)}


def batch_body() -> dict[str, Any]:
    """Describe the body of POST /v1/jobs/batch: lines, of which a schema can describe one."""
    text = {
        "type": "string",
        "description": "One JSON object a line, each as in POST /v1/jobs, with `idempotency_key`.",
    }
    return {"requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": text}}}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(ref_template=f"{_REF}{{model}}")


def _content(description: str, media_type: str, model: type[msgspec.Struct]) -> dict[str, Any]:
    _told[model] = None
    schema = {"$ref": f"{_REF}{model.__name__}"}
    return {"description": description, "content": {media_type: {"schema": schema}}}
