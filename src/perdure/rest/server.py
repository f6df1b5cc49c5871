"""`serve`: the application on a socket, with its worker, until a signal."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing, nullcontext
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

import perdure
from perdure.access import check_host, is_loopback
from perdure.app import App
from perdure.domain.errors import InvalidInput
from perdure.rest.application import create_app
from perdure.settings import Settings

log = logging.getLogger(__name__)

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
HEAD_SECONDS: Final = 20.0
Beside = Callable[[App], AbstractAsyncContextManager[object]]
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def serve(
    settings: Settings,
    *,
    worker: bool = True,
    ready: Callable[[str], None] | None = None,
    beside: Beside | None = None,
) -> None:
    """Answer calls on `settings.host` and `settings.port` until SIGINT or SIGTERM; then finish what is under way.

    Running jobs get `settings.grace_seconds` to come to their end. A second signal stops at once and gives them
    back to the queue.

    Args:
        worker: whether jobs also run inside this process.
        ready: called with the server's URL once it answers. With port 0 the system chooses the port.
        beside: gives what else goes on in this process as long as calls are answered.

    Raises:
        InvalidInput: the address is in use or none of this machine's, or other machines can reach it while nobody is
            asked for a credential, and `settings.allow_remote` does not say that this is meant.
        StoreError: the store cannot be opened.
    """
    app = perdure.open(settings=settings, worker=False)
    local = is_loopback(settings.host) and not settings.allow_remote
    api = create_app(app, hosts=_LOOPBACK | {settings.host} if local else None)
    config = uvicorn.Config(
        api,
        http=Patient,
        lifespan="off",  # the app is open before the first call and closed after the last one
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, math.ceil(settings.grace_seconds)),
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_open(app, config, ready, worker, beside))


async def _open(
    app: App,
    config: uvicorn.Config,
    ready: Callable[[str], None] | None,
    with_worker: bool,
    beside: Beside | None,
) -> None:
    async with app:
        await check_host(app.gate, app.settings, app.settings.host)
        with closing(_listen(app.settings.host, app.settings.port)) as listener:
            stopping = config.app.state.stopping  # type: ignore[union-attr]  # of ours
            server = _Server(config, stopping, lambda: _announce(listener, ready))
            async with nullcontext() if beside is None else beside(app):
                await _run(app, server, listener, with_worker)


async def _run(app: App, server: _Server, listener: socket.socket, with_worker: bool) -> None:
    worker = app.make_worker() if with_worker else None

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        if worker is not None:
            worker.stop()  # drains; the second time it stops at once

    for number in _SIGNALS:  # the loop gives them back when it is closed
        asyncio.get_running_loop().add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as group:
        if worker is not None:
            group.create_task(worker.run(), name="perdure-worker")
        group.create_task(server.serve(sockets=[listener]), name="perdure-server")


class Patient(H11Protocol):
    """A connection, which is closed when the head of a request takes longer than `HEAD_SECONDS` to come."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came; wait for the rest of a head."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._rest()

    def _wait(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """Leaves signals to `_run`, and ends long polls when it begins to stop."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._ready = ready

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]  # used in a `with` only
        """Leave the signals alone: the original would kill the process before the worker is drained."""
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)


def _announce(listener: socket.socket, ready: Callable[[str], None] | None) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log.info("serving on %s", url)
    if ready is not None:
        ready(url)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InvalidInput(
            f"cannot listen on {host} port {port}: {error}; choose another with PERDURE_HOST and PERDURE_PORT"
        ) from None
