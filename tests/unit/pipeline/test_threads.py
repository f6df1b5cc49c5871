"""Threads that give their results back together."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure.pipeline.threads import Threads


async def test_each_caller_gets_its_own_result_or_error() -> None:
    threads = Threads(4, "test")

    def call(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(number)
        return number

    calls = [threads.run(lambda number=number: call(number)) for number in range(500)]  # type: ignore[misc]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        assert str(outcome) == str(number)
        assert isinstance(outcome, ValueError) is (number % 3 == 0)


async def test_a_call_that_hangs_holds_up_no_other_and_no_more_run_than_allowed() -> None:
    threads, go, lock = Threads(2, "test"), threading.Event(), threading.Lock()
    running = most = 0

    def count() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1

    hanging = threads.run(go.wait)
    async with asyncio.timeout(30):
        await asyncio.gather(*(threads.run(count) for _ in range(100)))
        assert most == 1
        go.set()
        assert await hanging


def crew(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


async def test_quick_calls_share_a_thread_and_slow_ones_get_as_many_as_they_need() -> None:
    threads, go = Threads(8, "some-crew"), threading.Event()
    async with asyncio.timeout(30):
        for _ in range(20):
            await asyncio.gather(*(threads.run(go.is_set) for _ in range(10)))
        assert crew("some-crew") == 1
        hanging = [threads.run(go.wait) for _ in range(20)]
        while crew("some-crew") < 8:
            await asyncio.sleep(0.005)
        go.set()
        await asyncio.gather(*hanging)
        while crew("some-crew") > 1:  # those that nothing waits for go home
            await asyncio.sleep(0.005)
        await threads.run(go.is_set)


async def test_a_call_that_is_cancelled_before_its_turn_is_not_made() -> None:
    threads, go, made = Threads(1, "test"), threading.Event(), list[str]()
    first = threads.run(go.wait)
    second, third = threads.run(lambda: made.append("second")), threads.run(lambda: made.append("third"))
    second.cancel()
    go.set()
    async with asyncio.timeout(30):
        await asyncio.gather(first, third)
        with pytest.raises(asyncio.CancelledError):
            await second
    assert made == ["third"]


def test_a_call_that_outlives_its_event_loop_harms_nobody() -> None:
    threads, go, ended = Threads(1, "test"), threading.Event(), threading.Event()

    def call() -> None:
        go.wait()
        ended.set()

    async def begin() -> None:
        threads.run(call)
        await asyncio.sleep(0)

    asyncio.run(begin())
    go.set()
    assert ended.wait(30)


async def test_the_threads_end_with_their_owner() -> None:
    threads = Threads(4, "short-lived")
    await asyncio.gather(*(threads.run(threading.Event().is_set) for _ in range(20)))
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("short-lived")]
    assert mine
    del threads
    for thread in mine:
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()
