-- What ingest has committed of each source, in the transaction of the rows themselves.

-- +goose Up
CREATE SEQUENCE auditdb.block_id AS bigint MINVALUE 16777216 MAXVALUE 140737488355327 CACHE 1 NO CYCLE;
COMMENT ON SEQUENCE auditdb.block_id IS '2^24 to 2^47-1: the upper bits of the ids of ingested rows';

CREATE TABLE auditdb.ingest_source (
  source_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  table_id smallint NOT NULL REFERENCES auditdb.managed_table,
  name text NOT NULL,
  format text NOT NULL,
  mapping text NOT NULL,
  mapping_sha256 bytea NOT NULL,
  head_sha256 bytea NOT NULL,
  head_bytes integer NOT NULL,
  content_sha256 bytea,
  size_bytes bigint,
  finished_at timestamptz,
  first_seen timestamptz NOT NULL DEFAULT now(),
  UNIQUE (table_id, name)
);
CREATE TABLE auditdb.ingest_range (
  source_id bigint NOT NULL REFERENCES auditdb.ingest_source ON DELETE CASCADE,
  first_record bigint NOT NULL,
  last_record bigint NOT NULL CHECK (last_record >= first_record),
  raw_sha256 bytea NOT NULL,
  seq bigint NOT NULL,
  inserted integer NOT NULL,
  duplicate integer NOT NULL,
  rejected integer NOT NULL,
  committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (source_id, first_record)
);
COMMENT ON TABLE auditdb.ingest_range IS 'written with the rows: says whether a COMMIT whose answer was lost arrived';

GRANT SELECT, INSERT ON auditdb.ingest_source, auditdb.ingest_range TO auditdb_ingest;
GRANT UPDATE (content_sha256, size_bytes, finished_at) ON auditdb.ingest_source TO auditdb_ingest;
GRANT USAGE ON SEQUENCE auditdb.block_id TO auditdb_ingest;
GRANT SELECT ON auditdb.ingest_source, auditdb.ingest_range TO auditdb_reader;

-- +goose Down
-- +goose StatementBegin
DO $$ DECLARE kept text; found boolean; BEGIN
  FOREACH kept IN ARRAY ARRAY['auditdb.ingest_source', 'auditdb.ingest_range'] LOOP
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', split_part(kept, ' ', 1));
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', kept) INTO found;
    IF found THEN RAISE EXCEPTION '% has rows', split_part(kept, ' ', 1) USING ERRCODE = 'restrict_violation'; END IF;
  END LOOP;
END $$;
-- +goose StatementEnd
DROP TABLE auditdb.ingest_range, auditdb.ingest_source;
DROP SEQUENCE auditdb.block_id;
