"""What a URL says: which server or servers, and under which prefix the keys lie."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Record

SCHEMES: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class Address(Record):
    """A parsed URL.

    Attributes:
        url: with the prefix taken out, `redis:` or `rediss:` as its scheme.
        how: "" for one server, else "cluster" or "sentinel".
        prefix: what all keys begin with, inside the braces of a hash tag.
        name: the URL without user and password, for messages.
    """

    url: str
    how: str
    prefix: str
    name: str


def parse(url: str) -> Address:
    """Read a store URL: ``redis://[user:password@]host[:port][/db][?prefix=perdure]``.

    ``rediss:`` is the same over TLS; ``redis+cluster:`` names any node of a cluster, ``redis+sentinel:`` the sentinels
    (``redis+sentinel://host:port,host:port/service[/db]``). Other settings after ``?`` go to the driver.

    Raises:
        InvalidInput: it is none of these.
    """
    scheme, _, rest = url.partition("://")
    base, _, how = scheme.partition("+")
    if scheme not in SCHEMES:
        raise InvalidInput(f"unknown Redis URL scheme {scheme!r}; expected one of {', '.join(SCHEMES)}")
    parts = urlsplit(f"{base}://{rest}")
    options = dict(parse_qsl(parts.query))
    prefix = options.pop("prefix", "perdure")
    if not _PREFIX.fullmatch(prefix):
        raise InvalidInput(f"prefix {prefix!r} is not valid: expected 1 to 64 letters, digits or . _ : -")
    database = parts.path.strip("/")
    if how != "sentinel" and database and not database.isdigit():
        raise InvalidInput(f"{database!r} is no database number; write for example {scheme}://host:6379/0")
    return Address(
        url=urlunsplit(parts._replace(query=urlencode(options))),
        how=how,
        prefix=prefix,
        name=f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
    )


def connect(address: Address) -> Redis | RedisCluster:
    """Make the client; it connects when it is first used.

    It never repeats a command by itself: a claim said twice would take jobs twice.

    Raises:
        InvalidInput: the driver does not know a setting of the URL.
    """
    settings: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": 5,
        "socket_timeout": 60,
    }
    try:
        if address.how == "cluster":
            return RedisCluster.from_url(address.url, **settings)
        sentinels = address.how == "sentinel"
        client = (
            _through_sentinels(address, settings) if sentinels else Redis.from_url(address.url, **settings)
        )
        pool: Any = client.connection_pool  # has no types
        pool.make_connection()  # does not connect: takes the settings, or complains
        return client
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{address.name} has a setting that the driver does not take: {error}") from None


async def disconnect(client: Redis | RedisCluster) -> None:
    """Close every connection, those to sentinels too, which the driver forgets."""
    await client.aclose()
    manager: Any = (
        None if isinstance(client, RedisCluster) else vars(client.connection_pool).get("sentinel_manager")
    )
    for watcher in manager.sentinels if manager is not None else ():
        await watcher.aclose()


def _through_sentinels(address: Address, settings: dict[str, Any]) -> Redis:
    parts = urlsplit(address.url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise InvalidInput(f"{address.name} names no service; write redis+sentinel://host:26379/mymaster")
    sentinels = [
        (host, int(port or 26379)) for host, _, port in (one.partition(":") for one in hosts.split(","))
    ]
    if login:
        settings |= {"username": unquote(user) or None, "password": unquote(password) or None}
    if parts.scheme == "rediss":
        settings["ssl"] = True
    settings |= dict(parse_qsl(parts.query))
    watchers: Any = Sentinel  # has no types
    client: Redis = watchers(sentinels, **settings).master_for(service, db=int(database or 0))
    return client
