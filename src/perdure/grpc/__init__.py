"""The gRPC face (extra `grpc`): parse, call the app, render. Clients need `perdure.grpc.v1` alone, or its .proto file."""

from __future__ import annotations

try:
    # Asked for here, so that an absence is told once and with the remedy.
    import google.rpc  # noqa: F401
    import grpc  # noqa: F401
    import grpc_health  # noqa: F401
    import grpc_reflection  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        f'the gRPC API needs {error.name}, which is not installed; run: pip install "perdure[grpc]"'
    ) from error

from perdure.grpc.server import serving

__all__ = ["serving"]
