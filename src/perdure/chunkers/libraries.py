"""Libraries that a plain installation does not bring."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from perdure.domain.errors import InvalidInput


def library(name: str) -> Any:
    """Import a library.

    Raises:
        InvalidInput: it is not installed; says how to.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f'this way of cutting needs the package {error.name!r}: pip install "perdure[chunkers]"'
        ) from None
