"""What clients send. What a value may be is asked of the domain's own checks."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    WithJsonSchema,
)

from perdure.domain import validation as check
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import InvalidInput
from perdure.domain.job import DEFAULT_TTL
from perdure.domain.query import JobFilter
from perdure.domain.search import MAX_EFFORT, MAX_LIMIT
from perdure.domain.state import JobState


def _json(value: Any) -> Any:
    check.json_value(value, "the value")
    return value


def _some_text(text: str) -> str:
    if not text.strip():
        raise InvalidInput("there is no text in it")
    return text


def _ttl(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


Instant = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
"""ISO 8601 with any offset."""

AnyJson = Annotated[Any, AfterValidator(_json)]
"""A JSON value that every database can hold."""

JsonObject = Annotated[dict[str, Any], AfterValidator(_json)]

Line = Annotated[
    str,
    AfterValidator(lambda value: check.text(value, "the text")),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": check.MAX_TEXT}),
]
"""A text of 1 to 1,024 characters without NUL."""

Labels = Annotated[dict[Line, Line], Field(examples=[{"team": "hr"}])]

Priority = Annotated[int, Field(ge=-1000, le=1000, description="Higher is claimed sooner.")]

TtlSeconds = Annotated[float, Field(gt=0, le=100 * 366 * 86_400)] | None

State = Annotated[JobState, BeforeValidator(lambda value: "running" if value == "processing" else value)]
"""`processing` is taken as another word for `running`."""

Name = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{check.NAME.pattern}$"})]
"""A name as the domain takes it; the domain says what is wrong with another."""

Namespace = Annotated[
    Name,
    AfterValidator(lambda value: check.name(value, "namespace")),
    Field(description="The set of documents that is searched together.", examples=["handbook"]),
]


class Body(BaseModel):
    """Base of all: an unknown field is a typing error, not a wish."""

    model_config = ConfigDict(extra="forbid")


# --- documents ------------------------------------------------------------------------------


class _About(Body):
    """What may be said about a document, however it comes."""

    namespace: Namespace = DEFAULT_NAMESPACE
    document_id: Line | None = Field(
        None, description="Names the document for ever; a new version takes the place of the old one."
    )
    version: int | None = Field(
        None, ge=0, lt=2**63, description="Grows with every version; default: the microsecond of now."
    )
    chunking: Line | None = Field(
        None,
        description="How it is cut; default: as the server is set.",
        examples=["markdown:1200,overlap=100"],
    )
    user_id: Line | None = None
    created_by: Line | None = None
    priority: Priority = 0


class TextRequest(_About):
    """A text to ingest."""

    text: Annotated[str, AfterValidator(_some_text)] = Field(
        description="The document.", examples=["Leave is 30 days a year."]
    )
    media_type: Line = Field("text/plain", examples=["text/plain", "text/markdown", "text/html"])
    metadata: JsonObject | None = Field(
        None, description="Your own facts about it; searches filter by them.", examples=[{"lang": "en"}]
    )
    labels: Labels | None = Field(None, description="Free pairs, kept with the job.")


class UploadFields(_About):
    """The text fields of an upload, before its file or after it."""

    media_type: Line | None = Field(None, description="Default: what the file's part says, else its name.")
    encoding: Line | None = Field(
        None, description="Of the file's text; default: by byte order mark, else UTF-8."
    )
    metadata: Json[JsonObject] | None = Field(None, description="A JSON object.")
    labels: Json[Labels] | None = Field(None, description="A JSON object of texts.")


class SearchRequest(Body):
    """What to search for, and where."""

    query: str = Field(description="A question or some words.", examples=["how many days of leave?"])
    namespace: Namespace = DEFAULT_NAMESPACE
    limit: int = Field(10, ge=1, le=MAX_LIMIT)
    filter: JsonObject | None = Field(
        None,
        description='Which chunks may be hits, by metadata: `{"lang": "en"}`, `{"page": {"gte": 3, "lt": 9}}`, '
        '`{"lang": {"in": ["en", "de"]}}`, `{"any": […]}`, `{"all": […]}`, `{"not": {…}}`; several keys must all match.',
        examples=[{"lang": "en"}],
    )
    document_ids: list[Line] = Field([], max_length=1000, description="Only chunks of these; empty: of all.")
    mode: Literal["hybrid", "vector", "text"] = Field(
        "hybrid", description="By meaning and by words, by meaning only, or by words only."
    )
    threshold: float | None = Field(
        None, ge=-1, le=1, description="With mode `vector`: the least cosine similarity of a hit."
    )
    effort: int | None = Field(
        None,
        ge=1,
        le=MAX_EFFORT,
        description="How hard an approximate index looks (HNSW's `ef_search`, at most 1,000, or IVFFlat's `probes`), where "
        "the namespace has one; default: as the store is set.",
    )


# --- jobs -----------------------------------------------------------------------------------


class JobRequest(Body):
    """A job of a registered kind. Documents do not come this way, but through POST /v1/ingest."""

    kind: Name = Field(description="Names the handler.", examples=["transcribe"])
    payload: JsonObject = Field({}, description="The handler's arguments.", examples=[{"video_url": "v.mp4"}])
    run_at: Instant | None = Field(None, description="Not before this moment.")
    priority: Priority = 0
    max_attempts: int | None = Field(None, ge=1, le=check.MANY, description="Default: what the handler says.")
    max_rescues: int = Field(
        3, ge=0, le=check.MANY, description="How many deaths of its worker the job survives."
    )
    user_id: Line | None = None
    document_id: Line | None = None
    created_by: Line | None = None
    labels: Labels = Field({})
    ttl_seconds: TtlSeconds = Field(
        DEFAULT_TTL.total_seconds(),
        description="How long the job can be looked up after its end; null: for ever.",
    )

    unique_for_seconds: TtlSeconds = Field(
        None,
        description="How long the `Idempotency-Key` holds from now on, at most `ttl_seconds`; null: while the job can be looked up.",
    )

    def options(self) -> dict[str, Any]:
        """All but kind and payload, as the fields of a `NewJob`."""
        given = self.model_dump(exclude={"kind", "payload", "ttl_seconds", "unique_for_seconds"})
        return given | {"ttl": _ttl(self.ttl_seconds), "unique_for": _ttl(self.unique_for_seconds)}


class BatchLine(JobRequest):
    """One line of a batch."""

    idempotency_key: Line | None = Field(
        None, description="Default: the call's `Idempotency-Key`, and the line's number."
    )

    def options(self) -> dict[str, Any]:
        """The arguments of `App.submit`."""
        return {"kind": self.kind, "payload": self.payload, **super().options()}


class EmbeddingQuery(Body):
    """Which embedding jobs to list."""

    tenantId: Line | None = Field(None, description="The credential's own.")  # noqa: N815  # the name on the wire
    status: Literal["pending", "processing", "completed", "failed"] | None = None
    limit: int = Field(50, ge=1, le=1000)
    cursor: str | None = Field(None, description="`nextCursor` of the page before.")


class JobQuery(Body):
    """Which jobs to list; every filter narrows."""

    status: list[State] = Field(
        [], description="May be repeated. `processing` is another word for `running`."
    )
    kind: list[Line] = Field([], description="May be repeated.")
    document_id: Line | None = None
    user_id: Line | None = None
    created_from: Instant | None = Field(None, description="Inclusive.")
    created_before: Instant | None = Field(None, description="Exclusive.")
    sort: Literal["created_at", "-created_at"] = Field(
        "-created_at", description="`-created_at`: newest first; `created_at`: oldest first."
    )
    limit: int = Field(50, ge=1, le=1000)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")

    def filter(self, tenant: str) -> JobFilter:
        """The filter that it describes, within a tenant."""
        same = self.model_dump(exclude={"status", "kind", "sort", "limit", "cursor"})
        return JobFilter(
            tenant=tenant,
            states=tuple(self.status),
            kinds=tuple(self.kind),
            oldest_first=self.sort == "created_at",
            **same,
        )


class CancelRequest(Body):
    """Why a job is called off."""

    reason: Line = Field("", examples=["wrong file"])


class RespondRequest(Body):
    """The answer to a job's question."""

    answer: AnyJson = Field(
        description="One of the choices, or what fits the schema, where the question has any.",
        examples=["yes"],
    )
    key: Line | None = Field(None, description="Which question is meant; without it, the last one.")


class EditRequest(Body):
    """What may be changed by hand while a job is unfinished; what is left out stays."""

    priority: Priority | None = None
    labels: Labels | None = Field(None, description="Replaces all labels.")
    run_at: Instant | None = Field(None, description="Puts a pending job off, or brings it forward.")
    max_attempts: int | None = Field(None, ge=1, le=check.MANY)
    max_rescues: int | None = Field(None, ge=0, le=check.MANY)
    ttl_seconds: TtlSeconds = Field(None, description="null: for ever.")

    def changes(self) -> dict[str, Any]:
        """What was given, as the arguments of `JobService.edit`."""
        given = self.model_dump(exclude_unset=True)
        if "ttl_seconds" in given:
            given["ttl"] = _ttl(given.pop("ttl_seconds"))
        return given


class StatsQuery(Body):
    """Whose jobs, or which, to count."""

    user_id: Line | None = None
    document_id: Line | None = None


class ProgressRequest(Body):
    """How far a running job has come."""

    fraction: float | None = Field(None, ge=0, le=1, description="null: not known.")
    message: Annotated[str, Field(max_length=1024)] = ""
    counts: dict[Line, int] = Field({}, description="Counters to add to those told before.")
    epoch: int | None = Field(
        None,
        description="The run that is meant, as its handler knows it; a report about an older one is refused.",
    )
