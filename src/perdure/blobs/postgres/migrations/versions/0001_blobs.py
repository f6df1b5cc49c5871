"""Blobs and their pieces."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    # whole: false while it is written, or left over; nobody can read it.
    # touched_at: when the last piece came, or the whole was there.
    """CREATE TABLE perdure_blobs (
           seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
           tenant text COLLATE "C" NOT NULL,
           id text COLLATE "C" NOT NULL,
           whole boolean NOT NULL DEFAULT false,
           touched_at timestamptz NOT NULL DEFAULT now()
       )""",
    "CREATE UNIQUE INDEX perdure_blobs_whole ON perdure_blobs (tenant, id) WHERE whole",
    "CREATE INDEX perdure_blobs_age ON perdure_blobs (whole, touched_at)",
    # Uploads are mostly compressed already.
    """CREATE TABLE perdure_blob_pieces (
           blob bigint NOT NULL,
           number integer NOT NULL,
           bytes bytea STORAGE EXTERNAL NOT NULL,
           PRIMARY KEY (blob, number)
       )""",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
