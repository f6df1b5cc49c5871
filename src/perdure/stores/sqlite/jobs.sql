-- Every statement of the job store, by name. Lists of values come as JSON. Where an index is named, the statement
-- would be slow without it, and fails instead; `stage > 0` is there because SQLite wants an index's condition word for word.
-- `{rows}` stands for as many rows as are written in one step (`perdure.databases.sqlite.write_rows`).

-- name: next_seq
-- The number of the next job.
SELECT coalesce(max(seq), 0) + 1 FROM jobs;

-- name: insert
-- A new job; nothing where its id or its key is taken.
INSERT INTO jobs (
    seq, id, tenant, kind, state, stage, due_at, created_at, updated_at, priority, epoch, version, attempt,
    max_attempts, rescues, max_rescues, worker, idempotency_key, user_id, document_id, created_by, ttl, started_at,
    completed_at, labels, progress, checkpoint, questions, result, failure, unique_for
) VALUES {rows} ON CONFLICT DO NOTHING;

-- name: insert_payload
-- What its payload is, unless it is empty.
INSERT INTO job_payloads (job, payload) VALUES {rows};

-- name: holder_of_id
-- Who has this id, and whether it is expired; its key has not lapsed for itself.
SELECT seq, tenant, stage = 3 AND due_at <= :now, false FROM jobs WHERE id = :id;

-- name: holder_of_key
-- Who has this key, whether it is expired, and whether the key has lapsed.
SELECT seq, tenant, stage = 3 AND due_at <= :now, unique_for IS NOT NULL AND created_at + unique_for <= :now FROM jobs
WHERE tenant = :tenant AND idempotency_key = :key AND idempotency_key IS NOT NULL;

-- name: unkey
-- Another job takes over the key.
UPDATE jobs SET idempotency_key = NULL, version = version + 1 WHERE seq = ?;

-- name: count
-- Keep the counters.
INSERT INTO job_counts (tenant, kind, state, n) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET n = n + excluded.n;

-- name: rows
-- Whole jobs, in the order of the numbers given.
SELECT job_rows.* FROM json_each(?) AS wanted CROSS JOIN job_rows ON job_rows.seq = wanted.value;

-- name: get
-- One whole job.
SELECT * FROM job_rows WHERE seq = (
    SELECT seq FROM jobs
    WHERE id = :id AND tenant = :tenant AND NOT (stage = 3 AND due_at IS NOT NULL AND due_at <= :now)
);

-- name: promote
-- Put what has become due into line.
UPDATE jobs SET stage = 0 WHERE seq IN (
    SELECT seq FROM jobs INDEXED BY jobs_due WHERE stage > 0 AND stage = 1 AND due_at <= ? ORDER BY due_at LIMIT ?
);

-- name: next_priority
-- The highest priority, below the one given, at which a job of this kind is in line.
SELECT priority FROM jobs INDEXED BY jobs_ready
WHERE stage = 0 AND kind = ? AND priority < ? ORDER BY priority DESC LIMIT 1;

-- name: next_tenant
-- The first tenant after the one given, who has a job in line there.
SELECT tenant FROM jobs INDEXED BY jobs_ready
WHERE stage = 0 AND kind = ? AND priority = ? AND tenant > ? ORDER BY tenant LIMIT 1;

-- name: next_due
-- A tenant's next jobs after the last one seen.
SELECT due_at, id, seq, kind FROM jobs INDEXED BY jobs_ready
WHERE stage = 0 AND kind = ? AND priority = ? AND tenant = ? AND due_at <= ? AND (due_at, id) > (?, ?)
ORDER BY due_at, id LIMIT ?;

-- name: running
-- How many of some kinds run, by tenant.
SELECT kind, tenant, n FROM job_counts
WHERE state = 'running' AND n > 0 AND kind IN (SELECT value FROM json_each(?));

-- name: take
-- Give jobs to a worker.
UPDATE jobs
SET stage = 2, state = 'running', worker = :worker, epoch = epoch + 1, version = version + 1,
    due_at = :until, started_at = :now, updated_at = :now
WHERE seq IN (SELECT value FROM json_each(:seqs));

-- name: extend
-- A worker's heartbeat for {id: epoch}; gives the ids that it still owns.
UPDATE jobs SET due_at = :until, version = version + 1
WHERE seq IN (
    SELECT jobs.seq FROM json_each(:epochs) AS held CROSS JOIN jobs ON jobs.id = held.key
    WHERE jobs.epoch = held.value AND worker = :worker AND state = 'running'
)
RETURNING id;

-- name: apply_fenced
-- What runs under their epochs say. A job that stays running keeps its lease as it is.
UPDATE jobs
SET stage = told.column1, state = told.column2,
    due_at = iif(told.column2 = 'running' AND state = 'running', due_at, told.column3), updated_at = told.column4,
    completed_at = told.column5, attempt = told.column6, rescues = told.column7, progress = told.column8,
    checkpoint = told.column9, questions = told.column10, result = told.column11, failure = told.column12, version = version + 1
FROM (VALUES {rows}) AS told
WHERE id = told.column13 AND state = 'running' AND epoch = told.column14;

-- name: apply_guarded
-- What somebody else decided on this version.
UPDATE jobs
SET stage = told.column1, state = told.column2,
    due_at = iif(told.column2 = 'running' AND state = 'running', due_at, told.column3), updated_at = told.column4,
    completed_at = told.column5, attempt = told.column6, rescues = told.column7, progress = told.column8,
    checkpoint = told.column9, questions = told.column10, result = told.column11, failure = told.column12, version = version + 1,
    priority = told.column15, labels = told.column16, max_attempts = told.column17, max_rescues = told.column18,
    ttl = told.column19
FROM (VALUES {rows}) AS told
WHERE id = told.column13 AND version = told.column14;

-- name: write_entry
-- A line of a job's history.
INSERT INTO job_history (id, job_id, event, at, state, actor, epoch, attempt, rescues, started_at, detail)
VALUES {rows};

-- name: has_entry
-- Whether this very line was written.
SELECT EXISTS (SELECT 1 FROM job_history WHERE job_id = ? AND id = ?);

-- name: history
-- A job's lines, oldest first.
SELECT job_history.id, event, at, job_history.state, actor, job_history.epoch, job_history.attempt,
       job_history.rescues, job_history.started_at, detail
FROM jobs CROSS JOIN job_history ON job_history.job_id = jobs.id
WHERE jobs.id = :id AND tenant = :tenant AND NOT (stage = 3 AND due_at IS NOT NULL AND due_at <= :now)
ORDER BY job_history.seq;

-- name: overdue
-- Running jobs whose lease, and waiting ones whose deadline is over.
SELECT seq FROM jobs INDEXED BY jobs_due WHERE stage > 0 AND stage = 2 AND due_at < ? ORDER BY due_at, seq LIMIT ?;

-- name: expired
-- Terminal jobs whose time is over.
SELECT seq FROM jobs INDEXED BY jobs_due WHERE stage > 0 AND stage = 3 AND due_at <= ? ORDER BY due_at LIMIT ?;

-- name: census
-- What counts for these jobs.
SELECT tenant, kind, state, count(*) FROM jobs WHERE seq IN (SELECT value FROM json_each(?)) GROUP BY 1, 2, 3;

-- name: delete_history
-- All that goes with jobs.
DELETE FROM job_history WHERE job_id IN (SELECT id FROM jobs WHERE seq IN (SELECT value FROM json_each(?)));

-- name: delete_payloads
-- All that goes with jobs.
DELETE FROM job_payloads WHERE job IN (SELECT value FROM json_each(?));

-- name: delete_jobs
-- The jobs themselves.
DELETE FROM jobs WHERE seq IN (SELECT value FROM json_each(?));

-- name: stats
-- A tenant's counters.
SELECT kind, state, n FROM job_counts WHERE tenant = ? AND n > 0;

-- name: stats_of_all
-- Everybody's counters together.
SELECT kind, state, sum(n) FROM job_counts WHERE n > 0 GROUP BY kind, state;

-- name: next_tenants
-- A page of those who have jobs at all.
SELECT DISTINCT tenant FROM job_counts WHERE n > 0 AND tenant > ? ORDER BY tenant LIMIT ?;

-- name: pending_kinds
-- Of what kinds jobs wait.
SELECT kind FROM job_counts WHERE state = 'pending' AND n > 0;

-- name: not_promoted
-- What is due and nobody has put into line yet.
SELECT tenant, due_at FROM jobs INDEXED BY jobs_due WHERE stage > 0 AND stage = 1 AND due_at <= ? ORDER BY due_at LIMIT ?;

-- name: tenants
-- Who has jobs at all.
SELECT DISTINCT tenant FROM job_counts WHERE n > 0;

-- name: lanes
-- Where a tenant has jobs at all.
SELECT tenant, kind, state FROM job_counts WHERE tenant = ? AND n > 0;

-- name: lanes_of_all
-- Where there are jobs at all.
SELECT tenant, kind, state FROM job_counts WHERE n > 0;

-- name: find_of_all
-- The newest.
SELECT id, seq FROM jobs
WHERE id < :after AND created_at >= :created_from AND created_at < :created_before
  AND NOT (stage = 3 AND due_at IS NOT NULL AND due_at <= :now)
ORDER BY id DESC LIMIT :limit;

-- name: find_in_lane
-- The newest of one kind in one state.
SELECT id, seq FROM jobs INDEXED BY jobs_lane
WHERE tenant = :tenant AND kind = :kind AND state = :state AND id < :after
  AND created_at >= :created_from AND created_at < :created_before
  AND NOT (stage = 3 AND due_at IS NOT NULL AND due_at <= :now)
ORDER BY id DESC LIMIT :limit;

-- name: find_of_user
-- The newest of one user.
SELECT id, seq FROM jobs INDEXED BY jobs_user
WHERE tenant = :tenant AND user_id = :user_id AND user_id IS NOT NULL AND id < :after
  AND (:document_id IS NULL OR document_id = :document_id)
  AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
  AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
  AND created_at >= :created_from AND created_at < :created_before
  AND NOT (stage = 3 AND due_at IS NOT NULL AND due_at <= :now)
ORDER BY id DESC LIMIT :limit;

-- name: find_of_document
-- The newest about one document.
SELECT id, seq FROM jobs INDEXED BY jobs_document
WHERE tenant = :tenant AND document_id = :document_id AND document_id IS NOT NULL AND id < :after
  AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
  AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
  AND created_at >= :created_from AND created_at < :created_before
  AND NOT (stage = 3 AND due_at IS NOT NULL AND due_at <= :now)
ORDER BY id DESC LIMIT :limit;

-- name: log
-- Lines of all histories after the one with this number, and which jobs they are of.
SELECT job_history.seq, tenant, job_id, kind,
       job_history.id, event, at, job_history.state, actor, job_history.epoch, job_history.attempt,
       job_history.rescues, job_history.started_at, detail
FROM job_history LEFT JOIN jobs ON jobs.id = job_history.job_id
WHERE job_history.seq > ? ORDER BY job_history.seq LIMIT ?;

-- name: end_of_log
-- The number of the line written last, whether it is still there or not.
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'job_history'), 0);

-- name: read_values
-- Those of these keys that are there.
SELECT key, value, version FROM job_values WHERE space = ? AND key IN (SELECT value FROM json_each(?));

-- name: spaces
-- Those in which there is anything.
SELECT DISTINCT space FROM job_values ORDER BY space;

-- name: scan_values
-- A page of a space.
SELECT key, value, version FROM job_values WHERE space = ? AND key > ? ORDER BY key LIMIT ?;

-- name: version_of_value
-- What a writer expects.
SELECT version FROM job_values WHERE space = ? AND key = ?;

-- name: next_version
-- A version that no value had.
UPDATE job_values_version SET version = version + 1 RETURNING version;

-- name: put_value
-- In the place of what was there.
INSERT INTO job_values (space, key, value, version) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value, version = excluded.version;

-- name: remove_value
-- Nothing is there any more.
DELETE FROM job_values WHERE space = ? AND key = ?;
