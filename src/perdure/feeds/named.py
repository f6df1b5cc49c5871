"""The feed that a URL names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from perdure.domain.errors import InvalidInput
from perdure.feeds.events import Whose as Owners
from perdure.ports.change_feed import ChangeFeed

if TYPE_CHECKING:
    from perdure.feeds.bridge import ServiceBusBridge

Whose: TypeAlias = Mapping[str, Any]
OF_A_TABLE: Final = (
    "table",
    "id",
    "text",
    "metadata",
    "media_type",
    "outbox",
    "notify",
    "updated_at",
    "deleted",
    "lag",
)


def make_feed(url: str, *, tenant: str, namespace: str) -> ChangeFeed:
    """The feed that a URL names: ``folder:inbox?include=*.md&settled=2``, a collection of MongoDB,
    ``mongodb://host/database.collection?text=body&metadata=lang,author``, a table of PostgreSQL,
    ``postgresql://host/database?table=papers&text=body``, or a container of Cosmos DB,
    ``cosmos://:KEY@account.documents.azure.com/database/container?text=body&deleted=isDeleted&tenant=tenantId``.

    Raises:
        InvalidInput: none has this name, an option does not fit, or a driver is not installed.
    """
    parts = urlsplit(url)
    if (made := MAKERS.get(parts.scheme)) is None:
        raise InvalidInput(
            f"unknown feed {parts.scheme + ':'!r}…; expected {', '.join(EXAMPLES)}: see the page on feeds"
        )
    extra, make = made
    try:
        return make(parts, {"tenant": tenant, "namespace": namespace})
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f'this feed needs the package {error.name!r}: pip install "perdure[{extra}]"'
        ) from None


def migration(url: str) -> str:
    """The SQL that a feed's source needs before it tells of changes.

    Raises:
        InvalidInput: it needs none.
    """
    written = getattr(make_feed(url, tenant="default", namespace="default"), "migration", None)
    if written is None:
        raise InvalidInput("this feed needs no migration; a table of PostgreSQL without updated_at does")
    return str(written())


def _folder(parts: SplitResult, whose: Whose) -> ChangeFeed:
    if not parts.path or parts.netloc:
        raise InvalidInput(
            "the feed names no folder; expected folder:PATH, e.g. folder:/srv/inbox?include=*.md"
        )
    own, unknown = _options(parts, "include", "settled")
    if unknown:
        raise InvalidInput(f"unknown option {min(unknown)!r} of a folder; known are include, settled")
    from perdure.feeds.folder import FolderFeed

    settled = _seconds(own, "settled", 1.0)
    return FolderFeed(
        Path(unquote(parts.path)), include=_listed(own.get("include")), settled=settled, **whose
    )


def _collection(parts: SplitResult, whose: Whose) -> ChangeFeed:
    own, given = _options(parts, "text", "metadata", "media_type")
    database, _, collection = unquote(parts.path.strip("/")).partition(".")
    if not (database and collection):
        raise InvalidInput(
            "the feed names no collection; expected mongodb://HOST/DATABASE.COLLECTION?text=FIELD"
        )
    from perdure.feeds.mongodb import MongoFeed

    server = parts._replace(path="/", query=urlencode(given)).geturl()
    metadata = _listed(own.pop("metadata", ""))
    return MongoFeed(server, database, collection, metadata=metadata, **own, **whose)


def _container(parts: SplitResult, whose: Whose) -> ChangeFeed:
    own, given = _options(parts, "text", "metadata", "media_type", "deleted", "tenant")
    if len(parts.path.strip("/").split("/")) != 2:
        raise InvalidInput(
            "the feed names no container; expected cosmos://:KEY@ACCOUNT/DATABASE/CONTAINER?text=FIELD"
        )
    from perdure.databases.cosmos.address import parse
    from perdure.feeds.cosmos import CosmosFeed

    address = parse(parts._replace(query=urlencode(given)).geturl())
    named: dict[str, Any] = {
        "metadata": _listed(own.pop("metadata", "")),
        "tenant_field": own.pop("tenant", None),
    }
    return CosmosFeed(address, **named | own | dict(whose))


def _table(parts: SplitResult, whose: Whose) -> ChangeFeed:
    own, given = _options(parts, *OF_A_TABLE)
    if not own.get("table"):
        raise InvalidInput(
            "the feed names no table; expected postgresql://HOST/DATABASE?table=TABLE&text=COLUMN"
        )
    from perdure.feeds.postgres import OutboxFeed, PollingFeed, Table

    server = parts._replace(query=urlencode(given)).geturl()
    table = Table(
        name=own["table"],
        key=own.get("id", "id"),
        text=own.get("text", "text"),
        metadata=_listed(own.get("metadata")),
        media_type=own.get("media_type", "text/plain"),
    )
    if "updated_at" in own:
        lag = _seconds(own, "lag", 10.0)
        return PollingFeed(server, table, own["updated_at"], deleted=own.get("deleted"), lag=lag, **whose)
    return OutboxFeed(server, table, outbox=own.get("outbox"), notify="notify" in own, **whose)


def _queue(parts: SplitResult, whose: Whose) -> ChangeFeed:
    kind, wanted = QUEUES[parts.scheme]
    own, given = _options(parts, "tenants", *wanted)
    if missing := [name for name, default in wanted.items() if not own.get(name, default)]:
        raise InvalidInput(
            f"the feed names no {missing[0]}; expected {parts.scheme}://HOST?{missing[0]}=NAME"
        )
    from perdure.feeds import messages

    url = parts.netloc if kind == "kafka_topic" else parts._replace(query=urlencode(given)).geturl()
    named = {name: own.get(name, default) for name, default in wanted.items()}
    queue: messages.Queue = getattr(messages, kind)(url, **named)
    return messages.MessageFeed(
        f"{parts.scheme} {' '.join(named.values())}",
        queue,
        Owners(**whose, tenants=_listed(own.get("tenants"))),
    )


def _service_bus(parts: SplitResult, whose: Whose) -> ChangeFeed:
    connection, queue, own = _queue_of_azure(parts)
    from perdure.feeds.service_bus import ServiceBusFeed

    owners = Owners(**whose, tenants=_listed(own.get("tenants")))
    return ServiceBusFeed(connection, queue, owners, sessions="sessions" in own)


def _queue_of_azure(parts: SplitResult) -> tuple[str, str, dict[str, str]]:
    """Its connection string, its name, its options."""
    own, unknown = _options(parts, "sessions", "tenants", "emulator")
    queue = unquote(parts.path.strip("/"))
    if unknown or not (queue and parts.hostname and parts.username and parts.password):
        raise InvalidInput(
            f"expected servicebus://KEYNAME:KEY@NAMESPACE.servicebus.windows.net/QUEUE, its key percent-encoded, and of options "
            f"sessions, tenants, emulator; came {parts.hostname or 'no host'}, {queue or 'no queue'}"
            + f" and option {min(unknown, default='')!r}"
            * bool(unknown)
        )
    connection = (
        f"Endpoint=sb://{parts.netloc.rpartition('@')[2]}/;SharedAccessKeyName={unquote(parts.username)};"
        f"SharedAccessKey={unquote(parts.password)}" + ";UseDevelopmentEmulator=true" * ("emulator" in own)
    )
    return connection, queue, own


def make_bridge(url: str) -> ServiceBusBridge:
    """Where a feed's events are sent on to: a queue of Azure Service Bus, by the URL that its feed has.

    Raises:
        InvalidInput: the URL is of something else, or the driver is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme != "servicebus":
        raise InvalidInput(
            f"a bridge leads to servicebus://KEYNAME:KEY@HOST/QUEUE, not to {parts.scheme + ':'!r}…"
        )
    connection, queue, _ = _queue_of_azure(parts)
    try:
        from perdure.feeds.bridge import ServiceBusBridge
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f'this bridge needs the package {error.name!r}: pip install "perdure[service-bus]"'
        ) from None
    return ServiceBusBridge(connection, queue)


def _options(parts: SplitResult, *names: str) -> tuple[dict[str, str], dict[str, str]]:
    """Perdure's own options, and what is left: the driver's."""
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    return {name: given.pop(name) for name in names if name in given}, given


def _seconds(own: dict[str, str], name: str, default: float) -> float:
    try:
        return float(own.get(name, default))
    except ValueError:
        raise InvalidInput(f"{name} is {own[name]!r}; expected seconds, e.g. 2") from None


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (text or "").split(",")))


QUEUES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "amqp": ("rabbitmq_queue", {"queue": ""}),
    "amqps": ("rabbitmq_queue", {"queue": ""}),
    "kafka": ("kafka_topic", {"topic": "", "group": "perdure"}),
    "nats": ("nats_stream", {"stream": "", "subject": ">", "durable": "perdure"}),
    "redis": ("redis_stream", {"stream": ""}),
    "rediss": ("redis_stream", {"stream": ""}),
}
"""Scheme → (what makes it, its options with their defaults; empty: it must be given)."""
MAKERS: Final[Mapping[str, tuple[str, Callable[[SplitResult, Whose], ChangeFeed]]]] = {
    "folder": ("all", _folder),
    "mongodb": ("mongodb", _collection),
    "mongodb+srv": ("mongodb", _collection),
    "cosmos": ("cosmos", _container),
    "cosmos+http": ("cosmos", _container),
    "servicebus": ("service-bus", _service_bus),
    "postgres": ("postgres", _table),
    "postgresql": ("postgres", _table),
    **dict.fromkeys(QUEUES, ("queues", _queue)),
}
"""Scheme → (the extra that brings its driver, how it is made)."""
EXAMPLES: Final = (
    "folder:PATH",
    "mongodb://HOST/DATABASE.COLLECTION?text=FIELD",
    "postgresql://HOST/DATABASE?table=TABLE&text=COLUMN",
    "cosmos://:KEY@ACCOUNT/DATABASE/CONTAINER?text=FIELD&deleted=FIELD",
    "redis://HOST?stream=NAME",
    "amqp://HOST?queue=NAME",
    "nats://HOST?stream=NAME",
    "kafka://HOST?topic=NAME",
    "servicebus://KEYNAME:KEY@HOST/QUEUE",
)
