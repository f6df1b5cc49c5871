"""What a message says, and when it is acknowledged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.domain.change import Action, Change, Poison
from perdure.domain.errors import InvalidInput
from perdure.feeds.events import Whose, read_event
from perdure.feeds.messages import MessageFeed, Queue
from perdure.feeds.named import make_feed
from perdure.testing.change_feed import Reader

WHOSE = Whose("acme", "papers", ("beta",))


def test_an_event_names_what_it_wants_and_the_feed_the_rest() -> None:
    said = {"id": "a", "text": "x" * 1_000_000, "version": 7, "metadata": {"lang": "en"}, "unknown": 1}
    change = read_event(json.dumps(said).encode(), "m1", WHOSE)
    assert isinstance(change, Change)
    assert (change.tenant, change.namespace, change.version, change.etag) == ("acme", "papers", 7, "")
    assert (len(change.text or ""), change.metadata) == (1_000_000, {"lang": "en"})
    gone = read_event(b'{"id": "a", "action": "delete", "tenant": "beta", "namespace": "n"}', "m2", WHOSE, 9)
    assert isinstance(gone, Change)
    assert (gone.action, gone.tenant, gone.namespace, gone.version, gone.etag) == (
        Action.DELETE,
        "beta",
        "n",
        9,
        "m2",
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "truncated"),
        (b"\xff\xfe", "no event"),
        (b"[]", "expected"),
        (b"{}", "missing required field `id`"),
        (b'{"id": 5}', "`str`"),
        (b'{"id": "a", "action": "drop"}', "drop"),
        (b'{"id": "a", "tenant": "gamma", "text": "x"}', "tenants="),
        (b"x" * 1_000_000, "no event"),
    ],
)
def test_what_is_no_event_is_poison_with_its_reason(body: bytes, said: str) -> None:
    poison = read_event(body, "m1", WHOSE)
    assert isinstance(poison, Poison)
    assert said in poison.reason
    assert len(poison.event) <= 2000
    assert poison.id == read_event(body, "m1", WHOSE).id  # type: ignore[union-attr]
    assert (poison.change is None) == ("tenant" not in said)


class Message:
    def __init__(self, at: int, acknowledged: list[int], event: dict[str, Any]) -> None:
        self.at, self.acknowledged = at, acknowledged
        self.body = json.dumps({"text": "x"} | event).encode()

    async def ack(self) -> None:
        self.acknowledged.append(self.at)

    async def nack(self) -> None:
        self.acknowledged.append(-self.at)


class Broker:
    """A queue, and its own consumer."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.acknowledged: list[int] = []
        self.left = [Message(n, self.acknowledged, event) for n, event in enumerate(events, 1)]

    async def connect(self) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def ping(self, _: float) -> bool:
        return True

    async def get_one(self, *, timeout: float) -> Any:
        return self.left.pop(0) if self.left else None

    def feed(self) -> MessageFeed:
        return MessageFeed("f", Queue(lambda _: (self, self), lambda message: (str(message.at), None)), WHOSE)


@pytest.mark.parametrize(("keep", "want"), [(True, [1, 2, 3]), (False, [-1, -2, -3])])
async def test_a_message_is_acknowledged_when_it_is_durable_and_else_given_back(
    keep: bool, want: list[int]
) -> None:
    broker = Broker({"id": "a"}, {"id": "b"}, {"id": "c"})
    feed = broker.feed()
    reader = Reader(feed, {})
    batch = await reader.read()
    assert broker.acknowledged == []
    if keep:
        await reader.keep(batch)
    await feed.close()
    assert broker.acknowledged == want


async def test_without_versions_a_batch_ends_before_a_documents_second_change() -> None:
    """Or else a batch that is told again, cut elsewhere, would bring the older state after the newer one."""
    broker = Broker(
        {"id": "a"}, {"id": "b", "version": 1}, {"id": "b", "version": 2}, {"id": "a"}, {"id": "b"}
    )
    feed = broker.feed()
    reader, told = Reader(feed, {}), []
    for _ in range(2):
        batch = await reader.read()
        await reader.keep(batch)
        told.append([change.document_id for change in batch.changes])
    assert (told, broker.acknowledged) == ([["a", "b", "b"], ["a", "b"]], [1, 2, 3, 4, 5])


async def test_what_is_held_back_is_given_back() -> None:
    broker = Broker({"id": "a"}, {"id": "a"}, {"id": "b"})
    feed = broker.feed()
    await Reader(feed, {}).drain()
    assert broker.acknowledged == [1, 2, 3]
    broker = Broker({"id": "a"}, {"id": "a"}, {"id": "b"})
    feed = broker.feed()
    reader = Reader(feed, {})
    await reader.keep(await reader.read())
    await feed.close()
    assert broker.acknowledged == [1, -2]


@pytest.mark.parametrize(
    ("url", "said"), [("redis://h", "stream=NAME"), ("amqp://h/", "queue=NAME"), ("kafka://h", "topic=NAME")]
)
def test_a_url_that_names_no_queue_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make_feed(url, tenant="default", namespace="default")
