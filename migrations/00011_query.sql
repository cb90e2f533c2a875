-- Readers of cached answers see by the identity sequence whether other applications have inserted since, and by the newest redaction whether
-- rows were erased: redact records name no partitions.

-- +goose Up
CREATE INDEX redaction_seq_idx ON auditdb.redaction (table_id, seq);
-- +goose StatementBegin
DO $$ DECLARE ids text := pg_get_serial_sequence('public.audit_log', 'id'); BEGIN
  IF ids IS NOT NULL THEN EXECUTE format('GRANT SELECT ON SEQUENCE %s TO auditdb_ingest, auditdb_reader', ids); END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DO $$ DECLARE ids text := pg_get_serial_sequence('public.audit_log', 'id'); BEGIN
  IF ids IS NOT NULL THEN EXECUTE format('REVOKE SELECT ON SEQUENCE %s FROM auditdb_ingest, auditdb_reader', ids); END IF;
END $$;
-- +goose StatementEnd
DROP INDEX auditdb.redaction_seq_idx;
