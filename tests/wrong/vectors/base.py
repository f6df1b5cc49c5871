"""What wrong stores have in common."""

from __future__ import annotations

from typing import ClassVar

from perdure.vectors.memory import MemoryVectorStore


class WrongVectors(MemoryVectorStore):
    """The memory store with one thing done wrong.

    Attributes:
        caught_by: a test of the contract that fails on it.
    """

    caught_by: ClassVar[str]
