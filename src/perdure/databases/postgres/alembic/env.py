"""Alembic runs this. It only writes SQL: whoever asked for it runs it, on a connection and under a lock of its own."""

from typing import Any

from alembic import context

TABLE = context.config.get_main_option("perdure_version_table")


def note_compatible(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
    """Write down with each revision which Perdure can live with it: old ones ask at their start."""
    revision = step.up_revision
    oldest = getattr(revision.module, "compatible_from", revision.revision)
    ctx.impl.execute(f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS compatible_from text")
    ctx.impl.execute(f"UPDATE {TABLE} SET compatible_from = '{oldest}'")  # noqa: S608  # of our own scripts


context.configure(
    dialect_name="postgresql",
    version_table=TABLE,
    transaction_per_migration=True,
    on_version_apply=note_compatible,
)
with context.begin_transaction():
    context.run_migrations()
