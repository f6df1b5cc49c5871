"""Namespaces, documents, chunks with their vectors and words."""

from functools import reduce

from alembic import op

revision = "0001"
down_revision = None

EXTENSION = "CREATE EXTENSION IF NOT EXISTS vector"

NAMESPACES = """
CREATE TABLE perdure_vector_namespaces (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    -- of what is published, counted as it comes and goes; where nothing is, model and dimension say nothing
    documents bigint NOT NULL DEFAULT 0,
    chunks bigint NOT NULL DEFAULT 0,
    model text NOT NULL DEFAULT '',
    dimension integer NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL DEFAULT now(),
    index_kind text,  -- chosen for this namespace; NULL: as the store's URL says
    UNIQUE (tenant, name)
) WITH (fillfactor = 50)
"""

# A row stays when its document is deleted: it keeps old versions from coming back.
DOCUMENTS = """
CREATE TABLE perdure_vector_documents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace integer NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    deleted_version bigint,
    last_edition integer NOT NULL DEFAULT 0,
    -- the draft: `draft` is its edition, once it has chunks
    begun_version bigint,
    begun_epoch bigint,
    draft_model text,
    draft_dimension integer,
    draft integer,
    -- what readers see
    published integer,
    version bigint,
    epoch bigint,
    content_hash text,
    ingestion_id text,
    source_metadata json,
    model text,
    dimension integer,
    strategy text,
    chunk_count integer,
    complete boolean,
    published_at timestamptz,
    UNIQUE (namespace, document_id)
) WITH (fillfactor = 60)
"""

# How a text is cut into words, in chunks and in queries. PostgreSQL's parser would make host names, paths, tags and signed
# numbers of what these characters join, so they are taken out first (`translate` takes seven times as long). Words are
# neither stemmed nor left out, which would favour one language over all others.
TAKEN_OUT = "./-<>&+"
BARE = reduce(lambda text, sign: f"replace({text}, '{sign}', ' ')", TAKEN_OUT, "left($1, 200000)")
WORDS = f"""
CREATE FUNCTION perdure_words(text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $words$
    SELECT to_tsvector('pg_catalog.simple'::regconfig, {BARE})
$words$
"""

# Exact search reads every vector of a namespace: they stay in the row, while texts may move out. The words begin with one
# that no text holds, the number of the namespace, so that a search touches no other tenant's rows.
CHUNKS = """
CREATE TABLE perdure_vector_chunks (
    document bigint NOT NULL,
    edition integer NOT NULL,
    namespace integer NOT NULL,
    dimension integer NOT NULL,
    chunk_index integer NOT NULL,
    first bigint NOT NULL,
    past bigint NOT NULL,
    chunk_id uuid NOT NULL,
    chunk_hash bytea NOT NULL,
    embedding vector STORAGE MAIN NOT NULL,
    chunk_strategy text NOT NULL,
    metadata json,
    chunk_text text NOT NULL,
    words tsvector STORAGE EXTERNAL NOT NULL
        GENERATED ALWAYS AS (array_to_tsvector(ARRAY[' ' || namespace::text]) || perdure_words(chunk_text)) STORED,
    PRIMARY KEY (document, edition, chunk_id)
) WITH (toast_tuple_target = 4080)
"""
INDEXES = (
    "CREATE INDEX perdure_vector_chunks_by_index ON perdure_vector_chunks (document, edition, chunk_index)",
    "CREATE INDEX perdure_vector_chunks_by_hash ON perdure_vector_chunks (document, edition, chunk_hash)",
    "CREATE INDEX perdure_vector_chunks_words ON perdure_vector_chunks USING gin (words)",
)

# Editions to be swept.
DROPPED = """
CREATE TABLE perdure_vector_dropped (
    document bigint NOT NULL,
    edition integer NOT NULL,
    PRIMARY KEY (document, edition)
)
"""

# For queries by hand: what readers see, under the names that it has everywhere.
VIEW = """
CREATE VIEW perdure_chunks AS
SELECT n.tenant, n.name AS namespace, d.document_id, d.version AS document_version, d.ingestion_id, d.source_metadata,
       c.chunk_id, c.chunk_index, c.chunk_strategy, c.chunk_text, encode(c.chunk_hash, 'hex') AS chunk_hash,
       c.first AS span_start, c.past AS span_end, c.metadata AS chunk_metadata, d.model, c.embedding
FROM perdure_vector_chunks c
JOIN perdure_vector_documents d ON d.id = c.document AND d.published = c.edition
JOIN perdure_vector_namespaces n ON n.id = d.namespace
"""


def upgrade() -> None:
    """Make the tables."""
    for statement in (EXTENSION, NAMESPACES, DOCUMENTS, WORDS, CHUNKS, *INDEXES, DROPPED, VIEW):
        op.execute(statement)
