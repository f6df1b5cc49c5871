"""Runs a worker beside a command's own work, until that is done or a signal comes."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

from perdure.cli.output import say

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run_for_long(main: Coroutine[Any, Any, T]) -> T:
    """Run `main`, and give its result, as a process does that passes thousands of jobs a second: on uvloop where that is installed.

    The garbage collector looks at a batch of jobs once rather than a dozen times; what ended jobs leave behind needs
    none.
    """
    gc.set_threshold(50_000, 20, 50)
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        from uvloop import new_event_loop as factory
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


class Runner(Protocol):
    """What a worker shows to the command line."""

    @property
    def active(self) -> int:
        """Jobs under way now."""
        ...

    async def run(self) -> None:
        """Work until stopped."""
        ...

    def stop(self) -> None:
        """Drain; said twice: stop at once."""
        ...


class Stop:
    """Whether somebody asked to stop.

    Attributes:
        asked: set at the first signal, or when the worker has ended.
        signals: those that came.
    """

    def __init__(self, worker: Runner) -> None:
        self.asked = asyncio.Event()
        self.signals: list[int] = []
        self._worker = worker

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + self.signals[0]

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until somebody asks to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.asked.wait()

    def caught(self, number: int) -> None:
        """Take a signal: the first asks to come to an end, the second insists, the third breaks off."""
        self.signals.append(number)
        self.asked.set()
        if len(self.signals) > 2:
            raise KeyboardInterrupt
        if len(self.signals) == 1 and self._worker.active:
            say(f"stopping after the {self._worker.active} under way; once more stops at once")
        self._worker.stop()


@asynccontextmanager
async def working(worker: Runner) -> AsyncIterator[Stop]:
    """Run the worker inside the block. It drains at the block's end or a first signal, and stops at once at a second.

    Raises:
        BaseExceptionGroup: what ended the worker too early.
    """
    stop = Stop(worker)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.caught, number)
    task = asyncio.create_task(worker.run(), name="perdure-worker")
    # A worker that broke down would keep us waiting for ever.
    task.add_done_callback(lambda _task: stop.asked.set())
    try:
        try:
            yield stop
        finally:
            if not stop.signals:
                worker.stop()
            await task
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
