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
from typing import Any, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

_Call: TypeAlias = tuple[Callable[[], Any], asyncio.Future[Any]]


class Threads:
    """Started as they are needed, and gone with this object. Nobody waits for them: a call that hangs holds up neither others
    nor the end of the process.

    One event loop uses it.

    Args:
        limit: calls at once.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._count = 0
        # The threads hold these two and not this object, so that they hear of its end.
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._results = _Results()

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Call it in a thread; not at all if the future is cancelled before its turn comes."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._results.awaited += 1
        self._calls.put((call, future))
        if self._count < min(self._results.awaited, self._limit):
            self._count += 1
            name, given = f"{self._name}_{self._count}", (self._calls, self._results)
            threading.Thread(target=_work, args=given, name=name, daemon=True).start()
        return future

    def __del__(self) -> None:
        for _ in range(self._count):
            self._calls.put(None)


class _Done(NamedTuple):
    future: asyncio.Future[Any]
    result: object
    error: BaseException | None


class _Results:
    """On their way to the event loop.

    Attributes:
        awaited: calls that were given and whose results were not delivered yet; changed in the event loop only.
    """

    def __init__(self) -> None:
        self.awaited = 0
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
            self.awaited -= 1
            if future.done():  # cancelled meanwhile
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _work(calls: SimpleQueue[_Call | None], results: _Results) -> None:
    while (given := calls.get()) is not None:
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
            results.put(_Done(future, result, error))
        except RuntimeError:  # the event loop is closed: nobody waits any more
            return
        del given, call, future, result, error  # nothing is held until the next call
