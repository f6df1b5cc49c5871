"""Who subscribes is told of every change, signed, in order, once it wants it, and as long as it can be told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from perdure.core import dispatch, webhooks
from perdure.core.context import Context
from perdure.core.dispatch import Dispatcher
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.webhooks import Subscription, Webhooks
from perdure.core.worker import Worker
from perdure.domain.errors import Fatal, InvalidInput, NotFound
from perdure.domain.job import Job, NewJob
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.ports.sender import Answer, SendFailed
from perdure.stores.memory import MemoryJobStore

URL = "https://hooks.example/perdure"


class Receiver:
    """Takes what is sent; `answers` says how, in turn, and then always 204."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[Answer | SendFailed] = []

    def check(self, url: str) -> None:
        if "private" in url:
            raise InvalidInput("not public")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.got.append((dict(headers), body))
        answer = self.answers.pop(0) if self.answers else Answer(status=204, text="")
        if isinstance(answer, SendFailed):
            raise answer
        return answer

    async def close(self) -> None:
        pass

    def told(self) -> list[tuple[str, str]]:
        """(job, status) of each message, repetitions left out."""
        messages = {headers["webhook-id"]: json.loads(body)["data"] for headers, body in self.got}
        return [(data["job_id"], data["status"]) for data in messages.values()]


class House:
    """A store with webhooks, and workers on it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.store = MemoryJobStore()
        self.jobs = JobService(self.store, poll=timedelta(seconds=0.02))
        self.receiver = Receiver()
        self.hooks = Webhooks(self.jobs, lambda: self.receiver)
        self.handlers = Handlers()
        self.handlers.register("work", self.work)
        self.handlers.register(webhooks.KIND, self.deliver, retry=replace(webhooks.RETRY, base=0.01))

    async def work(self, ctx: Context, *, fails: bool = False) -> str:
        if fails:
            raise Fatal("it fails")
        return "done"

    async def deliver(self, ctx: Context, **payload: Any) -> dict[str, Any]:
        return await self.hooks.deliver(ctx, **payload)

    async def start(self, **options: Any) -> Worker:
        """A worker that also reads the log."""
        worker = Worker(
            self.jobs,
            self.handlers,
            poll=timedelta(seconds=0.02),
            **options,
        )
        worker.companions.append(Dispatcher(self.jobs, worker.name).run)
        running = asyncio.create_task(worker.run())

        async def end() -> None:
            worker.stop()
            await running

        self.stack.push_async_callback(end)
        return worker

    async def subscribe(self, **options: Any) -> Subscription:
        return await self.hooks.subscribe(URL, **{"tenant": "default", **options})

    async def submit(self, tenant: str = "default", kind: str = "work", **payload: Any) -> Job:
        job = await self.jobs.add(NewJob(kind=kind, tenant=tenant, payload=payload, max_attempts=1))
        return await self.jobs.wait(job.id, tenant=tenant, timeout=20)

    async def deliveries(self) -> list[Job]:
        return await self.store.find(JobFilter(tenant=None, kinds=(webhooks.KIND,)), 100)

    async def until(self, met: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await met():
                await asyncio.sleep(0.02)

    async def told(self, number: int) -> list[tuple[str, str]]:
        """Once so many messages were delivered."""

        async def met() -> bool:
            done = [job for job in await self.deliveries() if job.state is JobState.COMPLETED]
            return len(done) >= number

        await self.until(met)
        return self.receiver.told()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "IDLE", 0.05)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        house = House(stack)
        await house.jobs.start()
        stack.push_async_callback(house.jobs.close)
        yield house


async def test_a_message_is_signed_as_the_standard_says(house: House) -> None:
    subscription = await house.subscribe()
    await house.start()
    job = await house.submit()
    assert await house.told(1) == [(job.id, "completed")]
    [(headers, body)] = house.receiver.got
    told = Webhook(subscription.secret).verify(body, headers)
    assert told["type"] == "job.completed"
    assert told["data"]["job_id"] == job.id
    assert told["data"]["entry"]["actor"]
    with pytest.raises(WebhookVerificationError):
        Webhook(subscription.secret).verify(body + b" ", headers)
    [delivery] = await house.hooks.deliveries(subscription.id, tenant="default")
    assert delivery.result == {"status": 204, "answer": ""}


async def test_only_what_was_asked_for_is_told(house: House) -> None:
    """By state, kind and tenant; and never about a delivery."""
    await house.subscribe(states=["failed"])
    await house.subscribe(states=["completed"], kinds=["other"])
    await house.subscribe(tenant="acme", states=["pending", "running", "completed"])
    house.handlers.register("other", house.work)
    await house.start()
    await house.submit()
    failed = await house.submit(fails=True)
    other = await house.submit(kind="other")
    acme = await house.submit(tenant="acme")
    told = await house.told(5)
    assert sorted(told) == sorted(
        [(failed.id, "failed"), (other.id, "completed")]
        + [(acme.id, status) for status in ("pending", "running", "completed")]
    )
    assert [status for job, status in told if job == acme.id] == ["pending", "running", "completed"]
    await asyncio.sleep(0.3)
    assert len(await house.deliveries()) == 5


async def test_a_receiver_that_fails_is_told_again_and_in_order(house: House) -> None:
    await house.subscribe(states=["pending", "running", "completed"])
    house.receiver.answers = [SendFailed("away"), Answer(status=500, text="oops"), SendFailed("away")]
    await house.start()
    jobs = [await house.submit() for _ in range(3)]
    told = await house.told(9)
    for job in jobs:
        assert [status for about, status in told if about == job.id] == ["pending", "running", "completed"]
    ids = [headers["webhook-id"] for headers, _ in house.receiver.got]
    assert (len(ids), len(set(ids))) == (12, 9)


async def test_a_receiver_that_asks_to_wait_is_not_asked_before(house: House) -> None:
    await house.subscribe()
    house.receiver.answers = [Answer(status=503, text="later", headers={"retry-after": "3600"})]
    await house.start()
    await house.submit()

    async def put_off() -> bool:
        return any(job.attempt == 1 for job in await house.deliveries())

    await house.until(put_off)
    [delivery] = await house.deliveries()
    assert delivery.due_at is not None
    assert delivery.due_at - await house.store.now() > timedelta(minutes=59)
    assert delivery.failure is not None
    assert "answered 503" in delivery.failure.message


async def test_a_receiver_that_is_gone_is_told_no_more(house: House) -> None:
    subscription = await house.subscribe()
    house.receiver.answers = [Answer(status=410, text="")]
    await house.start()
    await house.submit()

    async def off() -> bool:
        return not (await house.hooks.subscriptions("default"))[0].active

    await house.until(off)
    await house.submit()
    await asyncio.sleep(0.3)
    assert len(house.receiver.got) == 1
    await house.hooks.switch(subscription.id, tenant="default", active=True)
    await asyncio.sleep(0.2)
    job = await house.submit()

    async def told() -> bool:
        return (job.id, "completed") in house.receiver.told()

    await house.until(told)


async def test_a_delivery_is_sent_again_by_hand(house: House) -> None:
    """One that failed goes round again, one that went through is sent by a new job; the id of the message stays."""
    await house.subscribe()
    await house.start()
    await house.submit()
    await house.told(1)
    [delivery] = await house.deliveries()
    again = await house.hooks.replay(delivery.id, tenant="default", actor="ann")
    assert again.id != delivery.id
    await house.told(2)
    assert len({headers["webhook-id"] for headers, _ in house.receiver.got}) == 1
    with pytest.raises(NotFound):
        await house.hooks.replay(delivery.id, tenant="acme")
    job = await house.submit()
    with pytest.raises(NotFound, match="no delivery"):
        await house.hooks.replay(job.id, tenant="default")


async def test_what_waits_for_a_webhook_that_was_taken_away_is_dropped(house: House) -> None:
    subscription = await house.subscribe()
    house.receiver.answers = [SendFailed("away")] * 3
    await house.start()
    await house.submit()

    async def tried() -> bool:
        return bool(house.receiver.got)

    await house.until(tried)
    await house.hooks.unsubscribe(subscription.id, tenant="default")

    async def over() -> bool:
        return all(job.finished for job in await house.deliveries())

    await house.until(over)
    [delivery] = await house.deliveries()
    assert delivery.result == {"skipped": "the webhook was taken away"}
    with pytest.raises(NotFound):
        await house.hooks.unsubscribe(subscription.id, tenant="default")


async def test_another_process_goes_on_where_the_leader_died(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens while nobody leads is told by whoever leads next; nothing is made twice."""
    monkeypatch.setattr(dispatch, "LEAD", timedelta(seconds=0.5))
    await house.subscribe()
    first = asyncio.create_task(Dispatcher(house.jobs, "first").run())
    await asyncio.sleep(0.2)
    first.cancel()
    await house.start()
    jobs = [await house.submit() for _ in range(5)]
    told = await house.told(5)
    assert sorted(told) == sorted((job.id, "completed") for job in jobs)
    assert len(await house.deliveries()) == 5


async def test_two_that_take_each_other_for_dead_make_each_delivery_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "LEAD", timedelta(0))
    await house.subscribe()
    await house.start()
    await house.start()
    jobs = [await house.submit() for _ in range(10)]
    told = await house.told(10)
    assert sorted(told) == sorted((job.id, "completed") for job in jobs)
    await asyncio.sleep(0.3)
    assert len(await house.deliveries()) == 10


async def test_without_webhooks_and_without_events_nothing_is_written(house: House) -> None:
    await house.start()
    await asyncio.sleep(0.3)
    assert await house.store.values.scan(webhooks.DESK, 10) == []
    await house.subscribe()
    await asyncio.sleep(0.5)
    kept = await house.store.values.scan(webhooks.DESK, 10)
    await asyncio.sleep(0.5)
    assert await house.store.values.scan(webhooks.DESK, 10) == kept


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://private.example"},
        {"states": ["done"]},
        {"states": []},
        {"kinds": ["no kind"]},
        {"secret": "whsec_c2hvcnQ="},
        {"secret": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
    ],
)
async def test_what_does_not_fit_is_refused(house: House, wrong: dict[str, Any]) -> None:
    url = wrong.pop("url", URL)
    with pytest.raises(InvalidInput):
        await house.hooks.subscribe(url, tenant="default", **wrong)
    assert await house.hooks.subscriptions("default") == []
