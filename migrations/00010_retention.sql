-- Policies say how far clocks may be apart; holds have the salt of what the log keeps of them.

-- +goose Up
ALTER TABLE auditdb.policy ADD COLUMN max_clock_skew interval NOT NULL DEFAULT '5 seconds' CHECK (max_clock_skew > interval '0');
ALTER TABLE auditdb.hold ADD COLUMN salt bytea NOT NULL DEFAULT decode(replace(gen_random_uuid()::text, '-', ''), 'hex') CHECK (octet_length(salt) = 16);

-- +goose Down
-- +goose StatementBegin
DO $$ BEGIN
  LOCK TABLE auditdb.hold IN ACCESS EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM auditdb.hold) THEN RAISE EXCEPTION 'auditdb.hold has rows' USING ERRCODE = 'restrict_violation'; END IF;
END $$;
-- +goose StatementEnd
ALTER TABLE auditdb.hold DROP COLUMN salt;
ALTER TABLE auditdb.policy DROP COLUMN max_clock_skew;
