"""Perdure inside other frameworks: a module for each, imported by its name, which needs the framework's own extra."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.domain.search import Hit


def told(hit: Hit) -> dict[str, Any]:
    """A hit's metadata for frameworks that keep one flat object: the document's, the place's, and whence it came."""
    whence = {name: getattr(hit, name) for name in ("document_id", "version", "chunk_id", "start", "end")}
    return hit.metadata | hit.chunk_metadata | whence


class Loop:
    """The event loop of an open app, for callers in other threads: made where the app is open."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def wait(self, work: Coroutine[Any, Any, list[Hit]], instead: str) -> list[Hit]:
        """What `work` comes to.

        Args:
            instead: the asynchronous call, for those who are in the loop's own thread.

        Raises:
            RuntimeError: called in the loop's own thread, which would wait for itself.
        """
        try:
            inside = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            inside = False
        if inside:
            work.close()
            raise RuntimeError(f"this would block the event loop that the app lives in; use {instead} here")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
