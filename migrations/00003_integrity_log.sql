-- The append-only integrity log, its Merkle tree, its signed checkpoints and the leaves of sealed rows. One log a database.

-- +goose Up
CREATE TABLE auditdb.log (
  seq bigint PRIMARY KEY CHECK (seq >= 0),
  record text NOT NULL CHECK (octet_length(record) < 65536),
  key_id text NOT NULL,
  mac bytea NOT NULL CHECK (octet_length(mac) = 32),
  appended_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE auditdb.log_hash (
  idx bigint PRIMARY KEY CHECK (idx >= 0),
  hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
CREATE TABLE auditdb.checkpoint (
  size bigint PRIMARY KEY CHECK (size > 0),
  root bytea NOT NULL CHECK (octet_length(root) = 32),
  note text NOT NULL,
  made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE auditdb.leaf (
  seq bigint PRIMARY KEY REFERENCES auditdb.log,
  table_id smallint NOT NULL REFERENCES auditdb.managed_table,
  part_from timestamptz NOT NULL,
  part_to timestamptz NOT NULL,
  block bigint,
  min_id bigint NOT NULL,
  max_id bigint NOT NULL,
  n integer NOT NULL CHECK (n BETWEEN 1 AND 65536),
  ids bytea NOT NULL,
  leaves bytea NOT NULL CHECK (octet_length(leaves) = 32 * n),
  salts bytea CHECK (octet_length(salts) = 16 * n)
);
COMMENT ON TABLE auditdb.leaf IS 'one row a batch or seal record: the leaf hashes of its rows in id order';
ALTER TABLE auditdb.leaf ALTER ids SET STORAGE EXTERNAL, ALTER leaves SET STORAGE EXTERNAL, ALTER salts SET STORAGE EXTERNAL;
CREATE INDEX leaf_part_idx ON auditdb.leaf (table_id, part_from, min_id);

CREATE TABLE auditdb.log_partition (
  table_id smallint NOT NULL REFERENCES auditdb.managed_table,
  part_from timestamptz NOT NULL,
  part_to timestamptz NOT NULL,
  seq bigint NOT NULL REFERENCES auditdb.log,
  PRIMARY KEY (table_id, part_from, part_to, seq)
);
COMMENT ON TABLE auditdb.log_partition IS 'which partitions a record touches; the default partition is -infinity to infinity';

CREATE TABLE auditdb.redaction (
  table_id smallint NOT NULL REFERENCES auditdb.managed_table,
  id bigint NOT NULL,
  seq bigint NOT NULL REFERENCES auditdb.log,
  pers_commit bytea NOT NULL CHECK (octet_length(pers_commit) = 32),
  PRIMARY KEY (table_id, id)
);
COMMENT ON TABLE auditdb.redaction IS 'erased rows; the root of a list of them is in its redact record';

CREATE TABLE auditdb.expired (
  seq bigint NOT NULL REFERENCES auditdb.log,
  leaf_seq bigint NOT NULL,
  n integer NOT NULL CHECK (n > 0),
  ids bytea NOT NULL,
  PRIMARY KEY (seq, leaf_seq)
);
COMMENT ON TABLE auditdb.expired IS 'rows that a shorter row-level policy took out of a sealed leaf set';

-- +goose StatementBegin
CREATE FUNCTION auditdb.append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN RAISE EXCEPTION 'auditdb.% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$;
-- +goose StatementEnd
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON auditdb.log FOR EACH STATEMENT EXECUTE FUNCTION auditdb.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON auditdb.log_hash FOR EACH STATEMENT EXECUTE FUNCTION auditdb.append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON auditdb.checkpoint FOR EACH STATEMENT EXECUTE FUNCTION auditdb.append_only();

GRANT SELECT, INSERT ON auditdb.log, auditdb.log_hash, auditdb.checkpoint, auditdb.leaf, auditdb.log_partition TO auditdb_ingest;
GRANT SELECT ON auditdb.redaction, auditdb.expired TO auditdb_ingest;
GRANT SELECT ON auditdb.log, auditdb.log_hash, auditdb.checkpoint, auditdb.log_partition, auditdb.redaction, auditdb.expired TO auditdb_reader;
-- The salts of adopted rows stay with the verifier.
GRANT SELECT (seq, table_id, part_from, part_to, block, min_id, max_id, n, ids, leaves) ON auditdb.leaf TO auditdb_reader;
GRANT SELECT ON auditdb.leaf TO auditdb_verifier;

-- +goose Down
-- +goose StatementBegin
DO $$ DECLARE kept text; found boolean; BEGIN
  FOREACH kept IN ARRAY ARRAY['auditdb.log', 'auditdb.log_hash', 'auditdb.checkpoint', 'auditdb.leaf', 'auditdb.log_partition', 'auditdb.redaction', 'auditdb.expired'] LOOP
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', split_part(kept, ' ', 1));
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', kept) INTO found;
    IF found THEN RAISE EXCEPTION '% has rows', split_part(kept, ' ', 1) USING ERRCODE = 'restrict_violation'; END IF;
  END LOOP;
END $$;
-- +goose StatementEnd
DROP TABLE auditdb.expired, auditdb.redaction, auditdb.log_partition, auditdb.leaf, auditdb.checkpoint, auditdb.log_hash, auditdb.log;
DROP FUNCTION auditdb.append_only();
