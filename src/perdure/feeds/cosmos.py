"""A container of Cosmos DB, by its change feed: all partitions, from the beginning on."""

from __future__ import annotations

from typing import Any, Final

from azure.core.exceptions import AzureError
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import CosmosHttpResponseError

from perdure.databases.cosmos.address import Address
from perdure.domain.change import Action, Batch, Change, Poison, facts
from perdure.domain.errors import StoreError, StoreUnavailable
from perdure.domain.record import Json
from perdure.ports.change_feed import Recall

POSITION: Final = "position"
_REFUSED: Final = frozenset({401, 403, 404})
_UNKNOWN: Final = frozenset({400, 410})
"""What a position gets that the service does not know (any more)."""
_AGAIN: Final = (
    "the position was lost ({}), so the whole container was read anew; items that were taken away without being marked as "
    "deleted are not known to the service any more: compare, and delete them by hand"
)


class CosmosFeed:
    """The items of one container; a document's id is the item's, its version the second of the change and its number.

    The service tells an item as it last was, and nothing of items that are gone: a deletion is an item in which the field
    `deleted` is true. The position holds one continuation for each partition, and outlives their splits.

    Args:
        text: the field that holds the content. metadata: fields that become the document's.
        deleted: the field that marks a deletion; None: nothing is ever deleted.
        tenant_field: the field that names the tenant; None: all belong to `tenant`.
    """

    def __init__(
        self,
        address: Address,
        *,
        text: str = "text",
        metadata: tuple[str, ...] = (),
        media_type: str = "text/plain",
        deleted: str | None = None,
        tenant_field: str | None = None,
        tenant: str = "default",
        namespace: str = "default",
    ) -> None:
        self._address = address
        self._text, self._metadata, self._media_type = text, metadata, media_type
        self._deleted, self._tenant_field = deleted, tenant_field
        self._tenant, self._namespace = tenant, namespace
        self._client: CosmosClient | None = None

    @property
    def _container(self) -> ContainerProxy:
        if self._client is None:
            # An emulator may say that it is elsewhere.
            plain = self._address.endpoint.startswith("http:")
            self._client = CosmosClient(
                self._address.endpoint,
                self._address.key,
                enable_endpoint_discovery=not plain,
                user_agent_suffix="perdure",
            )
        return self._client.get_database_client(self._address.database).get_container_client(
            self._address.container
        )

    async def read(self, recall: Recall, limit: int) -> Batch:
        """A page of one partition; the partitions take turns."""
        kept: Any = (await recall([POSITION])).get(POSITION)
        try:
            return await self._next(kept or await self._beginning(), limit)
        except ValueError as error:  # of the driver: of another container, or no position at all
            if not kept:
                raise
            return await self._lost(str(error))
        except CosmosHttpResponseError as error:
            if kept and error.status_code in _UNKNOWN:
                return await self._lost(f"status {error.status_code}")
            if error.status_code in _REFUSED:
                raise StoreError(
                    f"{self._address.shown} refuses to tell of changes with {error.status_code}; see that the container is "
                    "there, and that the key may read it"
                ) from None
            raise StoreUnavailable(f"{self._address.shown} is out of reach: {error.status_code}") from None
        except AzureError as error:
            raise StoreUnavailable(f"{self._address.shown} is out of reach: {error}") from None

    async def _beginning(self) -> list[Json]:
        return [{"range": part} async for part in self._container.read_feed_ranges()]

    async def _lost(self, why: str) -> Batch:
        return Batch(marks={POSITION: await self._beginning()}, note=_AGAIN.format(why))

    async def _next(self, parts: list[Any], limit: int) -> Batch:
        """The page of the first partition that has one. The position: each partition, with how far it was read, in the order
        of turns. (The driver's own continuation over all of them can't be resumed while one was never read.)
        """
        for number, part in enumerate(parts):
            told, reached = await self._page(part, limit)
            if told:
                turned = [*parts[number + 1 :], *parts[:number], {**part, "at": reached}]
                return Batch.of(told, {POSITION: turned})
        return Batch()

    async def _page(self, part: dict[str, Any], limit: int) -> tuple[list[Change | Poison], str]:
        if "at" in part:
            begin = {"continuation": part["at"]}
        else:
            begin = {"feed_range": part["range"], "start_time": "Beginning"}
        container = self._container
        pages = container.query_items_change_feed(max_item_count=limit, **begin).by_page()
        async for page in pages:
            told = [self._told(item) async for item in page]
            return told, container.client_connection.last_response_headers["etag"]
        return [], ""

    def _told(self, item: dict[str, Any]) -> Change | Poison:
        gone = self._deleted is not None and bool(item.get(self._deleted))
        tenant = item.get(self._tenant_field) if self._tenant_field else self._tenant
        text = item.get(self._text)
        version = _version(item)
        wrong = None
        if not isinstance(tenant, str):
            wrong = f"field {self._tenant_field!r} holds {tenant!r}; expected the name of a tenant"
        elif not gone and (not isinstance(text, str) or not text.strip()):
            what = type(text).__name__ if text else "nothing"
            wrong = f"field {self._text!r} holds {what}; expected a text with a word in it"
        if wrong is not None:
            shown = {name: value for name, value in item.items() if not name.startswith("_")}
            return Poison(
                id=f"{item['id']}@{version}"[:500],
                reason=f"item {item['id']!r}: {wrong}",
                event=str(shown)[:2000],
            )
        return Change(
            action=Action.DELETE if gone else Action.UPSERT,
            document_id=item["id"],
            tenant=str(tenant),
            namespace=self._namespace,
            version=version,
            text=None if gone else text,
            media_type=self._media_type,
            metadata=facts({name: item[name] for name in self._metadata if name in item}),
            at=float(item["_ts"]),
        )

    async def settle(self, batch: Batch) -> None:
        """Nothing: the service keeps no position."""

    async def close(self) -> None:
        """Close the client."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _version(item: dict[str, Any]) -> int:
    """The second of the change, and within it the number that the partition gave it: below 2⁵³."""
    return int(item["_ts"]) * 1_000_000 + int(item.get("_lsn", 0)) % 1_000_000
