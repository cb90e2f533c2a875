-- What auditdb manages, and the rules about it: tables, retention policies, legal holds.

-- +goose Up
CREATE TABLE auditdb.managed_table (
  table_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  schema_name text NOT NULL,
  table_name text NOT NULL,
  time_column text NOT NULL DEFAULT 'timestamp',
  key_kind text NOT NULL DEFAULT 'timestamptz' CHECK (key_kind IN ('timestamptz', 'timestamp', 'date', 'uuidv7', 'epoch_s', 'epoch_ms', 'epoch_us', 'epoch_ns')),
  partition_interval text NOT NULL DEFAULT 'monthly' CHECK (partition_interval IN ('hourly', 'daily', 'weekly', 'monthly', 'quarterly', 'yearly')),
  time_zone text NOT NULL DEFAULT 'UTC',
  ahead integer NOT NULL DEFAULT 3 CHECK (ahead BETWEEN 0 AND 1000),
  integrity text NOT NULL DEFAULT 'on' CHECK (integrity IN ('on', 'off')),
  block_ids boolean NOT NULL DEFAULT true,
  added_at timestamptz NOT NULL DEFAULT now(),
  added_by text NOT NULL DEFAULT session_user,
  UNIQUE (schema_name, table_name)
);
COMMENT ON COLUMN auditdb.managed_table.block_ids IS 'false: id is too narrow for block ids, so rows are never ingested, only sealed';

CREATE TABLE auditdb.policy (
  policy_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  table_id smallint NOT NULL REFERENCES auditdb.managed_table,
  name text NOT NULL,
  retention_policy text,
  data_classification text,
  organization_id text,
  archive_after interval,
  keep interval NOT NULL CHECK (keep > interval '0'),
  action text NOT NULL DEFAULT 'drop' CHECK (action IN ('drop', 'detach')),
  archive_required boolean NOT NULL DEFAULT true,
  min_keep integer NOT NULL DEFAULT 1 CHECK (min_keep >= 0),
  max_drop_per_run integer NOT NULL DEFAULT 12 CHECK (max_drop_per_run > 0),
  set_at timestamptz NOT NULL DEFAULT now(),
  set_by text NOT NULL DEFAULT session_user,
  UNIQUE (table_id, name)
);
COMMENT ON TABLE auditdb.policy IS 'retention; retention_policy, data_classification and organization_id all NULL: of whole partitions';

CREATE TABLE auditdb.floor (
  data_classification text PRIMARY KEY,
  keep interval NOT NULL CHECK (keep > interval '0')
);
COMMENT ON TABLE auditdb.floor IS 'no policy may keep rows of a classification for less than this';

CREATE TABLE auditdb.hold (
  hold_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  table_id smallint REFERENCES auditdb.managed_table,
  span tstzrange NOT NULL DEFAULT '(,)',
  organization_id text,
  principal_id text,
  correlation_id text,
  review_at timestamptz,
  reason text NOT NULL CHECK (reason <> ''),
  added_at timestamptz NOT NULL DEFAULT now(),
  added_by text NOT NULL DEFAULT session_user,
  released_at timestamptz,
  released_by text,
  release_reason text,
  CHECK ((released_at IS NULL) = (released_by IS NULL))
);

GRANT SELECT ON auditdb.managed_table, auditdb.policy, auditdb.floor, auditdb.hold TO auditdb_ingest, auditdb_reader;
INSERT INTO auditdb.managed_table (schema_name, table_name) VALUES ('public', 'audit_log');

-- +goose Down
-- +goose StatementBegin
DO $$ DECLARE kept text; found boolean; BEGIN
  FOREACH kept IN ARRAY ARRAY['auditdb.policy', 'auditdb.floor', 'auditdb.hold', 'auditdb.managed_table WHERE (schema_name, table_name) <> (''public'', ''audit_log'')'] LOOP
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', split_part(kept, ' ', 1));
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', kept) INTO found;
    IF found THEN RAISE EXCEPTION '% has rows', split_part(kept, ' ', 1) USING ERRCODE = 'restrict_violation'; END IF;
  END LOOP;
END $$;
-- +goose StatementEnd
DROP TABLE auditdb.hold, auditdb.floor, auditdb.policy, auditdb.managed_table;
