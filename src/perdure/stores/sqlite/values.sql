-- Small values beside the jobs. The version is counted over all of them, so that none comes twice for a key.
CREATE TABLE job_values (
    space   TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    value   TEXT    NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_values_version (version INTEGER NOT NULL) STRICT;
INSERT INTO job_values_version VALUES (0);
