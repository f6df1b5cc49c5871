"""Sees from a thread when a handler blocks the event loop, and names it while it still does."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

log = logging.getLogger(__name__)

BEAT: Final = 0.25
"""Seconds between two signs of life of the loop, and between two looks at them."""

BLOCKED: Final = 1.0
"""Seconds without one after which a warning is due; the next ones after twice as long each."""

STARVED: Final = 10.0
"""Seconds, where it is no handler that runs: then the machine may only be busy with others."""

STACK: Final = 4
"""Calls that are told, the innermost."""


class Watchdog:
    """Warns while nothing else runs on the loop: then no heartbeat does, and all of the worker's jobs wait.

    Args:
        name: tells which handler's run a task is, for people; None: of none. Called from another thread.
    """

    def __init__(self, name: Callable[[asyncio.Task[Any] | None], str | None]) -> None:
        self._name = name
        self._beat = time.monotonic()
        self._done = threading.Event()

    async def run(self) -> None:
        """Watch the running loop until cancelled."""
        place = asyncio.get_running_loop(), threading.get_ident()
        thread = threading.Thread(target=self._watch, args=place, name="perdure-watchdog", daemon=True)
        thread.start()
        try:
            while True:
                self._beat = time.monotonic()
                await asyncio.sleep(BEAT)
        finally:
            self._done.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        patience = BLOCKED
        while not self._done.wait(BEAT):
            silent = time.monotonic() - self._beat
            if silent < BLOCKED:
                patience = BLOCKED
            elif silent >= patience and (name := self._name(asyncio.current_task(loop)) or silent >= STARVED):
                patience = 2 * silent
                who = name if isinstance(name, str) else "something that is no handler"
                self._warn(silent, who, sys._current_frames().get(thread))

    def _warn(self, seconds: float, who: str, frame: FrameType | None) -> None:
        frames = reversed(traceback.extract_stack(frame, STACK)) if frame else ()
        log.warning(
            "%s blocks the event loop, for %.1f s by now: no other job of this worker goes on, and without heartbeats they are "
            "taken for dead; let a plain function do it (handlers of `def` run in threads), or asyncio.to_thread. It is in %s",
            who,
            seconds,
            ", called by ".join(f"{at.name} ({at.filename}:{at.lineno})" for at in frames) or "native code",
        )
