-- The audited events, and the guard against accidents on them. A table of exactly this shape may be there: partition adopt has made it.

-- +goose Up
CREATE TABLE IF NOT EXISTS public.audit_log (
  id                   bigint      GENERATED ALWAYS AS IDENTITY (MINVALUE 1 MAXVALUE 1099511627775 CACHE 1 NO CYCLE),
  "timestamp"          timestamptz NOT NULL,
  recorded_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  salt                 uuid        DEFAULT gen_random_uuid(),
  processing_latency   integer,
  action               text        NOT NULL,
  status               text        NOT NULL,
  principal_id         text,
  organization_id      text,
  target_resource_type text,
  target_resource_id   text,
  outcome_description  text,
  correlation_id       text,
  event_uid            text,
  data_classification  text        DEFAULT 'INTERNAL',
  retention_policy     text        DEFAULT 'standard',
  event_version        text        DEFAULT '1.0',
  hash                 text,
  hash_algorithm       text,
  ttl                  text,
  archived_at          timestamptz,
  details              jsonb,
  CONSTRAINT audit_log_pkey PRIMARY KEY ("timestamp", id),
  CONSTRAINT audit_log_finite CHECK (isfinite("timestamp")),
  CONSTRAINT audit_log_keys_short CHECK (octet_length(action) <= 512 AND octet_length(status) <= 64 AND octet_length(principal_id) <= 1024
    AND octet_length(organization_id) <= 1024 AND octet_length(target_resource_type) <= 512 AND octet_length(target_resource_id) <= 1024
    AND octet_length(correlation_id) <= 512 AND octet_length(event_uid) <= 512)
) PARTITION BY RANGE ("timestamp");
COMMENT ON TABLE public.audit_log IS 'audit events, append-only; partitioned by auditdb';
COMMENT ON COLUMN public.audit_log.id IS '1 to 2^40-1: given to other writers; ingest: block << 16 | position';
COMMENT ON COLUMN public.audit_log."timestamp" IS 'when it happened; the partition key';
COMMENT ON COLUMN public.audit_log.recorded_at IS 'when it arrived';
COMMENT ON COLUMN public.audit_log.salt IS 'hides the personal fields of an erased row; NULL: adopted row, its salt lies in auditdb.leaf';
COMMENT ON COLUMN public.audit_log.event_uid IS 'the source''s own unique id, for finding duplicates';
COMMENT ON COLUMN public.audit_log.hash IS 'written by older applications; kept, never trusted';

CREATE INDEX IF NOT EXISTS audit_log_id_brin ON public.audit_log USING brin (id int8_minmax_multi_ops);
CREATE INDEX IF NOT EXISTS audit_log_principal_idx ON public.audit_log (principal_id, "timestamp");
CREATE UNIQUE INDEX IF NOT EXISTS audit_log_event_uid_key ON public.audit_log (event_uid, "timestamp") WHERE event_uid IS NOT NULL;

-- +goose StatementBegin
CREATE FUNCTION auditdb.guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  IF coalesce(current_setting('auditdb.purpose', true), '') NOT IN ('erase', 'expire', 'move') THEN
    RAISE EXCEPTION '% on % is not allowed: audit rows are append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation',
      HINT = 'auditdb erases, expires and moves rows and logs that it did';
  END IF;
  RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION auditdb.guard() IS 'a guard against accidents: a superuser can disable it, which verify-integrity is for';
CREATE OR REPLACE TRIGGER audit_log_guard BEFORE UPDATE OR DELETE ON public.audit_log FOR EACH ROW EXECUTE FUNCTION auditdb.guard();
CREATE OR REPLACE TRIGGER audit_log_guard_truncate BEFORE TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION auditdb.guard();

-- Applications write the event's columns and read back what identifies it; they see nothing else. Nobody has grants on partitions here.
GRANT INSERT ("timestamp", processing_latency, action, status, principal_id, organization_id, target_resource_type, target_resource_id,
  outcome_description, correlation_id, event_uid, data_classification, retention_policy, event_version, hash, hash_algorithm, ttl, details),
  SELECT (id, "timestamp") ON public.audit_log TO auditdb_writer;
GRANT INSERT, SELECT ON public.audit_log TO auditdb_ingest;
GRANT SELECT ON public.audit_log TO auditdb_reader;
GRANT USAGE ON SCHEMA auditdb TO auditdb_ingest, auditdb_reader;
GRANT SELECT ON auditdb.goose_db_version TO auditdb_ingest, auditdb_reader;

-- +goose Down
-- +goose StatementBegin
DO $$ DECLARE kept text; found boolean; BEGIN
  FOREACH kept IN ARRAY ARRAY['public.audit_log'] LOOP
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', split_part(kept, ' ', 1));
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', kept) INTO found;
    IF found THEN RAISE EXCEPTION '% has rows', split_part(kept, ' ', 1) USING ERRCODE = 'restrict_violation'; END IF;
  END LOOP;
END $$;
-- +goose StatementEnd
REVOKE SELECT ON auditdb.goose_db_version FROM auditdb_ingest, auditdb_reader;
REVOKE USAGE ON SCHEMA auditdb FROM auditdb_ingest, auditdb_reader;
DROP TABLE public.audit_log;
DROP FUNCTION auditdb.guard();
