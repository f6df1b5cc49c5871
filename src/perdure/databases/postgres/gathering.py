"""Many small questions at once: they share statements, so that nobody waits long for a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

from perdure.domain.errors import StoreUnavailable

K = TypeVar("K")
V = TypeVar("V")

AT_ONCE: Final = 4
"""Statements under way; who comes then waits for the next one, with all others who do."""
TOGETHER: Final = 32
"""Questions in one statement, whose answers may be large."""


class Gathering(Generic[K, V]):
    """Asks. Each answer is from after its question.

    Args:
        look: answers what is asked, in one statement; what has no answer is left out.
    """

    def __init__(self, look: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._look = look
        self._active = 0
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> V | None:
        """The answer, if there is one."""
        if self._active >= AT_ONCE:
            future = self._waiting.get(key)
            if future is None:
                future = self._waiting[key] = asyncio.get_running_loop().create_future()
            return await asyncio.shield(future)
        self._active += 1
        try:
            return (await self._look([key])).get(key)
        finally:
            self._active -= 1
            self._go_on()

    def _go_on(self) -> None:
        if not self._waiting or self._active >= AT_ONCE:
            return
        batch = {key: self._waiting.pop(key) for key in [*islice(self._waiting, TOGETHER)]}
        self._active += 1
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: Mapping[K, asyncio.Future[V | None]]) -> None:
        try:
            await self._answer(batch)
        finally:
            for future in batch.values():
                future.cancel()  # of those that were not answered, as this was cancelled
            self._active -= 1
            self._go_on()

    async def _answer(self, batch: Mapping[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._look([*batch])
        except Exception as error:  # noqa: BLE001  # whatever it is, those who asked hear it
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for key, future in batch.items():  # one of them is to blame
                    await self._answer({key: future})
                return
            for future in batch.values():
                future.set_exception(error)
                future.exception()  # whoever asked may have gone
        else:
            for key, future in batch.items():
                future.set_result(found.get(key))
