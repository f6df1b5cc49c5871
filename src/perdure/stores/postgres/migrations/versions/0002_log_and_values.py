"""The log of all entries, and small values beside the jobs."""

from alembic import op

revision = "0002"
down_revision = "0001"
compatible_from = "0001"

# Entries of a transaction that is under way may get a place before those that were committed meanwhile: the log is read
# up to the oldest such transaction. Entries of before have none.
COLUMN = "ALTER TABLE perdure_history ADD COLUMN IF NOT EXISTS tx xid8"
DEFAULT = "ALTER TABLE perdure_history ALTER COLUMN tx SET DEFAULT pg_current_xact_id()"
INDEX = "CREATE INDEX CONCURRENTLY perdure_history_log ON perdure_history (tx, job_id, version)"

VALUES = """
CREATE TABLE IF NOT EXISTS perdure_values (
    space text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value json NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (space, key)
)
"""
VERSIONS = "CREATE SEQUENCE IF NOT EXISTS perdure_values_version"


def upgrade() -> None:
    """Add what is new."""
    for statement in (COLUMN, DEFAULT, VALUES, VERSIONS):
        op.execute(statement)
    with op.get_context().autocommit_block():
        op.execute(INDEX)
