"""Vector stores that each break one promise: `VectorStoreContract` must catch every one of them.

They are the memory store with one thing done wrong, each a mistake that a real backend makes easily.
"""

from typing import Final

from tests.wrong.vectors import comparing, fencing, finding, returning, showing
from tests.wrong.vectors.base import WrongVectors

WRONG_VECTORS: Final = tuple(
    item
    for module in (fencing, showing, comparing, finding, returning)
    for item in vars(module).values()
    if isinstance(item, type) and issubclass(item, WrongVectors) and item is not WrongVectors
)
"""All of them."""

__all__ = ["WRONG_VECTORS", "WrongVectors"]
