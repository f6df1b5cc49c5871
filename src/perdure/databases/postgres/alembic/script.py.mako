"""${message}."""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
compatible_from = ${repr(down_revision)}  # the oldest revision whose Perdure can live with this one


def upgrade() -> None:
    """What old workers can live with, while they are replaced.

    It is one transaction. What must not be (CREATE INDEX CONCURRENTLY) stands in a `with op.get_context().autocommit_block()`;
    after a crash all of it is done again, so that the rest must bear that: IF NOT EXISTS.
    """
