-- Records about the log itself are found quickly; verdicts of verifications are kept where the appending role cannot write.

-- +goose Up
CREATE INDEX log_control_idx ON auditdb.log (seq)
  WHERE split_part(record, E'\n', 1) IN ('auditdb/1 genesis', 'auditdb/1 key', 'auditdb/1 recovery', 'auditdb/1 revoke');

CREATE TABLE auditdb.verdict (
  table_id smallint NOT NULL REFERENCES auditdb.managed_table,
  part_from timestamptz NOT NULL,
  part_to timestamptz NOT NULL,
  ok boolean NOT NULL,
  log_size bigint NOT NULL CHECK (log_size >= 0),
  checked_at timestamptz NOT NULL,
  checked_by text NOT NULL DEFAULT session_user,
  PRIMARY KEY (table_id, part_from, part_to)
);
COMMENT ON TABLE auditdb.verdict IS 'the newest verdict of verify-integrity on each partition; prune keeps what is not ok';
GRANT SELECT, INSERT, UPDATE ON auditdb.verdict TO auditdb_verifier;
GRANT SELECT ON auditdb.verdict TO auditdb_ingest, auditdb_reader;

-- +goose Down
-- +goose StatementBegin
DO $$ BEGIN
  LOCK TABLE auditdb.verdict IN ACCESS EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM auditdb.verdict) THEN RAISE EXCEPTION 'auditdb.verdict has rows' USING ERRCODE = 'restrict_violation'; END IF;
END $$;
-- +goose StatementEnd
DROP TABLE auditdb.verdict;
DROP INDEX auditdb.log_control_idx;
