"""`perdure serve`"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from perdure.cli.call import Call, command
from perdure.cli.failures import BAD_INPUT, OK
from perdure.cli.output import say, show_log, write_json

if TYPE_CHECKING:
    from perdure.app import App


@command("perdure serve", "perdure serve --port 9000 --no-worker", "perdure serve --grpc 127.0.0.1:8322")
@click.option("--host", metavar="ADDRESS", help="Where to listen.  [default: 127.0.0.1]")
@click.option("--port", "-p", type=click.IntRange(0, 65_535), metavar="N", help="[default: 8321]")
@click.option("--grpc", metavar="HOST:PORT", help="Answer gRPC there, too, e.g. 127.0.0.1:8322.")
@click.option("--no-worker", is_flag=True, help="Only serve; 'perdure worker' runs the jobs elsewhere.")
def serve(call: Call, host: str | None, port: int | None, grpc: str | None, no_worker: bool) -> int:
    """Serve the REST API, with a worker inside.

    And gRPC, where an address is given. Tenants come with each request (the header X-Tenant), so that --tenant has no meaning here. SIGTERM or Ctrl-C stops
    it in good order.
    """
    try:
        from perdure.rest import serve as run
    except ImportError as error:
        say(str(error))
        return BAD_INPUT
    settings = call.settings(host=host, port=port, grpc=grpc)
    show_log(logging.INFO, "%(asctime)s %(message)s", style=settings.log)
    told: dict[str, str] = {}

    def ready(url: str) -> None:
        # With port 0 the system chooses the port; a program that started the server wants to know which.
        if call.json:
            write_json({"url": url, **told}, indent=False)

    @asynccontextmanager
    async def grpc_too(app: App) -> AsyncIterator[None]:
        from perdure.grpc import serving

        async with serving(app, settings.grpc) as told["grpc"]:
            yield

    try:
        run(settings, worker=not no_worker, ready=ready, beside=grpc_too if settings.grpc else None)
    except ImportError as error:
        say(str(error))
        return BAD_INPUT
    return OK
