"""Perdure: documents become searchable vectors through jobs that survive anything.

The names below are loaded when they are first used: importing `perdure` imports no driver, no model and no
web framework.
"""

from __future__ import annotations

from importlib import import_module

# `typing` takes longer to import than all the rest of this file; type checkers know the name.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from perdure.app import App, open
    from perdure.domain.errors import Fatal, LeaseLost, PerdureError, RetryAfter
    from perdure.domain.job import Job, NewJob
    from perdure.domain.retry import RetryPolicy
    from perdure.domain.state import JobState
    from perdure.tracking import tracker
    from perdure.vectorization_pipeline import VectorizationPipeline

__all__ = [
    "App",
    "Fatal",
    "Job",
    "JobState",
    "LeaseLost",
    "NewJob",
    "PerdureError",
    "RetryAfter",
    "RetryPolicy",
    "VectorizationPipeline",
    "open",
    "tracker",
]

_HOMES = {
    "App": "perdure.app",
    "open": "perdure.app",
    "Fatal": "perdure.domain.errors",
    "LeaseLost": "perdure.domain.errors",
    "PerdureError": "perdure.domain.errors",
    "RetryAfter": "perdure.domain.errors",
    "Job": "perdure.domain.job",
    "NewJob": "perdure.domain.job",
    "RetryPolicy": "perdure.domain.retry",
    "JobState": "perdure.domain.state",
    "tracker": "perdure.tracking",
    "VectorizationPipeline": "perdure.vectorization_pipeline",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
