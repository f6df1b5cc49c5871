"""Answers that wait: for a job, but never beyond their time, a client that has gone, or a server that stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, Final

from fastapi import Query, Request

MAX_WAIT: Final = 60.0
"""Seconds of a long poll: below what proxies take for a dead connection."""

WaitOf = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT, description="Answer when the job is finished, or after so many seconds."),
]


async def patiently(request: Request, wait: Coroutine[Any, Any, object], seconds: float) -> None:
    """Wait until it ends, well or badly; the time is up; the client has gone; or the server begins to stop."""
    tasks = [asyncio.create_task(each) for each in (wait, request.app.state.stopping.wait(), gone(request))]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gone(request: Request) -> None:
    """Wait until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
