"""Fixtures for your own tests: say ``pytest_plugins = ["perdure.pytest_plugin"]`` in `conftest.py`. Needs pytest-asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

import perdure
from perdure.app import App

Register = Callable[[App], object]


@pytest.fixture
def perdure_register() -> Register:
    """What registers your handlers, called with the app: define a fixture of this name to have yours."""
    return lambda _app: None


@pytest_asyncio.fixture
async def perdure_app(perdure_register: Register) -> AsyncIterator[App]:
    """An app in memory, with no model to load, whose jobs have run when `submit` and `ingest…` return; see `App.testing`."""
    app = perdure.open("memory:", embedder="hashing", worker=False)
    perdure_register(app)
    async with app, app.testing():
        yield app
