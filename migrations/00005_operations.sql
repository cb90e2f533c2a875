-- Records of operation: runs, archives, health samples.

-- +goose Up
CREATE TABLE auditdb.job_run (
  run_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  job text NOT NULL,
  table_id smallint,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  heartbeat_at timestamptz,
  finished_at timestamptz,
  exit_code smallint,
  summary jsonb,
  db_user text NOT NULL DEFAULT session_user,
  os_user text,
  host text,
  pid integer,
  backend_pid integer DEFAULT pg_backend_pid(),
  version text NOT NULL
);
COMMENT ON TABLE auditdb.job_run IS 'every run that changes something; unfinished with an old heartbeat: it was killed';
CREATE INDEX job_run_job_idx ON auditdb.job_run (job, started_at DESC);

CREATE TABLE auditdb.archive (
  archive_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  table_id smallint NOT NULL REFERENCES auditdb.managed_table,
  part_name text NOT NULL,
  part_from timestamptz NOT NULL,
  part_to timestamptz NOT NULL,
  generation integer NOT NULL DEFAULT 1,
  url text NOT NULL UNIQUE,
  format text NOT NULL,
  rows bigint NOT NULL,
  bytes bigint NOT NULL,
  sha256 bytea NOT NULL,
  root bytea NOT NULL,
  log_size bigint NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now(),
  verified_at timestamptz,
  deleted_at timestamptz,
  UNIQUE (table_id, part_from, part_to, generation)
);
CREATE TABLE auditdb.health_sample (
  check_name text NOT NULL,
  object text NOT NULL DEFAULT '',
  taken_at timestamptz NOT NULL,
  value double precision NOT NULL,
  PRIMARY KEY (check_name, object, taken_at)
);

GRANT SELECT, INSERT, UPDATE (heartbeat_at, finished_at, exit_code, summary) ON auditdb.job_run TO auditdb_ingest;
GRANT SELECT ON auditdb.archive, auditdb.health_sample TO auditdb_ingest;
GRANT SELECT ON auditdb.job_run, auditdb.archive, auditdb.health_sample TO auditdb_reader;

-- +goose Down
-- +goose StatementBegin
DO $$ DECLARE kept text; found boolean; BEGIN
  FOREACH kept IN ARRAY ARRAY['auditdb.archive', 'auditdb.health_sample', 'auditdb.job_run WHERE job NOT LIKE ''migrate.%'''] LOOP
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', split_part(kept, ' ', 1));
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', kept) INTO found;
    IF found THEN RAISE EXCEPTION '% has rows', split_part(kept, ' ', 1) USING ERRCODE = 'restrict_violation'; END IF;
  END LOOP;
END $$;
-- +goose StatementEnd
DROP TABLE auditdb.health_sample, auditdb.archive, auditdb.job_run;
