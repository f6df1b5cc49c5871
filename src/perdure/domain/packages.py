"""Packages that a plain installation does not bring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from perdure.domain.errors import InvalidInput, PerdureError


@contextmanager
def needed(
    what: str, extra: str, *, error: type[PerdureError] = InvalidInput, then: str = ""
) -> Iterator[None]:
    """Around the import of an extra's packages: who lacks one is told how to get it.

    Args:
        what: the beginning of the message, for example ``this store needs``.
        then: its end: what to do once the package is there.

    Raises:
        InvalidInput: one is not installed; or `error`.
    """
    try:
        yield
    except ModuleNotFoundError as lacking:
        raise error(f'{what} the package {lacking.name!r}: pip install "perdure[{extra}]"{then}') from None
