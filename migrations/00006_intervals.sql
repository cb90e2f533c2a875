-- Partitions of N hours, days, weeks, months or years.

-- +goose Up
ALTER TABLE auditdb.managed_table DROP CONSTRAINT managed_table_partition_interval_check,
  ADD CONSTRAINT managed_table_partition_interval_check CHECK (partition_interval ~ '^(hourly|daily|weekly|monthly|quarterly|yearly|[1-9][0-9]{0,3}(h|d|w|mo|y))$');

-- +goose Down
-- +goose StatementBegin
DO $$ DECLARE kept text; found boolean; BEGIN
  FOREACH kept IN ARRAY ARRAY['auditdb.managed_table WHERE partition_interval ~ ''^\d'''] LOOP
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', split_part(kept, ' ', 1));
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', kept) INTO found;
    IF found THEN RAISE EXCEPTION '% has rows', split_part(kept, ' ', 1) USING ERRCODE = 'restrict_violation'; END IF;
  END LOOP;
END $$;
-- +goose StatementEnd
ALTER TABLE auditdb.managed_table DROP CONSTRAINT managed_table_partition_interval_check,
  ADD CONSTRAINT managed_table_partition_interval_check CHECK (partition_interval IN ('hourly', 'daily', 'weekly', 'monthly', 'quarterly', 'yearly'));
