"""Many looks at single jobs at once: they share statements, so that nobody waits long for a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Final

from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Job

AT_ONCE: Final = 4
"""Looks under way; who comes then waits for the next one, with all others who do."""
TOGETHER: Final = 32
"""Jobs in one look, whose payloads may be large."""


class Gathering:
    """Looks up jobs by id. Each answer is from after its question.

    Args:
        look: finds jobs, of whatever tenant, by their ids.
    """

    def __init__(self, look: Callable[[Sequence[str]], Awaitable[Mapping[str, Job]]]) -> None:
        self._look = look
        self._active = 0
        self._waiting: dict[str, asyncio.Future[Job | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, job_id: str) -> Job | None:
        """The job of this id."""
        if self._active >= AT_ONCE:
            future = self._waiting.get(job_id)
            if future is None:
                future = self._waiting[job_id] = asyncio.get_running_loop().create_future()
            return await asyncio.shield(future)
        self._active += 1
        try:
            return (await self._look([job_id])).get(job_id)
        finally:
            self._active -= 1
            self._go_on()

    def _go_on(self) -> None:
        if not self._waiting or self._active >= AT_ONCE:
            return
        batch = {job_id: self._waiting.pop(job_id) for job_id in [*islice(self._waiting, TOGETHER)]}
        self._active += 1
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: Mapping[str, asyncio.Future[Job | None]]) -> None:
        try:
            await self._answer(batch)
        finally:
            for future in batch.values():
                future.cancel()  # of those that were not answered, as this was cancelled
            self._active -= 1
            self._go_on()

    async def _answer(self, batch: Mapping[str, asyncio.Future[Job | None]]) -> None:
        try:
            found = await self._look([*batch])
        except Exception as error:  # noqa: BLE001  # whatever it is, those who asked hear it
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for job_id, future in batch.items():  # one of them is to blame
                    await self._answer({job_id: future})
                return
            for future in batch.values():
                future.set_exception(error)
                future.exception()  # whoever asked may have gone
        else:
            for job_id, future in batch.items():
                future.set_result(found.get(job_id))
