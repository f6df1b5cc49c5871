"""The kinds of problems that faces tell of, in one table: a name for ever, a status, which errors, what to do."""

from __future__ import annotations

import inspect
from typing import Final, NamedTuple

from perdure.domain import errors
from perdure.domain.errors import NotFound, PerdureError, RetryAfter

RETRY_SECONDS: Final = 2
"""What `Retry-After` says where nothing better is known."""


class Kind(NamedTuple):
    """One kind of problem, with the page that its `type` leads to.

    Attributes:
        slug: names it for ever; clients may branch on ``/problems/<slug>``.
        errors: which of Perdure's errors are of this kind; those that derive from them are too.
        remedy: what to do, for people, beside what the first error's docstring says.
    """

    slug: str
    status: int
    errors: tuple[type[PerdureError], ...] = ()
    remedy: str = ""

    @property
    def type(self) -> str:
        """The relative URI reference that identifies the kind."""
        return f"/problems/{self.slug}"

    @property
    def title(self) -> str:
        """The slug, readable."""
        return self.slug.replace("-", " ").capitalize()

    @property
    def about(self) -> str:
        """What it means and what to do, for people."""
        meaning = inspect.getdoc(self.errors[0]) if self.errors else ""
        return f"{meaning} {self.remedy}".strip()


_LOGGED = "The server's log has the cause."
_REPEAT = (
    "Repeat it after the seconds in `Retry-After`, with the same Idempotency-Key where it adds something."
)

KINDS: Final = {
    kind.slug: kind
    for kind in (
        Kind(
            "invalid-request",
            400,
            (errors.InvalidInput, errors.TextRejected),
            "`detail` names the first fault; `errors`, where present, lists all of them.",
        ),
        Kind("unreadable-document", 400, (errors.DocumentError,), "Or name its encoding."),
        Kind(
            "unauthenticated",
            401,
            (errors.Unauthenticated,),
            "Send a key as the header `Authorization: Bearer pdk_…`; `perdure keys create` makes one.",
        ),
        Kind(
            "forbidden",
            403,
            (errors.Forbidden,),
            "Leave `X-Tenant` out, or use a key of that tenant or of that scope.",
        ),
        Kind(
            "cross-site-request", 403, (), "A browser sent this for another site's page, which may only read."
        ),
        Kind("not-found", 404, (NotFound,), "GET /openapi.json lists all calls."),
        Kind("method-not-allowed", 405, (), "The header `Allow` lists the methods that this path takes."),
        Kind("too-slow", 408, (), "Send the body without long pauses."),
        Kind("illegal-transition", 409, (errors.IllegalTransition,), "Read the job again, then decide."),
        Kind("superseded", 409, (errors.StaleWrite,)),
        Kind("model-mismatch", 409, (errors.ModelMismatch,), "Use the same embedder, or a new namespace."),
        Kind("too-large", 413, (), "Send a long text as an upload, or split the document."),
        Kind(
            "unsupported-media-type",
            415,
            (errors.UnsupportedFormat,),
            "Bodies are application/json; documents may also be sent as multipart/form-data.",
        ),
        Kind(
            "misdirected-request", 421, (), "Call this server by its loopback name, 127.0.0.1 or localhost."
        ),
        Kind("idempotency-conflict", 422, (errors.IdempotencyConflict,)),
        Kind("rate-limited", 429, (errors.RateLimited,), "Call again after the seconds in `Retry-After`."),
        Kind(
            "quota-exceeded",
            429,
            (errors.QuotaExceeded,),
            "`perdure serve` is set so by PERDURE_MAX_PENDING_JOBS and PERDURE_MAX_CHUNKS.",
        ),
        Kind("internal-error", 500, (PerdureError,), f"Something went wrong inside the server. {_LOGGED}"),
        Kind("store-error", 500, (errors.StoreError,), _LOGGED),
        Kind(
            "embedder-refused",
            502,
            (errors.EmbedderRefused,),
            f"Check PERDURE_EMBEDDER and PERDURE_EMBEDDER_KEY. {_LOGGED} `mode=text` needs no embedder.",
        ),
        Kind("store-unavailable", 503, (errors.StoreUnavailable,), _REPEAT),
        Kind(
            "embedder-unavailable",
            503,
            (errors.EmbedderError, RetryAfter),
            f"{_REPEAT} `mode=text` needs none.",
        ),
        Kind("not-ready", 503, (), "A part that the server needs does not answer, or it stops; see `parts`."),
    )
}
"""slug → kind; the first of a status stands for errors of which only the status is known."""

_OF_ERROR: Final = {error: kind for kind in KINDS.values() for error in kind.errors}


def kind_of(error: PerdureError) -> Kind:
    """Which kind of problem an error is: what its nearest base in the table is."""
    return next(_OF_ERROR[base] for base in type(error).__mro__ if base in _OF_ERROR)
