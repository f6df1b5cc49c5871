"""The job store that needs nothing but this process."""

from perdure.stores.memory.store import MemoryJobStore

__all__ = ["MemoryJobStore"]
