-- Every statement of the job store. Values are bound, states are literal so that the partial indexes apply.
--
-- Plans must not depend on how full the tables are or what the statistics say: arrays come in by a sub-select, so that
-- the planner reckons with ten rows whatever their length; rows are reached one by one, by a lateral sub-select with a
-- LIMIT or OFFSET that it may not flatten, or by `= ANY (ARRAY (...))`. tests/contracts/test_postgres_plans.py watches.

-- name: columns
id, tenant, kind, state, due_at, created_at, updated_at, priority, epoch, version, attempt, max_attempts, rescues,
max_rescues, worker, idempotency_key, user_id, document_id, created_by, ttl, started_at, completed_at, payload,
labels, run

-- name: columns_as_text
-- For connections that are not ours: their owner may have a codec of his own for json.
id, tenant, kind, state, due_at, created_at, updated_at, priority, epoch, version, attempt, max_attempts, rescues,
max_rescues, worker, idempotency_key, user_id, document_id, created_by, ttl, started_at, completed_at,
payload::text, labels::text, run::text

-- name: visible
(due_at IS NULL OR due_at > now() OR state IN ('pending', 'running', 'waiting'))

-- name: now
SELECT clock_timestamp()

-- name: enough
-- See keeping.py. Below nought: nobody has counted yet, and a few pages are reckoned with.
SELECT reltuples < 0 OR reltuples >= 1000 FROM pg_class WHERE oid = 'perdure_jobs'::regclass

-- name: insert_one
WITH added AS (
    INSERT INTO perdure_jobs ({columns})
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
            $23::text::json, $24::text::json, $25::text::json)
    ON CONFLICT DO NOTHING
    RETURNING id, tenant, kind, state
), counted AS (
    INSERT INTO perdure_count_changes SELECT tenant, kind, state, 1 FROM added
)
SELECT CASE WHEN $27::text IS NOT NULL THEN pg_notify($26::text, $27) END FROM added

-- name: insert
-- New jobs; those whose id or key is there already are left out of the answer.
WITH added AS (
    INSERT INTO perdure_jobs ({columns})
    SELECT id, tenant, kind, state, due_at, created_at, updated_at, priority, epoch, version, attempt, max_attempts,
           rescues, max_rescues, worker, idempotency_key, user_id, document_id, created_by, ttl, started_at,
           completed_at, payload::json, labels::json, run::json
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                $7::timestamptz[], $8::smallint[], $9::integer[], $10::integer[], $11::integer[], $12::integer[],
                $13::integer[], $14::integer[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[],
                $20::interval[], $21::timestamptz[], $22::timestamptz[], $23::text[], $24::text[], $25::text[])
         AS given ({columns})
    ON CONFLICT DO NOTHING
    RETURNING id, tenant, kind, state
), counted AS (
    INSERT INTO perdure_count_changes SELECT tenant, kind, state, count(*) FROM added GROUP BY tenant, kind, state
)
SELECT id FROM added

-- name: count_copied
INSERT INTO perdure_count_changes SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])

-- name: known
-- The jobs that are there under these ids or keys, expired ones too.
SELECT {columns_as_text}, {visible} AS visible, clock_timestamp() AS asked_at
FROM perdure_jobs WHERE id = ANY ((SELECT $1::uuid[])::uuid[])
UNION ALL
SELECT job.* FROM unnest((SELECT $2::text[]), (SELECT $3::text[])) AS given (tenant, key)
CROSS JOIN LATERAL (
    SELECT {columns_as_text}, {visible} AS visible, clock_timestamp() AS asked_at FROM perdure_jobs
    WHERE tenant = given.tenant AND idempotency_key = given.key OFFSET 0
) AS job

-- name: unkey
-- Other jobs take over the keys of these.
UPDATE perdure_jobs SET idempotency_key = NULL, version = version + 1
WHERE id = ANY ($1::uuid[]) AND idempotency_key IS NOT NULL

-- name: get
SELECT {columns} FROM perdure_jobs WHERE id = ANY ($1::uuid[]) AND {visible}

-- name: history
SELECT entry FROM perdure_history
WHERE job_id = $2 AND EXISTS (SELECT FROM perdure_jobs WHERE id = $2 AND tenant = $1 AND {visible})
ORDER BY version

-- name: find
SELECT {columns} FROM perdure_jobs WHERE id < $1 AND {visible}

-- name: find_running
-- All that run, whoever's: few, by the index of what is held, and not by a walk over all jobs.
WITH held AS MATERIALIZED (
    SELECT id FROM perdure_jobs WHERE state IN ('running', 'waiting') AND due_at > '-infinity' ORDER BY due_at
)
SELECT {columns} FROM perdure_jobs
WHERE id = ANY (ARRAY (SELECT id FROM held)) AND id < $1 AND {visible} AND state || '' = 'running'

-- name: find_in_lanes
-- A page of one tenant, newest first: the newest of each of its lanes (kind, state), then the newest of those.
-- Compared as rows, and ordered by all of them: by equalities the planner may walk all jobs by id, and filter.
WITH lane AS MATERIALIZED (
    SELECT kind, state FROM perdure_counts WHERE tenant = $1
    UNION
    SELECT kind, state FROM perdure_count_changes WHERE tenant = $1
)
SELECT job.* FROM lane CROSS JOIN LATERAL (
    SELECT {columns} FROM perdure_jobs
    WHERE (tenant, kind, state) >= ($1, lane.kind, lane.state)
      AND (tenant, kind, state, id) < ($1, lane.kind, lane.state, $2) AND {visible}
      AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)
    ORDER BY tenant DESC, kind DESC, state DESC, id DESC LIMIT $3
) AS job
WHERE ($4::text[] IS NULL OR lane.kind = ANY ($4)) AND ($5::text[] IS NULL OR lane.state = ANY ($5))
ORDER BY job.id DESC LIMIT $3

-- name: find_by_user_id
-- The id is compared together with the user, so that no plan walks all jobs by id, with statistics or without.
SELECT {columns} FROM perdure_jobs
WHERE user_id IS NOT NULL AND tenant = $1 AND (user_id, id) < ($2, $3)
  AND (user_id, id) >= ($2, '00000000-0000-0000-0000-000000000000') AND {visible}

-- name: find_by_document_id
SELECT {columns} FROM perdure_jobs
WHERE document_id IS NOT NULL AND tenant = $1 AND (document_id, id) < ($2, $3)
  AND (document_id, id) >= ($2, '00000000-0000-0000-0000-000000000000') AND {visible}

-- name: count
SELECT count(*) FROM perdure_jobs WHERE {visible}

-- name: stats
SELECT kind, state, sum(jobs)::bigint AS jobs
FROM (SELECT * FROM perdure_counts UNION ALL SELECT * FROM perdure_count_changes) AS counted
WHERE $1::text IS NULL OR tenant = $1
GROUP BY kind, state HAVING sum(jobs) <> 0

-- name: tenants
-- A page of those who have jobs, and since when the first of each is due: one probe for each lane of pending jobs.
WITH RECURSIVE lane AS (
    SELECT * FROM (
        SELECT kind, - priority AS rung, tenant, due_at FROM perdure_jobs WHERE state = 'pending' AND kind > ''
        ORDER BY kind, - priority, tenant, due_at, id LIMIT 1
    ) AS first
  UNION ALL
    SELECT next.* FROM lane CROSS JOIN LATERAL (
        SELECT kind, - priority AS rung, tenant, due_at FROM perdure_jobs
        WHERE state = 'pending' AND (kind, - priority, tenant) > (lane.kind, lane.rung, lane.tenant)
        ORDER BY kind, - priority, tenant, due_at, id LIMIT 1
    ) AS next
), known AS (
    (SELECT DISTINCT tenant FROM perdure_counts WHERE tenant > $1 ORDER BY tenant LIMIT $2)
    UNION
    (SELECT DISTINCT tenant FROM perdure_count_changes WHERE tenant > $1 ORDER BY tenant LIMIT $2)
)
SELECT known.tenant, min(lane.due_at) FILTER (WHERE lane.due_at <= clock_timestamp()) AS due_at
FROM known LEFT JOIN lane USING (tenant) GROUP BY known.tenant ORDER BY known.tenant LIMIT $2

-- name: fold
-- Move a bite of count changes into the counts.
WITH bite AS (
    DELETE FROM perdure_count_changes
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM perdure_count_changes LIMIT 10000 FOR UPDATE SKIP LOCKED))
    RETURNING tenant, kind, state, jobs
)
INSERT INTO perdure_counts
SELECT tenant, kind, state, sum(jobs) FROM bite GROUP BY tenant, kind, state ORDER BY tenant, kind, state
ON CONFLICT (tenant, kind, state) DO UPDATE SET jobs = perdure_counts.jobs + excluded.jobs

-- name: move_taken
moved AS (
    UPDATE perdure_jobs
    SET state = 'running', worker = $1, epoch = epoch + 1, version = version + 1, due_at = now() + $4,
        started_at = now(), updated_at = now()
    WHERE id = ANY (ARRAY (SELECT id FROM taken))
), counted AS (
    INSERT INTO perdure_count_changes
    SELECT tenant, kind, step.state, step.sign * jobs
    FROM (SELECT tenant, kind, count(*) AS jobs FROM taken GROUP BY tenant, kind) AS lanes
    CROSS JOIN (VALUES ('pending', -1), ('running', 1)) AS step (state, sign)
)

-- name: taken_fields
SELECT id, tenant, kind, created_at, priority, epoch, version, attempt, max_attempts, rescues, max_rescues,
       idempotency_key, user_id, document_id, created_by, ttl, completed_at, payload, labels, run, due_at,
       CASE WHEN row_number() OVER () = 1 THEN now() END AS claimed_at,

-- name: claim
-- One round: jobs of the highest priority that has any due, its tenants in turn. `more`: another round may find more.
--   rung: the priorities in use, per kind; negative, so that they ascend
--   lane: their tenants, from the one after whom was served last: one probe each, however many jobs it has
--   share: how many of each lane: the first job of each tenant, then the second of each ...; by age within a tenant
WITH RECURSIVE rung AS (
    SELECT asked.kind, head.rung
    FROM unnest((SELECT $2::text[])) AS asked (kind)
    CROSS JOIN LATERAL (
        -- Bounded, so that it is a range of one index: else, where few were pending at the last ANALYZE, PostgreSQL 18
        -- skips through that of lists.
        SELECT - priority AS rung FROM perdure_jobs
        WHERE state = 'pending' AND kind = asked.kind AND - priority > -1001
        ORDER BY - priority LIMIT 1
    ) AS head
  UNION ALL
    SELECT rung.kind, next.rung
    FROM rung CROSS JOIN LATERAL (
        SELECT - priority AS rung FROM perdure_jobs
        WHERE state = 'pending' AND kind = rung.kind AND - priority > rung.rung
        ORDER BY - priority LIMIT 1
    ) AS next
), lane AS (
    SELECT rung.kind, rung.rung, wrapped, coalesce(turn.tenant, '') COLLATE "C" AS last,
           CASE WHEN wrapped THEN '' ELSE coalesce(turn.tenant, '') END COLLATE "C" AS tenant,
           NULL::timestamptz AS due_at, 0 AS ready
    FROM rung
    LEFT JOIN unnest((SELECT $5::integer[]), (SELECT $6::text[])) AS turn (rung, tenant) ON turn.rung = rung.rung
    CROSS JOIN (VALUES (false), (true)) AS walk (wrapped)
  UNION ALL
    SELECT lane.kind, lane.rung, wrapped, last, next.tenant, next.due_at,
           ready + CASE WHEN next.due_at <= now() THEN 1 ELSE 0 END
    FROM lane CROSS JOIN LATERAL (
        SELECT tenant, due_at FROM perdure_jobs
        WHERE state = 'pending' AND kind = lane.kind AND - priority = lane.rung AND tenant > lane.tenant
        ORDER BY tenant, due_at, id LIMIT 1
    ) AS next
    WHERE ready < $3 AND (NOT wrapped OR next.tenant <= last)
), due AS MATERIALIZED (
    SELECT kind, rung, tenant, wrapped, min(rung) OVER () AS top FROM lane WHERE due_at <= now()
), reach AS MATERIALIZED (
    SELECT least($3, ceil(4.0 * $3 / count(DISTINCT tenant) FILTER (WHERE rung = top)))::integer AS jobs,
           count(*) FILTER (WHERE rung = top) AS lanes, bool_or(rung > top) AS lower
    FROM due HAVING count(*) > 0
), share AS MATERIALIZED (
    SELECT kind, rung, tenant, $3::bigint AS jobs FROM due WHERE rung = top AND (SELECT lanes FROM reach) = 1
  UNION ALL (
    SELECT kind, rung, tenant, count(*) AS jobs
    FROM (
        SELECT due.kind, due.rung, due.tenant, wrapped
        FROM due CROSS JOIN LATERAL (
            SELECT due_at, id FROM perdure_jobs
            WHERE state = 'pending' AND kind = due.kind AND - priority = due.rung AND tenant = due.tenant
              AND due_at <= now()
            ORDER BY due_at, id LIMIT (SELECT jobs FROM reach)
        ) AS job
        WHERE rung = top AND (SELECT lanes FROM reach) > 1
        ORDER BY row_number() OVER (PARTITION BY due.tenant ORDER BY job.due_at, job.id), wrapped, due.tenant
        LIMIT $3
    ) AS chosen
    GROUP BY kind, rung, tenant, wrapped ORDER BY wrapped, tenant
  )
), taken AS MATERIALIZED (
    SELECT job.* FROM share CROSS JOIN LATERAL (
        SELECT {columns} FROM perdure_jobs
        WHERE state = 'pending' AND kind = share.kind AND - priority = share.rung AND tenant = share.tenant
          AND due_at <= now()
        ORDER BY due_at, id LIMIT share.jobs FOR UPDATE SKIP LOCKED
    ) AS job
), {move_taken}
{taken_fields} reach.lower OR reach.jobs < $3 AS more
FROM taken CROSS JOIN reach

-- name: oldest_pending
-- See floor.py.
SELECT least(min(due_at), now()) AS oldest FROM perdure_jobs WHERE state = 'pending' AND kind = ANY ($1::text[])

-- name: hold_limits
-- From now to the end of the transaction nobody else claims jobs of these kinds by a limit.
SELECT pg_advisory_xact_lock(hashtextextended('perdure_jobs ' || kind, 0)) FROM unnest($1::text[]) AS held (kind)

-- name: running
-- How many jobs of these kinds run, by tenant: what `stats` counts.
SELECT tenant, kind, sum(jobs)::bigint AS jobs
FROM (SELECT * FROM perdure_counts UNION ALL SELECT * FROM perdure_count_changes) AS counted
WHERE kind = ANY ($1::text[]) AND state = 'running' GROUP BY tenant, kind

-- name: next_rung
-- The highest priority below the last one (negative, so that they ascend) that these kinds have jobs of.
SELECT min(head.rung)
FROM unnest((SELECT $1::text[])) AS asked (kind)
CROSS JOIN LATERAL (
    SELECT - priority AS rung FROM perdure_jobs WHERE state = 'pending' AND kind = asked.kind AND - priority > $2
    ORDER BY - priority LIMIT 1
) AS head

-- name: next_tenants
-- Who has a job due there, from the one after $4 on: one probe for each, as in `claim`. Full lanes ($5, $6) are passed over.
WITH RECURSIVE lane AS (
    SELECT asked.kind, wrapped, CASE WHEN wrapped THEN '' ELSE $4::text END COLLATE "C" AS tenant, false AS ready,
           0 AS found
    FROM unnest((SELECT $1::text[])) AS asked (kind) CROSS JOIN (VALUES (false), (true)) AS walk (wrapped)
  UNION ALL
    SELECT lane.kind, wrapped, next.tenant, next.ready, found + next.ready::integer
    FROM lane CROSS JOIN LATERAL (
        SELECT tenant, due_at <= now() AND NOT EXISTS (
            SELECT FROM unnest((SELECT $5::text[]), (SELECT $6::text[])) AS laden (kind, tenant)
            WHERE laden.kind = lane.kind AND laden.tenant = job.tenant
        ) AS ready
        FROM perdure_jobs AS job
        WHERE state = 'pending' AND kind = lane.kind AND - priority = $2 AND tenant > lane.tenant
        ORDER BY tenant, due_at, id LIMIT 1
    ) AS next
    WHERE found < $3 AND (NOT wrapped OR next.tenant <= $4)
)
SELECT tenant FROM lane WHERE ready GROUP BY tenant ORDER BY bool_and(wrapped), tenant

-- name: next_in_lanes
-- The first jobs of each lane, as many of it as may be taken, locked.
SELECT lane.kind, lane.tenant, job.id
FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::integer[])) AS lane (kind, tenant, jobs)
CROSS JOIN LATERAL (
    SELECT due_at, id FROM perdure_jobs
    WHERE state = 'pending' AND kind = lane.kind AND - priority = $4 AND tenant = lane.tenant AND due_at <= now()
    ORDER BY due_at, id LIMIT lane.jobs FOR UPDATE SKIP LOCKED
) AS job
ORDER BY lane.tenant, job.due_at, job.id

-- name: take
-- Those of them that were chosen.
WITH taken AS MATERIALIZED (
    SELECT {columns} FROM perdure_jobs WHERE id = ANY ((SELECT $2::uuid[])::uuid[]) LIMIT $3
), {move_taken}
{taken_fields} false AS more
FROM taken

-- name: extend
-- The guard is a CASE, so that no index on states is thought of.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest((SELECT $2::uuid[]), (SELECT $3::integer[])) AS given (id, epoch) ORDER BY id
)
UPDATE perdure_jobs AS job SET due_at = now() + $4, version = job.version + 1
FROM given
WHERE job.id = given.id
  AND CASE WHEN job.epoch = given.epoch THEN job.state = 'running' AND job.worker = $1 ELSE false END
RETURNING job.id, tenant

-- name: apply
-- The answer is the place of those whose guard holds. Whoever waits for a row compares its newest version. Rows are
-- taken by id, and counts are only inserted: nobody waits in a circle. What a worker writes was running before.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        (SELECT $1::uuid[]), (SELECT $2::integer[]), (SELECT $3::integer[]), (SELECT $4::text[]), (SELECT $5::text[]),
        (SELECT $6::timestamptz[]), (SELECT $7::timestamptz[]), (SELECT $8::timestamptz[]), (SELECT $9::integer[]),
        (SELECT $10::integer[]), (SELECT $11::text[]), (SELECT $12::uuid[]), (SELECT $13::text[]),
        (SELECT $14::smallint[]), (SELECT $15::text[]), (SELECT $16::integer[]), (SELECT $17::integer[]),
        (SELECT $18::interval[])
    ) WITH ORDINALITY AS given (
        id, epoch, version, state_before, state, due_at, updated_at, completed_at, attempt, rescues, run, entry_id,
        entry, priority, labels, max_attempts, max_rescues, ttl, place
    ) ORDER BY id
), moved AS (
    UPDATE perdure_jobs AS job
    SET state = given.state,
        due_at = CASE WHEN given.state = 'running' AND job.state = 'running' THEN job.due_at ELSE given.due_at END,
        updated_at = given.updated_at, completed_at = given.completed_at, attempt = given.attempt,
        rescues = given.rescues, run = given.run::json, version = job.version + 1,
        priority = CASE WHEN given.version IS NULL THEN job.priority ELSE given.priority END,
        labels = CASE WHEN given.version IS NULL THEN job.labels ELSE given.labels::json END,
        max_attempts = CASE WHEN given.version IS NULL THEN job.max_attempts ELSE given.max_attempts END,
        max_rescues = CASE WHEN given.version IS NULL THEN job.max_rescues ELSE given.max_rescues END,
        ttl = CASE WHEN given.version IS NULL THEN job.ttl ELSE given.ttl END
    FROM given
    WHERE job.id = given.id
      AND CASE WHEN given.version IS NULL THEN job.state = 'running' AND job.epoch = given.epoch
               ELSE job.version = given.version END
    RETURNING job.id, job.tenant, job.kind, job.version, job.state,
              coalesce(state_before, 'running') AS state_before, entry_id, entry, place
), told AS (
    INSERT INTO perdure_history SELECT id, version, entry_id, entry::json FROM moved WHERE entry_id IS NOT NULL
), counted AS (
    INSERT INTO perdure_count_changes
    SELECT tenant, kind, step.state, sum(step.sign * jobs)
    FROM (
        SELECT tenant, kind, state, state_before, count(*) AS jobs FROM moved GROUP BY tenant, kind, state, state_before
    ) AS lanes CROSS JOIN LATERAL (VALUES (state_before, -1), (lanes.state, 1)) AS step (state, sign)
    GROUP BY tenant, kind, step.state HAVING sum(step.sign * jobs) <> 0
)
SELECT array_agg(place) AS places FROM moved

-- name: written_before
-- The places of those whose entry is in the history already.
SELECT given.place
FROM unnest((SELECT $1::uuid[]), (SELECT $2::uuid[])) WITH ORDINALITY AS given (job_id, id, place)
CROSS JOIN LATERAL (
    SELECT FROM perdure_history WHERE job_id = given.job_id AND id = given.id LIMIT 1
) AS entry

-- name: expired
SELECT {columns} FROM perdure_jobs WHERE state IN ('running', 'waiting') AND due_at <= now() AND due_at >= $2
ORDER BY due_at, id LIMIT $1

-- name: lock
-- Before a job is deleted: whoever writes to it is waited for, so that the next statement sees all of its history.
SELECT id FROM perdure_jobs WHERE id = $2 AND tenant = $1 FOR UPDATE

-- name: remove
WITH gone AS (
    DELETE FROM perdure_jobs WHERE id = ANY ($1::uuid[]) RETURNING id, tenant, kind, state
), forgotten AS (
    DELETE FROM perdure_history WHERE job_id = ANY (ARRAY (SELECT id FROM gone))
), counted AS (
    INSERT INTO perdure_count_changes SELECT tenant, kind, state, - count(*) FROM gone GROUP BY tenant, kind, state
)
SELECT id FROM gone

-- name: expire
-- Those of these jobs that may go: locked, and nobody is about to requeue them.
SELECT id FROM perdure_jobs
WHERE id = ANY ($1::uuid[]) AND state IN ('completed', 'partial', 'failed', 'cancelled') AND due_at <= now()
ORDER BY id FOR UPDATE

-- name: purge
SELECT id, due_at FROM perdure_jobs
WHERE state IN ('completed', 'partial', 'failed', 'cancelled') AND due_at <= now() AND due_at >= $2
ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED

-- name: log
-- A page of the log: what is committed, up to the oldest transaction that still writes. `later`: a position of the future.
SELECT line.tx::text AS tx, line.job_id, line.version, job.tenant, job.kind, line.entry
FROM (
    SELECT tx, job_id, version, entry FROM perdure_history
    WHERE (tx, job_id, version) > ($1::text::xid8, $2::uuid, $3::integer)
      AND tx < (SELECT pg_snapshot_xmin(pg_current_snapshot()))
    ORDER BY tx, job_id, version LIMIT $4
) AS line
LEFT JOIN LATERAL (SELECT tenant, kind FROM perdure_jobs WHERE id = line.job_id OFFSET 0) AS job ON true
ORDER BY line.tx, line.job_id, line.version

-- name: end_of_log
-- The last line that a page would give: a transaction that wrote nothing durable may lose its number in a crash, and another one get it.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS ahead, last.tx::text AS tx, last.job_id, last.version
FROM (VALUES (1)) AS once
LEFT JOIN LATERAL (
    SELECT tx, job_id, version FROM perdure_history WHERE tx < (SELECT pg_snapshot_xmin(pg_current_snapshot()))
    ORDER BY tx DESC, job_id DESC, version DESC LIMIT 1
) AS last ON true

-- name: read_values
SELECT key, value, version FROM perdure_values WHERE space = $1 AND key = ANY ($2::text[])

-- name: spaces
SELECT DISTINCT space FROM perdure_values ORDER BY space

-- name: scan_values
SELECT key, value, version FROM perdure_values WHERE space = $1 AND key > $2 ORDER BY key LIMIT $3

-- name: create_value
INSERT INTO perdure_values (space, key, value, version)
VALUES ($1, $2, $3::text::json, nextval('perdure_values_version')) ON CONFLICT DO NOTHING RETURNING version

-- name: change_value
UPDATE perdure_values SET value = $3::text::json, version = nextval('perdure_values_version')
WHERE space = $1 AND key = $2 AND version = $4 RETURNING version

-- name: remove_value
DELETE FROM perdure_values WHERE space = $1 AND key = $2 AND version = $3 RETURNING version
