"""Which server, database and collection a URL names."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record

DATABASE: Final = "perdure"
COLLECTION: Final = "vectorization_jobs"
_END_OF_HOSTS: Final = re.compile(r"[/?#]")


class Address(Record):
    """Where the jobs are.

    Attributes:
        url: for the driver; may hold a password.
        shown: the same for people, without user and password.
    """

    url: str
    database: str
    collection: str
    shown: str


def parse(url: str, database: str | None, collection: str | None) -> Address:
    """Read ``mongodb://user:password@host,host/database.collection?option=value``.

    Args:
        database, collection: win over those in the URL; without either they are `perdure` and `vectorization_jobs`.

    Raises:
        InvalidInput: it is no such URL.
    """
    scheme, _, rest = url.partition("://")
    hosts, *further = _END_OF_HOSTS.split(rest, maxsplit=1)
    if scheme not in {"mongodb", "mongodb+srv"} or not hosts or any("@" in part for part in further):
        raise unusable()
    parts = urlsplit(url)
    named, _, inside = unquote(parts.path.removeprefix("/")).partition(".")
    database, collection = database or named or DATABASE, collection or inside or COLLECTION
    return Address(
        url=urlunsplit(parts._replace(path="/" + named)),
        database=database,
        collection=collection,
        shown=f"{scheme}://{hosts.rpartition('@')[2]}/{database}.{collection}",
    )


def unusable() -> InvalidInput:
    """Refuse a URL; repeats no part of it, as any could be a password that was not written as it should."""
    return InvalidInput(
        "this is no URL of a MongoDB; expected mongodb://host:27017/database, or "
        "mongodb://user:password@host1,host2/database.collection?replicaSet=rs0 with known options, "
        "and @ : / ? # % in a user or password written as %40 %3A %2F %3F %23 %25"
    )
