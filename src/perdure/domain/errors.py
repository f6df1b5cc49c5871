"""Every public exception. The text of an error says what was expected, what came, and what to do.

Adapters translate their vendor's exceptions into these at one gate, so that nothing above a leaf
ever sees a driver's class.
"""

from __future__ import annotations

LONGEST_WAIT = 365 * 86_400.0
"""Seconds of a year."""


class PerdureError(Exception):
    """Base of every error that Perdure raises on purpose."""


# --- what the caller gave -------------------------------------------------------------------


class InvalidInput(PerdureError, ValueError):
    """A value from outside does not fit; the message names the field, the value and the remedy."""


class UnknownKind(InvalidInput):
    """A job names a kind for which no handler is registered."""


class IdempotencyConflict(InvalidInput):
    """The idempotency key was used before for another request; use a new key for new content."""


# --- what is not there, or not allowed ------------------------------------------------------


class NotFound(PerdureError, LookupError):
    """No such job, document or namespace for this tenant (or it has expired)."""


class IllegalTransition(PerdureError):
    """The job's state does not allow this move (`perdure.domain.state.MOVES` is the whole table)."""


# --- at the door ----------------------------------------------------------------------------


class Unauthenticated(PerdureError):
    """The server asks for a credential, and there is none, or none that is good (any more)."""


class Forbidden(PerdureError):
    """The credential is good, but does not allow this: another tenant, or a wider scope."""


# --- ownership ------------------------------------------------------------------------------


class LeaseLost(PerdureError):
    """This worker no longer owns the job: its lease ran out, or the job was cancelled. Stop working on it."""


class StaleWrite(PerdureError):
    """A newer version of the document, or a newer run of this one, has taken over; nothing was changed."""


# --- stores ---------------------------------------------------------------------------------


class StoreError(PerdureError):
    """A store of jobs, vectors or blobs could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store did not answer; the call may or may not have gone through and is safe to repeat."""


class StoreCorrupt(StoreError):
    """What lies at the store's address is not a Perdure store, or is damaged."""


class Deferred(StoreUnavailable):
    """A store is away, so that it could not be done at once; it is noted, and will be done by the job `job_id`."""

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class SchemaMismatch(StoreError):
    """The store's schema is older or newer than this Perdure; the message says which and what to run."""


class CursorLost(StoreError):
    """The log is not kept as far back as this position any more; read on from its end, and look at the jobs themselves."""


# --- documents ------------------------------------------------------------------------------


class DocumentError(PerdureError):
    """A document cannot be turned into text. Trying again will not help: mend the document."""


class DocumentEmpty(DocumentError):
    """The document has no text in it."""


class DocumentUnreadable(DocumentError):
    """The document's bytes cannot be read: gone, forbidden, binary, or in another encoding."""


class UnsupportedFormat(DocumentError):
    """No parser is registered for this kind of file."""


# --- embedding ------------------------------------------------------------------------------


class EmbedderError(PerdureError):
    """The embedder failed in a way that may pass; the job is tried again."""


class EmbedderSpent(EmbedderError):
    """The account at the provider is used up: nobody is asked until it has been seen to answer again; then jobs go on by
    themselves.
    """


class TextRejected(EmbedderError):
    """The embedder will never take this text; the chunk fails for good and the others go on.

    Attributes:
        attempts: how often a batch with it was refused.
    """

    attempts = 1


class ModelMismatch(PerdureError):
    """The namespace was filled by another embedding model or dimension; vectors of two models do not compare."""


# --- handlers -------------------------------------------------------------------------------


class Fatal(PerdureError):
    """Raise it from a handler to fail the job at once: no attempt more would help."""


class EmbedderRefused(Fatal):
    """The embedder cannot be loaded, or refuses its key, model or options: somebody must mend its settings."""


class RetryAfter(PerdureError):
    """Raise it from a handler to be run again after `seconds`.

    Args:
        seconds: how long to wait, in seconds; more than a year is a year.
        reason: kept in the job's history.
        counts: whether this run counts as an attempt (a provider's 429 should not).
    """

    def __init__(self, seconds: float, reason: str = "asked to wait", *, counts: bool = False) -> None:
        super().__init__(reason)
        self.seconds = min(max(0.0, float(seconds)), LONGEST_WAIT)
        self.reason = reason
        self.counts = counts


class RateLimited(RetryAfter):
    """More calls a second than this key allows; go on after `seconds`."""


class QuotaExceeded(RetryAfter):
    """The tenant has as many pending jobs, or chunks, as it may; add more when some have run, or were deleted."""


class SlowFollower(PerdureError):
    """Events came faster than they were taken; follow again from the last one's position."""


class WaitTimeout(PerdureError, TimeoutError):
    """The job was not finished when the time was up; it goes on, so ask again later."""
