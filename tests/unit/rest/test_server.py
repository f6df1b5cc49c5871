"""What `serve` refuses before it listens."""

from __future__ import annotations

import importlib
import socket
import sys

import pytest

from perdure.domain.errors import InvalidInput
from perdure.rest import serve
from perdure.settings import Settings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_it_is_not_open_to_other_machines_by_accident(host: str) -> None:
    with pytest.raises(InvalidInput, match="PERDURE_ALLOW_REMOTE"):
        serve(Settings(store="memory:", host=host))


def test_a_port_that_is_in_use_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"port {port}: .*in use.*PERDURE_PORT"):
            serve(Settings(store="memory:", port=port))


@pytest.mark.parametrize("missing", ["fastapi", "python_multipart", "uvicorn"])
def test_without_the_extra_the_remedy_is_told(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("perdure.rest")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "perdure\[rest\]"'):
        importlib.import_module("perdure.rest")
