"""Chunks in this process's memory: exact, gone with the process. For tests, trials, and what need not last."""

from perdure.vectors.memory.store import MemoryVectorStore

__all__ = ["MemoryVectorStore"]
