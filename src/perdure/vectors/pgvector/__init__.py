"""Chunks in a PostgreSQL database: vectors by pgvector, words by tsvector, by default beside the jobs."""

from perdure.vectors.pgvector.store import PgvectorStore

__all__ = ["PgvectorStore"]
