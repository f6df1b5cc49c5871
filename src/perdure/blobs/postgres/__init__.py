"""Blobs in a PostgreSQL database, for workers on many machines."""

from perdure.blobs.postgres.store import PostgresBlobStore

__all__ = ["PostgresBlobStore"]
