"""How chunks are asked for: queries, metadata filters, hits."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self, TypeAlias

from perdure.domain.document import Chunk, Document
from perdure.domain.errors import InvalidInput
from perdure.domain.record import Json, Record

Operator: TypeAlias = Literal["eq", "ne", "in", "gt", "gte", "lt", "lte"]

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
MAX_LIMIT: Final = 1000
MAX_EFFORT: Final = 32_768
"""As many lists as IVFFlat can have."""


class Compare(Record, tag="compare"):
    """One metadata key against a value. A chunk without the key matches only `ne`.

    `eq`, `ne` and `in` compare texts, numbers, booleans and null; ranges compare numbers with
    numbers and texts with texts. A boolean is never a number.
    """

    key: str
    op: Operator
    value: Json


class Every(Record, tag="every"):
    """All of the parts match; with none, everything does."""

    parts: tuple[Filter, ...]


class Some(Record, tag="some"):
    """At least one of the parts matches; with none, nothing does."""

    parts: tuple[Filter, ...]


class Not(Record, tag="not"):
    """The part does not match."""

    part: Filter


Filter: TypeAlias = Compare | Every | Some | Not


class SearchQuery(Record):
    """What to search for, and where.

    Attributes:
        vector: float32, little-endian; for search by meaning.
        text: words; for full text search.
        limit: 1 to 1,000 hits.
        where: which chunks may be hits, by the chunk's metadata overlaid by its document's
            `source_metadata` (of the same key, the document's counts).
        document_ids: only chunks of these; empty: of all.
        effort: how hard an approximate index looks, 1 to 32,768: HNSW's `ef_search` (more than
            1,000 counts as 1,000) or IVFFlat's `probes`. Ignored where the namespace is searched without one, which
            finds all; None: as the store is set up.
    """

    tenant: str
    namespace: str
    vector: bytes | None = None
    text: str | None = None
    limit: int = 10
    where: Filter | None = None
    document_ids: tuple[str, ...] = ()
    effort: int | None = None

    def __post_init__(self) -> None:
        if self.effort is not None and not 1 <= self.effort <= MAX_EFFORT:
            raise InvalidInput(f"effort is {self.effort}; expected 1 to {MAX_EFFORT}")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidInput(f"limit is {self.limit}; expected 1 to {MAX_LIMIT}")


class Hit(Record):
    """A chunk that was found, best first.

    Attributes:
        score: higher is better. By meaning: cosine similarity, -1 to 1. By words: BM25. Both: 0 to 1,
            see `perdure.pipeline.search.fuse`. Compare scores within one answer only.
        metadata: the document's `source_metadata`. chunk_metadata: the chunk's own (`heading`, `page`, …).
    """

    score: float
    document_id: str
    version: int
    ingestion_id: str
    chunk_id: str
    chunk_index: int
    chunk_text: str
    start: int
    end: int
    metadata: dict[str, Json]
    chunk_metadata: dict[str, Json]

    @classmethod
    def of(cls, score: float, document: Document, chunk: Chunk) -> Self:
        """A chunk of a document that readers see."""
        return cls(
            score=score,
            document_id=document.id,
            version=document.version,
            ingestion_id=document.ingestion_id,
            chunk_id=chunk.chunk_id,
            chunk_index=chunk.chunk_index,
            chunk_text=chunk.chunk_text,
            start=chunk.start,
            end=chunk.end,
            metadata=document.source_metadata,
            chunk_metadata=chunk.metadata,
        )


def parse_filter(spec: object) -> Filter | None:
    """Read a filter from its JSON form.

    ``{"lang": "en"}`` (equal), ``{"page": {"gte": 3, "lt": 9}}`` (ranges), ``{"lang": {"in": ["en", "de"]}}``,
    ``{"any": [..]}``, ``{"all": [..]}``, ``{"not": {..}}``; several keys must all match.
    None and ``{}`` filter nothing.

    Raises:
        InvalidInput: naming what is not understood.
    """
    if spec is None or spec == {}:
        return None
    if not isinstance(spec, Mapping):
        raise InvalidInput(f"a filter must be an object like {{'lang': 'en'}}, got {spec!r}")
    parts = [part for key, value in spec.items() for part in _parse_item(key, value)]
    return parts[0] if len(parts) == 1 else Every(parts=tuple(parts))


def _parse_item(key: str, value: object) -> list[Filter]:
    if key in {"any", "all"}:
        if not isinstance(value, list):
            raise InvalidInput(f"{key!r} in a filter takes a list of filters, got {value!r}")
        parts = tuple(_required(part) for part in value)
        return [Some(parts=parts) if key == "any" else Every(parts=parts)]
    if key == "not":
        return [Not(part=_required(value))]
    if not isinstance(value, Mapping):
        return [_compare(key, "eq", value)]
    if not value:
        raise InvalidInput(f"the filter on {key!r} is empty; expected e.g. {{'gte': 3}}")
    return [_compare(key, op, operand) for op, operand in value.items()]


def _required(spec: object) -> Filter:
    part = parse_filter(spec)
    return Every(parts=()) if part is None else part


def _compare(key: str, op: str, value: object) -> Compare:
    match op:
        case "eq" | "ne":
            fits = value is None or isinstance(value, (str, int, float, bool))
            expected = "a text, number, boolean or null"
        case "in":
            fits = isinstance(value, list) and all(
                item is None or isinstance(item, (str, int, float, bool)) for item in value
            )
            expected = "a list of texts, numbers, booleans or nulls"
        case "gt" | "gte" | "lt" | "lte":
            fits = isinstance(value, (str, int, float)) and not isinstance(value, bool)
            expected = "a number or text"
        case _:
            raise InvalidInput(
                f"{op!r} is no comparison of a filter; expected eq, ne, in, gt, gte, lt or lte"
            )
    if not fits:
        raise InvalidInput(f"{key!r} {op} {value!r} in a filter: expected {expected}")
    return Compare(key=key, op=op, value=value)  # type: ignore[arg-type]  # narrowed by `fits`


def matches(where: Filter | None, metadata: Mapping[str, Json]) -> bool:
    """Whether metadata passes the filter: what every vector store's query must agree with."""
    match where:
        case None:
            return True
        case Every(parts=parts):
            return all(matches(part, metadata) for part in parts)
        case Some(parts=parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part=part):
            return not matches(part, metadata)
        case Compare(key=key, op=op, value=value):
            return _holds(op, key in metadata, metadata.get(key), value)


def _holds(op: Operator, present: bool, actual: Json, wanted: Json) -> bool:
    match op:
        case "eq":
            return present and _same(actual, wanted)
        case "ne":
            return not (present and _same(actual, wanted))
        case "in":
            return present and isinstance(wanted, list) and any(_same(actual, item) for item in wanted)
        case _:
            return (
                present
                and _kind(actual) == _kind(wanted) in {"number", "text"}
                and _COMPARE[op](actual, wanted)
            )


def _same(left: Json, right: Json) -> bool:
    return _kind(left) == _kind(right) and left == right


def _kind(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case _:
            return "other"
