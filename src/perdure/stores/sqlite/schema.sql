-- Times are microseconds since 1970, UTC. JSON is text. What is NULL is at its default.

CREATE TABLE jobs (
    seq             INTEGER PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE,
    tenant          TEXT    NOT NULL,
    kind            TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    -- Where the job stands in line, so that an index can tell by one number:
    -- 0 pending and due, 1 pending and not due when last looked at, 2 running or waiting, 3 terminal.
    stage           INTEGER NOT NULL,
    due_at          INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    priority        INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    attempt         INTEGER NOT NULL,
    max_attempts    INTEGER NOT NULL,
    rescues         INTEGER NOT NULL,
    max_rescues     INTEGER NOT NULL,
    worker          TEXT,
    idempotency_key TEXT,
    user_id         TEXT,
    document_id     TEXT,
    created_by      TEXT,
    ttl             INTEGER,
    started_at      INTEGER,
    completed_at    INTEGER,
    labels          TEXT,
    progress        TEXT,
    checkpoint      TEXT,
    questions       TEXT,
    result          TEXT,
    failure         TEXT
) STRICT;

-- Every index costs each write, so each has one use:
-- taking the next job; only what can be taken is in it, however much is scheduled for later
CREATE INDEX jobs_ready ON jobs (kind, priority DESC, tenant, due_at, id) WHERE stage = 0;
-- what becomes due, overdue or expired next
CREATE INDEX jobs_due ON jobs (stage, due_at) WHERE stage > 0 AND due_at IS NOT NULL;
-- lists: newest first within a lane; lanes are merged
CREATE INDEX jobs_lane ON jobs (tenant, kind, state, id);
CREATE INDEX jobs_user ON jobs (tenant, user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX jobs_document ON jobs (tenant, document_id, id) WHERE document_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_key ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Beside the jobs, because SQLite writes a row whole at every change: a large payload would be written again by
-- every claim and every heartbeat.
CREATE TABLE job_payloads (
    job     INTEGER PRIMARY KEY,
    payload TEXT NOT NULL
) STRICT;

CREATE TABLE job_history (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL,
    job_id     TEXT    NOT NULL,
    event      TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    rescues    INTEGER NOT NULL,
    started_at INTEGER,
    detail     TEXT
) STRICT;
CREATE INDEX job_history_job ON job_history (job_id);

CREATE TABLE job_counts (
    tenant TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    state  TEXT    NOT NULL,
    n      INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, state)
) STRICT, WITHOUT ROWID;

-- A job as it is read. The order of the columns is known to rows.py.
CREATE VIEW job_rows AS
SELECT seq, id, tenant, kind, state, due_at, created_at, updated_at, priority, epoch, version, attempt, max_attempts,
       rescues, max_rescues, worker, idempotency_key, user_id, document_id, created_by, ttl, started_at, completed_at,
       (SELECT payload FROM job_payloads WHERE job = jobs.seq) AS payload,
       labels, progress, checkpoint, questions, result, failure
FROM jobs;
