-- How long an idempotency key holds, in microseconds from the job's created_at; NULL: as long as its record lives.
ALTER TABLE jobs ADD COLUMN unique_for INTEGER;

DROP VIEW job_rows;
CREATE VIEW job_rows AS
SELECT seq, id, tenant, kind, state, due_at, created_at, updated_at, priority, epoch, version, attempt, max_attempts,
       rescues, max_rescues, worker, idempotency_key, user_id, document_id, created_by, ttl, started_at, completed_at,
       (SELECT payload FROM job_payloads WHERE job = jobs.seq) AS payload,
       labels, progress, checkpoint, questions, result, failure, unique_for
FROM jobs;
