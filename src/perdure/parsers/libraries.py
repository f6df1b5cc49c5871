"""Libraries that a plain installation does not bring."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from perdure.domain.errors import UnsupportedFormat
from perdure.domain.packages import needed


def library(name: str, extra: str = "documents") -> Any:
    """Import a library.

    Raises:
        UnsupportedFormat: it is not installed; says how to.
    """
    with needed("this format needs", extra, error=UnsupportedFormat, then=", then retry the job"):
        return import_module(name)
