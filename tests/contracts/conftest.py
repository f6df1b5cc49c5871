"""The servers that these tests use, one of each for a session."""

from tests.servers.postgres import postgres_url

__all__ = ["postgres_url"]
