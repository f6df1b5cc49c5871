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
    def __init__(self, at: int, acknowledged: list[int]) -> None:
        self.at, self.acknowledged = at, acknowledged
        self.body = json.dumps({"id": f"d{at}", "text": "x"}).encode()

    async def ack(self) -> None:
        self.acknowledged.append(self.at)

    async def nack(self) -> None:
        self.acknowledged.append(-self.at)


class Broker:
    """A queue of three, and its own consumer."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.left = [1, 2, 3]

    async def connect(self) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def ping(self, _: float) -> bool:
        return True

    async def get_one(self, *, timeout: float) -> Any:
        return Message(self.left.pop(0), self.acknowledged) if self.left else None


def queue_of(broker: Broker, *, each: bool) -> Queue:
    return Queue(lambda _: (broker, broker), lambda message: (str(message.at), None), each=each)


@pytest.mark.parametrize(("each", "told", "given_back"), [(True, [1, 2, 3], [-1, -2, -3]), (False, [3], [])])
async def test_a_message_is_acknowledged_when_it_is_durable_and_else_given_back(
    each: bool, told: list[int], given_back: list[int]
) -> None:
    """Of Kafka the last one does for all."""
    for keep, want in ((True, told), (False, given_back)):
        broker = Broker()
        feed = MessageFeed("f", queue_of(broker, each=each), WHOSE)
        reader = Reader(feed, {})
        batch = await reader.read()
        assert broker.acknowledged == []
        if keep:
            await reader.keep(batch)
        await feed.close()
        assert broker.acknowledged == want


@pytest.mark.parametrize(
    ("url", "said"), [("redis://h", "stream=NAME"), ("amqp://h/", "queue=NAME"), ("kafka://h", "topic=NAME")]
)
def test_a_url_that_names_no_queue_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make_feed(url, tenant="default", namespace="default")
