"""Threads whose results come back to the event loop together.

For calls of a tenth of a millisecond, a thousand a second: asyncio's own way to a thread takes half as long again as such a
call, for it wakes the loop for each of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

_Call: TypeAlias = tuple[Callable[[], Any], asyncio.Future[Any]]


SLOW: Final = 0.01
"""Seconds that a call may wait for a thread before there are more of them."""


class Threads:
    """One, and more while calls wait for it: those that keep a processor busy only get in each other's way, those that wait for a
    disk, or hang, do not.

    Gone with this object, but nobody waits for them: a call that hangs does not hold up the end of the process. One event loop
    uses it.

    Args:
        limit: calls at once.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._given = 0
        self._looking = False
        self._crew = _Crew()

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Call it in a thread; not at all if the future is cancelled before its turn comes."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._given += 1
        self._crew.calls.put((call, future))
        if not self._crew.size:
            self._start()
        if not self._looking:
            self._looking = True
            loop.call_later(SLOW, self._look, loop, self._given)
        return future

    def _look(self, loop: asyncio.AbstractEventLoop, given: int) -> None:
        """Start more threads if one of the calls that were `given` by the time of the last look still waits."""
        waiting = self._crew.calls.qsize()
        if self._given - waiting < given:
            size = self._crew.size
            for _ in range(min(size, self._limit - size, waiting)):
                self._start()
        self._looking = waiting > 0
        if self._looking:
            loop.call_later(SLOW, self._look, loop, self._given)

    def _start(self) -> None:
        self._crew.join()
        name = f"{self._name}_{self._crew.size}"
        threading.Thread(target=_work, args=(self._crew,), name=name, daemon=True).start()

    def __del__(self) -> None:
        for _ in range(self._crew.size):
            self._crew.calls.put(None)


class _Crew:
    """What the threads share; they do not hold their owner, so that they hear of its end.

    Attributes:
        size: how many threads there are.
    """

    def __init__(self) -> None:
        self.calls: SimpleQueue[_Call | None] = SimpleQueue()
        self.results = _Results()
        self.size = 0
        self._lock = threading.Lock()

    def join(self) -> None:
        """One more."""
        with self._lock:
            self.size += 1

    def leave(self) -> bool:
        """One less, if nothing is left to do and others stay."""
        with self._lock:
            leaves = self.size > 1 and self.calls.empty()
            self.size -= leaves
            return leaves


class _Done(NamedTuple):
    future: asyncio.Future[Any]
    result: object
    error: BaseException | None


class _Results:
    """On their way to the event loop."""

    def __init__(self) -> None:
        self._done: deque[_Done] = deque()
        self._told = False

    def put(self, done: _Done) -> None:
        """Called in a thread. Raises RuntimeError where the event loop is closed."""
        self._done.append(done)
        if not self._told:  # else the loop has not looked yet, and will find this one, too
            self._told = True
            done.future.get_loop().call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._told = False
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():  # cancelled meanwhile
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _work(crew: _Crew) -> None:
    while (given := crew.calls.get()) is not None:
        call, future = given
        result: object = None
        error: BaseException | None = None
        try:
            if not future.cancelled():
                result = call()
        except StopIteration as raised:  # which no future takes
            error = RuntimeError(f"StopIteration came out of a call: {raised}")
        except BaseException as raised:  # noqa: BLE001  # whatever it was, who waits must hear of it
            error = raised
        try:
            crew.results.put(_Done(future, result, error))
        except RuntimeError:  # the event loop is closed: nobody waits any more
            return
        del given, call, future, result, error  # nothing is held until the next call
        if crew.leave():
            return
