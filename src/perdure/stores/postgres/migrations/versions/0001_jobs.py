"""Jobs, their history, their counts."""

from alembic import op

revision = "0001"
down_revision = None

JOBS = """
CREATE TABLE perdure_jobs (
    id uuid PRIMARY KEY,
    due_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    started_at timestamptz,
    completed_at timestamptz,
    ttl interval,
    epoch integer NOT NULL,
    version integer NOT NULL,
    attempt integer NOT NULL,
    max_attempts integer NOT NULL,
    rescues integer NOT NULL,
    max_rescues integer NOT NULL,
    priority smallint NOT NULL,
    state text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    worker text,
    idempotency_key text COLLATE "C",
    user_id text COLLATE "C",
    document_id text COLLATE "C",
    created_by text,
    payload json NOT NULL,
    labels json,
    run json
) WITH (
    -- Each job is rewritten about twice: room on its own page keeps it there. And most rows change within
    -- minutes, so that vacuum must come by the number of changes, hardly by the size of the table.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
)
"""

INDEXES = (
    # claim: the lanes (kind, priority, tenant), each in the order of due_at, then id
    """CREATE INDEX perdure_jobs_pending ON perdure_jobs (kind, (- priority), tenant, due_at, id)
       WHERE state = 'pending'""",
    # expired
    """CREATE INDEX perdure_jobs_overdue ON perdure_jobs (due_at, id)
       WHERE state IN ('running', 'waiting')""",
    # purge
    """CREATE INDEX perdure_jobs_finished ON perdure_jobs (due_at, id)
       WHERE state IN ('completed', 'partial', 'failed', 'cancelled')""",
    # lists and counts
    "CREATE INDEX perdure_jobs_listed ON perdure_jobs (tenant, kind, state, id)",
    "CREATE INDEX perdure_jobs_by_user ON perdure_jobs (tenant, user_id, id) WHERE user_id IS NOT NULL",
    """CREATE INDEX perdure_jobs_by_document ON perdure_jobs (tenant, document_id, id)
       WHERE document_id IS NOT NULL""",
    """CREATE UNIQUE INDEX perdure_jobs_key ON perdure_jobs (tenant, idempotency_key)
       WHERE idempotency_key IS NOT NULL""",
)

# Ordered by the job's version, which only grows; no foreign key: it would cost a lock on the job for each entry.
HISTORY = """
CREATE TABLE perdure_history (
    job_id uuid NOT NULL,
    version integer NOT NULL,
    id uuid NOT NULL,
    entry json NOT NULL,
    PRIMARY KEY (job_id, version)
)
"""

# Writers only ever insert into the second table, so that none waits for another; now and then what is there
# is folded into the first.
COUNTS = """
CREATE TABLE perdure_counts (
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    jobs bigint NOT NULL,
    PRIMARY KEY (tenant, kind, state)
) WITH (fillfactor = 50)
"""
COUNT_CHANGES = """
CREATE TABLE perdure_count_changes (
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    jobs bigint NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
)
"""


def upgrade() -> None:
    """Make the tables."""
    for statement in (JOBS, *INDEXES, HISTORY, COUNTS, COUNT_CHANGES):
        op.execute(statement)
