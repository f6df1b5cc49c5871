"""Libraries that a plain installation does not bring."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from perdure.domain.errors import UnsupportedFormat


def library(name: str, extra: str = "documents") -> Any:
    """Import a library.

    Raises:
        UnsupportedFormat: it is not installed; says how to.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UnsupportedFormat(
            f'this format needs the package {error.name!r}: pip install "perdure[{extra}]", then retry the job'
        ) from None
