-- name: extension
-- Whether the types of pgvector are at hand, which version is there, where, and which could be.
SELECT to_regtype('vector') IS NOT NULL AS at_hand,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS version,
       (SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'vector') AS place,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS available

-- name: add_namespaces
INSERT INTO perdure_vector_namespaces (tenant, name)
SELECT DISTINCT a.tenant, a.name FROM unnest($1::text[], $2::text[]) AS a (tenant, name)
WHERE NOT EXISTS (SELECT FROM perdure_vector_namespaces n WHERE (n.tenant, n.name) = (a.tenant, a.name))
ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: find_namespaces
SELECT n.id, n.tenant, n.name FROM unnest($1::text[], $2::text[]) AS a (tenant, name)
JOIN perdure_vector_namespaces n ON n.tenant = a.tenant AND n.name = a.name

-- name: add_documents
INSERT INTO perdure_vector_documents (namespace, document_id)
SELECT a.namespace, a.document_id FROM unnest($1::integer[], $2::text[]) AS a (namespace, document_id)
WHERE NOT EXISTS (
    SELECT FROM perdure_vector_documents d WHERE (d.namespace, d.document_id) = (a.namespace, a.document_id)
)
ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: begin_documents
-- Drafts of documents that are not there yet, where their vectors fit beside what readers see in the namespace.
INSERT INTO perdure_vector_documents (namespace, document_id, begun_version, begun_epoch, draft_model, draft_dimension)
SELECT a.* FROM unnest($1::integer[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::integer[])
    AS a (namespace, document_id, version, epoch, model, dimension)
WHERE NOT EXISTS (
    SELECT FROM perdure_vector_documents d WHERE (d.namespace, d.document_id) = (a.namespace, a.document_id)
) AND EXISTS (
    SELECT FROM perdure_vector_namespaces n
    WHERE n.id = a.namespace AND (n.documents = 0 OR (n.model, n.dimension) = (a.model, a.dimension))
)
ORDER BY 1, 2
ON CONFLICT DO NOTHING
RETURNING namespace, document_id, begun_version, begun_epoch, draft_model, draft_dimension

-- name: lock_heads
-- In one order, so that two transactions wait for each other and never in a ring; and each by the index: while the table is
-- filled the planner knows nothing of it, and would read all documents of a namespace for each one that is asked for.
WITH locked AS MATERIALIZED (
    SELECT a.place, a.namespace, found.head
    FROM (
        SELECT * FROM unnest($1::integer[], $2::text[]) WITH ORDINALITY AS a (namespace, document_id, place)
        ORDER BY a.namespace, a.document_id
    ) a
    CROSS JOIN LATERAL (
        SELECT row_to_json(d) AS head FROM perdure_vector_documents d
        WHERE d.namespace = a.namespace AND d.document_id = a.document_id
        FOR UPDATE
    ) found
)
SELECT l.place, l.head, n.documents, n.model, n.dimension, now() AS now
FROM locked l JOIN perdure_vector_namespaces n ON n.id = l.namespace

-- name: affirm
-- Begins drafts whose document shows the same already and has no chunks of another draft.
WITH found AS MATERIALIZED (
    SELECT a.place, found.*
    FROM (
        SELECT * FROM unnest($5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[]) WITH ORDINALITY
            AS a (document_id, version, epoch, content_hash, strategy, source_metadata, place)
        ORDER BY document_id
    ) a
    CROSS JOIN LATERAL (
        SELECT d.id, a.version AS begun_version, a.epoch AS begun_epoch, d.version, d.epoch, d.ingestion_id, d.chunk_count,
               d.published_at
        FROM perdure_vector_documents d
        WHERE d.namespace = (SELECT id FROM perdure_vector_namespaces WHERE (tenant, name) = ($1, $2))
          AND d.document_id = a.document_id AND d.complete AND d.published IS NOT NULL AND d.draft IS NULL
          AND (d.model, d.dimension) = ($3, $4) AND (d.content_hash, d.strategy) = (a.content_hash, a.strategy)
          AND d.source_metadata::text = a.source_metadata
          AND (d.begun_version, d.begun_epoch) <= (a.version, a.epoch)
          AND (d.deleted_version IS NULL OR d.deleted_version < a.version)
        FOR UPDATE
    ) found
), held AS (
    UPDATE perdure_vector_documents d
    SET begun_version = f.begun_version, begun_epoch = f.begun_epoch, draft_model = $3, draft_dimension = $4
    FROM found f WHERE d.id = f.id
)
SELECT place, version, epoch, ingestion_id, chunk_count, published_at FROM found

-- name: save_heads
-- The ids are said twice, for of a JSON text the planner does not know how many heads there are.
UPDATE perdure_vector_documents d
SET deleted_version = h.deleted_version, last_edition = h.last_edition, begun_version = h.begun_version,
    begun_epoch = h.begun_epoch, draft_model = h.draft_model, draft_dimension = h.draft_dimension, draft = h.draft,
    published = h.published, version = h.version, epoch = h.epoch, content_hash = h.content_hash,
    ingestion_id = h.ingestion_id, source_metadata = h.source_metadata, model = h.model, dimension = h.dimension,
    strategy = h.strategy, chunk_count = h.chunk_count, complete = h.complete,
    published_at = h.published_at
FROM json_populate_recordset(NULL::perdure_vector_documents, $1::json) h
WHERE d.id = h.id AND d.id = ANY ($2::bigint[])

-- name: count
-- Last before the commit, for it makes those wait who publish in the same namespaces. What is not returned holds
-- another model's vectors.
UPDATE perdure_vector_namespaces n
SET documents = n.documents + a.documents, chunks = n.chunks + a.chunks, changed_at = now(),
    model = coalesce(a.model, n.model), dimension = coalesce(a.dimension, n.dimension)
FROM (
    SELECT n.id, a.* FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::text[], $5::integer[])
         AS a (namespace, documents, chunks, model, dimension)
    JOIN perdure_vector_namespaces n ON n.id = a.namespace
    ORDER BY n.id FOR UPDATE OF n
) a
WHERE n.id = a.id
  AND (a.model IS NULL OR n.documents = 0 OR (n.model, n.dimension) = (a.model, a.dimension))
RETURNING n.id

-- name: stored_ids
SELECT chunk_id FROM perdure_vector_chunks WHERE document = $1 AND edition = $2 ORDER BY chunk_id

-- name: remove_chunks
DELETE FROM perdure_vector_chunks WHERE document = $1 AND edition = $2 AND chunk_id = ANY ($3::uuid[])

-- name: remove_editions
DELETE FROM perdure_vector_chunks c USING unnest($1::bigint[], $2::integer[]) AS a (document, edition)
WHERE c.document = a.document AND c.edition = a.edition

-- name: drop_editions
INSERT INTO perdure_vector_dropped SELECT * FROM unnest($1::bigint[], $2::integer[])

-- name: take_dropped
SELECT document, edition FROM perdure_vector_dropped LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: sweep
WITH bite AS (
    SELECT chunk_id FROM perdure_vector_chunks WHERE document = $1 AND edition = $2 LIMIT $3
), gone AS (
    DELETE FROM perdure_vector_chunks c USING bite
    WHERE c.document = $1 AND c.edition = $2 AND c.chunk_id = bite.chunk_id
    RETURNING 1
)
SELECT count(*) FROM gone

-- name: swept
DELETE FROM perdure_vector_dropped WHERE document = $1 AND edition = $2

-- name: audit
SELECT row_to_json(d) AS head,
       (SELECT count(*) FROM perdure_vector_chunks c WHERE c.document = d.id AND c.edition = d.published) AS chunks
FROM perdure_vector_namespaces n
JOIN perdure_vector_documents d ON d.namespace = n.id AND d.document_id = ANY ($3::text[])
WHERE n.tenant = $1 AND n.name = $2

-- name: count_chunks
SELECT count(*) AS chunks FROM perdure_vector_chunks WHERE document = $1 AND edition = $2

-- name: strays
-- An edition's number is never given again, so what nobody needs now nobody will need.
SELECT c.document, c.edition, c.chunk_id
FROM perdure_vector_chunks c
LEFT JOIN perdure_vector_documents d ON d.id = c.document
WHERE c.namespace = $1 AND c.edition IS DISTINCT FROM d.published AND c.edition IS DISTINCT FROM d.draft
  AND NOT EXISTS (SELECT FROM perdure_vector_dropped v WHERE (v.document, v.edition) = (c.document, c.edition))
LIMIT $2

-- name: remove_strays
DELETE FROM perdure_vector_chunks c
USING unnest($1::bigint[], $2::integer[], $3::uuid[]) AS a (document, edition, chunk_id)
WHERE (c.document, c.edition, c.chunk_id) = (a.document, a.edition, a.chunk_id)

-- name: lock_namespace
SELECT FROM perdure_vector_namespaces WHERE id = $1 FOR UPDATE

-- name: counted
SELECT n.documents - a.documents AS documents, n.chunks - a.chunks AS chunks
FROM perdure_vector_namespaces n, (
    SELECT count(*) AS documents, coalesce(sum(chunk_count), 0)::bigint AS chunks
    FROM perdure_vector_documents WHERE namespace = $1 AND published IS NOT NULL
) a
WHERE n.id = $1

-- name: correct_counts
UPDATE perdure_vector_namespaces SET documents = documents - $2, chunks = chunks - $3 WHERE id = $1

-- name: missing
SELECT c.chunk_id
FROM perdure_vector_namespaces n
JOIN perdure_vector_documents d ON d.namespace = n.id AND d.document_id = $3
JOIN perdure_vector_chunks c ON c.document = d.id AND c.chunk_id = ANY ($8::uuid[])
     AND (c.edition = d.draft AND (d.begun_version, d.draft_model, d.draft_dimension) = ($4, $6, $7)
          OR c.edition = d.published AND (d.version, d.model, d.dimension) = ($4, $6, $7)
             AND (d.complete OR d.epoch >= $5))
WHERE n.tenant = $1 AND n.name = $2

-- name: vectors
SELECT c.chunk_hash, vector_send(c.embedding) AS embedding
FROM perdure_vector_namespaces n
JOIN perdure_vector_documents d ON d.namespace = n.id AND d.document_id = $3 AND (d.model, d.dimension) = ($4, $5)
JOIN perdure_vector_chunks c ON c.document = d.id AND c.edition = d.published AND c.chunk_hash = ANY ($6::bytea[])
WHERE n.tenant = $1 AND n.name = $2

-- name: documents
SELECT row_to_json(d) AS head
FROM perdure_vector_namespaces n
JOIN perdure_vector_documents d ON d.namespace = n.id AND d.published IS NOT NULL AND d.document_id > $3
WHERE n.tenant = $1 AND n.name = $2
ORDER BY d.document_id LIMIT $4

-- name: document
SELECT row_to_json(d) AS head
FROM perdure_vector_namespaces n
JOIN perdure_vector_documents d ON d.namespace = n.id AND d.published IS NOT NULL AND d.document_id = $3
WHERE n.tenant = $1 AND n.name = $2

-- name: chunks
SELECT c.chunk_id, c.chunk_index, c.chunk_strategy, c.chunk_text, c.chunk_hash, c.first, c.past, c.metadata
FROM perdure_vector_namespaces n
JOIN perdure_vector_documents d ON d.namespace = n.id AND d.document_id = $3
JOIN perdure_vector_chunks c ON c.document = d.id AND c.edition = d.published AND c.chunk_index > $4
WHERE n.tenant = $1 AND n.name = $2
ORDER BY c.chunk_index LIMIT $5

-- name: namespaces
SELECT tenant, name, model, dimension, documents, chunks
FROM perdure_vector_namespaces WHERE tenant = $1 AND documents > 0 ORDER BY name

-- name: place
-- Where to search, and the index that is ready for it.
SELECT n.id AS namespace, n.documents, n.chunks, n.model, n.dimension,
       (SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = 'perdure_vector_chunks'::regclass AND i.indisvalid
          AND starts_with(c.relname, 'perdure_vectors_' || n.id || '_' || n.dimension || '_') LIMIT 1) AS index_name
FROM perdure_vector_namespaces n WHERE n.tenant = $1 AND n.name = $2

-- name: words
-- The first distinct words of a text, as they are indexed, and how many of all chunks hold them, as far as is known; then
-- those of each piece that it writes together.
(SELECT ARRAY[w.lexeme] AS lexemes, coalesce(f.frequency, 0) AS frequency
FROM unnest(perdure_words($1)) AS w
LEFT JOIN (
    SELECT unnest(most_common_elems::text::text[]) AS lexeme, unnest(most_common_elem_freqs) AS frequency
    FROM pg_stats
    WHERE schemaname = ANY (current_schemas(false)) AND tablename = 'perdure_vector_chunks' AND attname = 'words'
) f ON f.lexeme = w.lexeme
ORDER BY w.positions[1] LIMIT $2)
UNION ALL
SELECT array_agg(w.lexeme ORDER BY place), 0
FROM unnest($3::text[]) WITH ORDINALITY AS p (piece, number), unnest(perdure_words(p.piece)) AS w, unnest(w.positions) AS place
GROUP BY p.number HAVING count(*) > 1

-- name: set
SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS a (name, value)

-- name: index_due
-- Namespaces that are large, have no index, and were left alone for a while or are very large.
SELECT n.tenant, n.name FROM perdure_vector_namespaces n
WHERE n.documents > 0 AND coalesce(n.index_kind, $1) <> 'off' AND n.chunks >= $2
  AND (n.changed_at < now() - $3::interval OR n.chunks >= 10 * $2)
  AND NOT EXISTS (
      SELECT FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
      WHERE i.indrelid = 'perdure_vector_chunks'::regclass
        AND starts_with(c.relname, 'perdure_vectors_' || n.id || '_' || n.dimension || '_')
        AND (i.indisvalid OR EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = c.oid))
  )
ORDER BY n.chunks DESC LIMIT 1

-- name: index_wanted
SELECT n.id, n.dimension, n.chunks, n.index_kind FROM perdure_vector_namespaces n WHERE n.tenant = $1 AND n.name = $2

-- name: choose_index
UPDATE perdure_vector_namespaces SET index_kind = $3 WHERE tenant = $1 AND name = $2

-- name: indexes
-- All indexes that a namespace has, of any dimension, and how far those are that are being built.
SELECT c.relname AS name, i.indisvalid AS ready, p.phase,
       CASE WHEN p.pid IS NOT NULL
            THEN coalesce(p.tuples_done::float / nullif(p.tuples_total, 0), p.blocks_done::float / nullif(p.blocks_total, 0), 0)
       END AS fraction
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_stat_progress_create_index p ON p.index_relid = i.indexrelid
WHERE i.indrelid = 'perdure_vector_chunks'::regclass AND starts_with(c.relname, 'perdure_vectors_' || $1::integer || '_')
