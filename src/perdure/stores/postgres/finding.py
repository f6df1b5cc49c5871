"""Lists and counts: which statement answers a filter, and its values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from msgspec.structs import replace

from perdure.domain.query import JobFilter
from perdure.domain.state import JobState

Statement: TypeAlias = tuple[str, Sequence[object]]

NEWEST: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
OLDEST: Final = "00000000-0000-0000-0000-000000000000"

CONDITIONS: Final = {
    "tenant": "tenant = ${}",
    "states": "state = ANY (${}::text[])",
    "kinds": "kind = ANY (${}::text[])",
    "user_id": "user_id = ${}",
    "document_id": "document_id = ${}",
    "created_from": "created_at >= ${}",
    "created_before": "created_at < ${}",
}
"""What each field of a filter asks for, where it is given."""

WALKED: Final = {**CONDITIONS, "states": "state || '' = ANY (${}::text[])"}
"""The same for a page that walks an index: it hides the state, lest the planner take to an index on some states."""

SUBJECTS: Final = ("document_id", "user_id")
"""What has few enough jobs to walk them."""


def page(queries: Mapping[str, str], query: JobFilter, limit: int, after: str | None) -> Statement:
    """The statement for a page."""
    text, values = _newest_first(queries, query, limit, after or (OLDEST if query.oldest_first else NEWEST))
    return (_turned(text) if query.oldest_first else text), values


def _newest_first(queries: Mapping[str, str], query: JobFilter, limit: int, after: str) -> Statement:
    """The statement for a page that walks down from `after`.

    A page of a tenant is put together from its lanes (kind, state), so that a rare state costs no more than a
    common one. All tenants together are walked from the newest job, unless only what runs is asked for.
    """
    if query.tenant is None:
        running = query.states == (JobState.RUNNING,)
        asked = replace(query, states=()) if running else query
        text, values = _where(queries["find_running" if running else "find"], WALKED, asked, after, limit)
        return f"{text} ORDER BY id DESC LIMIT $2", values
    for subject in SUBJECTS:
        if (value := getattr(query, subject)) is not None:
            rest = replace(query, tenant=None, **{subject: None})
            text, values = _where(
                queries[f"find_by_{subject}"], WALKED, rest, query.tenant, value, after, limit
            )
            return f"{text} ORDER BY tenant DESC, {subject} DESC, id DESC LIMIT $4", values
    kinds, states = list(query.kinds) or None, list(query.states) or None
    span = (query.created_from, query.created_before)
    return queries["find_in_lanes"], [query.tenant, after, limit, kinds, states, *span]


def count(queries: Mapping[str, str], query: JobFilter) -> Statement:
    """The statement for a number."""
    return _where(queries["count"], CONDITIONS, query)


def _turned(text: str) -> str:
    """A page's statement the other way round: what it compares with a place among ids, and its order."""
    other = {"<": ">", ">=": "<="}
    text = re.sub(r"(\bid|id\)|state\)) (<|>=) ", lambda found: f"{found[1]} {other[found[2]]} ", text)
    return text.replace(" DESC", "").replace(OLDEST, NEWEST)


def _where(statement: str, conditions: Mapping[str, str], query: JobFilter, *first: object) -> Statement:
    """Add to a statement, which has the values `first`, what else the filter asks for."""
    asked = {name: value for name in conditions if (value := getattr(query, name)) not in (None, ())}
    added = [conditions[name].format(place) for place, name in enumerate(asked, len(first) + 1)]
    values = [list(value) if isinstance(value, tuple) else value for value in asked.values()]
    return " AND ".join([statement, *added]), [*first, *values]
