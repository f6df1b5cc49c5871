"""Which account, database and container a URL or a connection string names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record

DATABASE: Final = "perdure"
CONTAINER: Final = "embedding-jobs"
_ENDPOINTS: Final = {"cosmos": "https", "cosmos+http": "http", "https": "https", "http": "http"}
"""Scheme of the URL → of the account's endpoint; plain http is for emulators."""
_NAME: Final = re.compile(r"[^/\\?#]{1,255}")


class Address(Record):
    """Where the jobs are.

    Attributes:
        endpoint: of the account, for the driver.
        key: secret.
        shown: the place for people, without the key.
    """

    endpoint: str
    key: str
    database: str
    container: str
    shown: str


def parse(url: str, database: str | None = None, container: str | None = None) -> Address:
    """Read ``cosmos://:KEY@account.documents.azure.com/database/container``, the account's https URL with ``?key=KEY``,
    or a connection string ``AccountEndpoint=https://…;AccountKey=…`` (also with ``;Database=…;Container=…``).

    Args:
        database, container: win over those in the URL; without either they are `perdure` and `embedding-jobs`.

    Raises:
        InvalidInput: it is none of these.
    """
    read: Callable[[str], tuple[str, str, list[str]]]
    read = _connection_string if url.lower().startswith("accountendpoint=") else _url
    try:
        endpoint, key, names = read(url)
        host = urlsplit(endpoint).netloc
    except (ValueError, KeyError):
        raise unusable() from None
    names = [
        database or (names[0] if names else DATABASE),
        container or (names[1] if names[1:] else CONTAINER),
    ]
    if not key or not host or not all(_NAME.fullmatch(name) for name in names):
        raise unusable()
    return Address(
        endpoint=endpoint,
        key=key,
        database=names[0],
        container=names[1],
        shown=f"cosmos://{host}/{names[0]}/{names[1]}",
    )


def _url(url: str) -> tuple[str, str, list[str]]:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    # A plus in a key is a plus, whether or not it was escaped.
    options = dict(parse_qsl(parts.query.replace("+", "%2B"), strict_parsing=True)) if parts.query else {}
    names = [unquote(name) for name in parts.path.strip("/").split("/") if name]
    if options.keys() - {"key"} or len(names) > 2 or parts.fragment or not host.rpartition(":")[2].isascii():
        raise ValueError
    _ = parts.port  # raises ValueError where it is no number
    key = options.get("key") or unquote(user.rpartition(":")[2])
    return f"{_ENDPOINTS[parts.scheme.lower()]}://{host}/", key, names


def _connection_string(text: str) -> tuple[str, str, list[str]]:
    pairs = (part.partition("=") for part in text.strip().strip(";").split(";"))
    given = {name.strip().lower(): value.strip() for name, _, value in pairs}
    names = [given.pop("database", DATABASE), given.pop("container", CONTAINER)]
    endpoint, key = given.pop("accountendpoint"), given.pop("accountkey")
    parts = urlsplit(endpoint)
    _ = parts.port
    if given or parts.scheme not in {"https", "http"} or "@" in parts.netloc or parts.path not in {"", "/"}:
        raise ValueError
    return f"{parts.scheme}://{parts.netloc}/", key, names


def unusable() -> InvalidInput:
    """Refuse a URL; repeats no part of it, as any could be the key."""
    return InvalidInput(
        "this names no Cosmos DB; expected cosmos://:KEY@account.documents.azure.com/database/container with / + = in the "
        "key written as %2F %2B %3D, or AccountEndpoint=https://account.documents.azure.com:443/;AccountKey=KEY; "
        "(cosmos+http://:KEY@host:port/database for an emulator without TLS)"
    )
