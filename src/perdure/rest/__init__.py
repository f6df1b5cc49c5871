"""The REST face (extra `rest`): parse, call the app, render. It decides nothing of its own.

`create_app` gives an ASGI application for any server, or to be mounted into another application; `serve` runs it.
"""

from __future__ import annotations

try:
    # Asked for here, so that an absence is told once and with the remedy.
    import fastapi  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        f'the REST API needs {error.name}, which is not installed; run: pip install "perdure[rest]"'
    ) from error

from perdure.rest.application import create_app
from perdure.rest.server import serve

__all__ = ["create_app", "serve"]
