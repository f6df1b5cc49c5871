-- @migration:-- makes {outbox}, and the triggers of {table} that fill it. Running it again changes nothing.
BEGIN;
-- What has changed and was not read yet: the row's key alone, for the feed reads the row itself.
CREATE TABLE IF NOT EXISTS {outbox} AS SELECT {key} AS id FROM {table} WITH NO DATA;
ALTER TABLE {outbox} ADD COLUMN IF NOT EXISTS seq bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY;
ALTER TABLE {outbox} ADD COLUMN IF NOT EXISTS at timestamptz NOT NULL DEFAULT clock_timestamp();
CREATE INDEX IF NOT EXISTS {index} ON {outbox} (id, seq);
-- A document's version is its number here; an outbox that is made anew must not begin below the old one.
SELECT setval(pg_get_serial_sequence({outbox_text}, 'seq'), greatest(
    nextval(pg_get_serial_sequence({outbox_text}, 'seq')), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint));
-- Who may write the table need not be allowed to write here.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $perdure$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {outbox} (id) SELECT {key} FROM {table};
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO {outbox} (id) VALUES (NEW.{key});
    ELSE
        INSERT INTO {outbox} (id) VALUES (OLD.{key});
        IF TG_OP = 'UPDATE' THEN
            INSERT INTO {outbox} (id) SELECT NEW.{key} WHERE NEW.{key} IS DISTINCT FROM OLD.{key};
        END IF;
    END IF;
    {notify}RETURN NULL;
END $perdure$;
CREATE OR REPLACE TRIGGER {came} AFTER INSERT OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER {changed} AFTER UPDATE ON {table} FOR EACH ROW
    WHEN (ROW({old})::text IS DISTINCT FROM ROW({new})::text) EXECUTE FUNCTION {function}();
DROP TRIGGER IF EXISTS {emptied} ON {table};
CREATE TRIGGER {emptied} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}();
COMMIT;
-- @fill:-- what the table holds now counts as changed, as far as it does not yet.
INSERT INTO {outbox} (id) SELECT {key} FROM {table} AS t
WHERE {key} IS NOT NULL AND NOT EXISTS (SELECT FROM {outbox} AS o WHERE o.id = t.{key})
-- @read:-- rows by their oldest change, each once. One statement is one snapshot: the last number that it sees of a row belongs to the
-- content that it sees, whatever commits meanwhile; and what commits late, with a lower number, is seen the next time.
WITH due AS (SELECT DISTINCT id FROM (SELECT id FROM {outbox} ORDER BY seq LIMIT $1) AS oldest)
SELECT due.id::text AS id, told.seqs, told.at, t.{key} IS NOT NULL AS there, t.{text}::text AS text, {metadata}::text AS metadata
FROM due
CROSS JOIN LATERAL (SELECT array_agg(seq ORDER BY seq) AS seqs, max(at) AS at FROM {outbox} AS o WHERE o.id = due.id) AS told
LEFT JOIN {table} AS t ON t.{key} = due.id
ORDER BY told.seqs[1]
-- @settle:-- these were carried out.
DELETE FROM {outbox} WHERE seq = ANY($1::bigint[])
-- @since:-- rows that changed after a position and before the transactions that may still be under way.
SELECT t.{key}::text AS id, t.{updated}::text AS updated, (extract(epoch FROM t.{updated}) * 1000000)::bigint AS version,
    {gone} AS gone, t.{text}::text AS text, {metadata}::text AS metadata
FROM {table} AS t
WHERE t.{updated} >= $1::text::timestamptz AND (t.{updated} > $1::text::timestamptz OR t.{key}::text > $2)
    AND t.{updated} <= now() - make_interval(secs => $3)
ORDER BY t.{updated}, t.{key}::text
LIMIT $4
