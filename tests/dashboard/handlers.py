"""What a worker of the browser's tests can do besides ingesting."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from perdure.app import App
from perdure.core.context import Context
from perdure.domain.errors import Fatal


def register(app: App) -> None:
    """Teach the kinds."""

    @app.handler("fragile")
    async def fragile(ctx: Context, flag: str) -> str:
        path = Path(flag)
        if path.exists():
            return "done"
        path.touch()
        raise Fatal("the disk <b>is</b> full; make room, then retry it")

    @app.handler("report")
    async def report(ctx: Context, title: str) -> Any:
        return await ctx.ask(f"Publish {title}?", choices=["yes", "no"], deadline="2d", default="no")

    @app.handler("transcribe")
    async def transcribe(ctx: Context, minutes: int) -> None:
        for minute in range(minutes):
            await ctx.progress(minute / minutes, f"minute {minute} of {minutes}")
            await asyncio.sleep(0.3)
