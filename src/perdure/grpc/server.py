"""`serving`: the calls on an address, with health and reflection, for as long as the block lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from perdure.access import check_host
from perdure.app import App
from perdure.domain.errors import InvalidInput
from perdure.grpc.service import Service
from perdure.grpc.v1 import perdure_pb2, perdure_pb2_grpc
from perdure.settings import Settings

log = logging.getLogger(__name__)

MAX_MESSAGE: Final = 8 * 1024 * 1024
"""Bytes of a request, as of a JSON body over HTTP; a longer one is refused with RESOURCE_EXHAUSTED."""
_LOOK: Final = 5.0
"""Seconds between two looks at whether the stores answer."""
_NAME: Final = perdure_pb2.DESCRIPTOR.services_by_name["Perdure"].full_name


@asynccontextmanager
async def serving(app: App, address: str) -> AsyncIterator[str]:
    """Answer calls on ``host:port`` (port 0: the system chooses) inside the block; gives the address.

    Args:
        app: open.

    Raises:
        InvalidInput: the address is none, in use, or open to others without keys; or a file of TLS cannot be read.
    """
    host, _, wanted = address.rpartition(":")
    if not host or not wanted.isdecimal() or int(wanted) > 65_535:
        raise InvalidInput(f"the gRPC address is {address!r}; expected host:port, for example 127.0.0.1:8322")
    await check_host(app.gate, app.settings, host.strip("[]"))
    stopping = asyncio.Event()
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", 60_000),
        )
    )
    health = HealthServicer()
    perdure_pb2_grpc.add_PerdureServicer_to_server(Service(app, stopping), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = _listen(server, address, _credentials(app.settings))
    await server.start()
    looking = asyncio.create_task(_look(app, health), name="perdure-grpc-health")
    log.info("serving gRPC on %s:%d", host, port)
    try:
        yield f"{host}:{port}"
    finally:
        stopping.set()
        looking.cancel()
        await health.enter_graceful_shutdown()
        await server.stop(app.settings.grace_seconds)


def _listen(server: grpc.aio.Server, address: str, tls: grpc.ServerCredentials | None) -> int:
    try:
        port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        port, why = 0, str(error)
    else:
        why = "it is in use, or none of this machine's"
    if not port:
        raise InvalidInput(f"cannot listen on {address}: {why}; choose another with --grpc or PERDURE_GRPC")
    return port


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS where the settings name a certificate; clients show theirs where an authority for them is named."""
    if not (settings.grpc_cert or settings.grpc_key or settings.grpc_client_ca):
        return None
    if not (settings.grpc_cert and settings.grpc_key):
        raise InvalidInput("TLS needs both: set PERDURE_GRPC_CERT and PERDURE_GRPC_KEY")
    try:
        pair = (Path(settings.grpc_key).read_bytes(), Path(settings.grpc_cert).read_bytes())
        authority = Path(settings.grpc_client_ca).read_bytes() if settings.grpc_client_ca else None
    except OSError as error:
        raise InvalidInput(
            f"a file of TLS cannot be read: {error}; check PERDURE_GRPC_CERT and the others"
        ) from None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


async def _look(app: App, health: HealthServicer) -> None:
    """Tell by the health service whether the stores answer."""
    while True:
        good = set((await app.health()).values()) == {"ok"}
        now = health_pb2.HealthCheckResponse.SERVING if good else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", _NAME):
            await health.set(name, now)
        await asyncio.sleep(_LOOK)
