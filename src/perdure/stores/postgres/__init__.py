"""The job store for teams that run PostgreSQL."""

from perdure.stores.postgres.store import PostgresJobStore

__all__ = ["PostgresJobStore"]
