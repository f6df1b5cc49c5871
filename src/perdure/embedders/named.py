"""What an embedder's name says: ``MODEL@URL?option=value``."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record

LOCAL: Final = ("local", "hashing")
"""Embedders that every process has, and that are as quick as a cache."""

_PREFIXES: Final = {
    "nomic-embed": ("search_document: ", "search_query: "),
    "e5-": ("passage: ", "query: "),
    "mxbai-embed": ("", "Represent this sentence for searching relevant passages: "),
    "bge-small-en": ("", "Represent this sentence for searching relevant passages: "),
    "bge-base-en": ("", "Represent this sentence for searching relevant passages: "),
    "bge-large-en": ("", "Represent this sentence for searching relevant passages: "),
    "arctic-embed": ("", "Represent this sentence for searching relevant passages: "),
}
"""Part of a model's name → what it wants before a document and before a query, as its card says."""


class Named(Record, forbid_unknown_fields=True):
    """A model, and how it is asked.

    Attributes:
        model: its name at the server, or of the library.
        url: of the server, without a slash at the end; empty for a library.
        dimensions: ask for vectors of this length, of models that can.
        batch: most texts in one call.
        timeout: seconds that one call may take.
        max_characters: longer texts are not sent whole; None: the server says itself what is too long.
        long: what becomes of a text that is too long: `split`, its vector is the mean of its parts'; `refuse`, it fails.
        document_prefix, query_prefix: put before every text; None: what the model is known to want.
        encoding: how the server is asked to write vectors; an answer in the other form is read as well.
    """

    model: str
    url: str = ""
    dimensions: int | None = None
    batch: int = 32
    timeout: float = 60.0
    max_characters: int | None = None
    long: Literal["split", "refuse"] = "split"
    document_prefix: str | None = None
    query_prefix: str | None = None
    encoding: Literal["base64", "float"] = "base64"

    def __post_init__(self) -> None:
        limits = (self.batch, self.timeout, self.dimensions or 1, self.max_characters or 1)
        if not self.model or min(limits) <= 0:
            raise InvalidInput("expected a model's name, and more than 0 for every number")

    def prefixes(self) -> tuple[str, str]:
        """What stands before a document, and before a query."""
        known = next((both for part, both in _PREFIXES.items() if part in self.model.lower()), ("", ""))
        given = (self.document_prefix, self.query_prefix)
        return (known[0] if given[0] is None else given[0], known[1] if given[1] is None else given[1])

    def title(self, provider: str, dimension: int) -> str:
        """Name all that decides what a text's vector is; not where the server is, which may move."""
        document_prefix = self.prefixes()[0].strip()
        return f"{provider}:{self.model}:{dimension}" + (f":{document_prefix}" if document_prefix else "")


def parse(text: str, default_url: str = "", **defaults: object) -> Named:
    """Read what follows the provider's name, e.g. ``bge-m3@http://gpu:8080/v1?batch=64&long=refuse``.

    Args:
        default_url: where none is given; empty: this embedder has none.

    Raises:
        InvalidInput: it cannot be read, or an option is unknown.
    """
    model, at, rest = text.partition("@http")
    if not at:
        model, _, query = text.partition("?")
        url = default_url
    else:
        url, _, query = ("http" + rest).partition("?")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError where it is no number
        if at and not default_url:
            raise ValueError("this embedder asks no server, so it takes no URL")
        if url and (parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc):
            raise ValueError("the URL must be http:// or https:// with a host, and without a password")
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        return msgspec.convert(
            {**defaults, **options, "model": model, "url": url.rstrip("/")}, Named, strict=False
        )
    except (ValueError, msgspec.ValidationError) as error:
        known = ", ".join(Named.__struct_fields__[2:])
        raise InvalidInput(
            f"this names no embedder: {error}; expected MODEL, MODEL@URL or MODEL@URL?option=value&… with the options "
            f"{known}"
        ) from None
