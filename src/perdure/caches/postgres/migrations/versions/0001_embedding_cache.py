"""Vectors of known texts."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    # used_on: days since 1970. Vectors do not compress.
    """CREATE TABLE perdure_embedding_cache (
           key text COLLATE "C" PRIMARY KEY,
           vector bytea STORAGE EXTERNAL NOT NULL,
           tokens integer NOT NULL,
           used_on integer NOT NULL
       )""",
    "CREATE INDEX perdure_embedding_cache_age ON perdure_embedding_cache (used_on)",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)
