package migrations_test

import (
	"strings"
	"testing"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

const (
	denied     = postgres.InsufficientPrivilege
	restricted = postgres.RestrictViolation
	checked    = postgres.CheckViolation
)

// prepared is a migrated database with one partition, one row and one log record.
func prepared(t *testing.T) string {
	t.Helper()
	address := pgtest.DB(t)
	db := open(t, address)
	run(t, db, `SET ROLE auditdb_admin`,
		`CREATE TABLE public.p PARTITION OF public.audit_log FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2040-01-01 00:00+00')`,
		`CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON public.p FOR EACH STATEMENT EXECUTE FUNCTION auditdb.guard()`,
		`INSERT INTO public.audit_log ("timestamp", action, status) VALUES ('2026-01-01', 'login', 'ok')`,
		`INSERT INTO auditdb.log (seq, record, key_id, mac) VALUES (0, 'r', 'k', decode(repeat('00', 32), 'hex'))`)
	return address
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	address := prepared(t)
	const long = `repeat('x', 1025)`
	for _, c := range []struct{ role, sql, state string }{
		{"auditdb_writer", `INSERT INTO public.audit_log ("timestamp", action, status, salt) VALUES (now(), 'a', 's', NULL)`, denied},
		{"auditdb_writer", `INSERT INTO public.audit_log ("timestamp", action, status, recorded_at) VALUES (now(), 'a', 's', now())`, denied},
		{"auditdb_writer", `INSERT INTO public.audit_log (id, "timestamp", action, status) OVERRIDING SYSTEM VALUE VALUES (1, now(), 'a', 's')`, denied},
		{"auditdb_writer", `SELECT principal_id FROM public.audit_log`, denied},
		{"auditdb_writer", `UPDATE public.audit_log SET status = 'x'`, denied},
		{"auditdb_writer", `DELETE FROM public.audit_log`, denied},
		{"auditdb_writer", `INSERT INTO public.p ("timestamp", action, status) VALUES (now(), 'a', 's')`, denied},
		{"auditdb_writer", `SELECT * FROM auditdb.managed_table`, denied},
		{"auditdb_ingest", `UPDATE public.audit_log SET status = 'x'`, denied},
		{"auditdb_ingest", `DELETE FROM auditdb.leaf`, denied},
		{"auditdb_ingest", `UPDATE auditdb.ingest_range SET inserted = 0`, denied},
		{"auditdb_ingest", `UPDATE auditdb.ingest_source SET name = 'x'`, denied},
		{"auditdb_ingest", `INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'x', '1 day')`, denied},
		{"auditdb_ingest", `SELECT setval('auditdb.block_id', 16777216)`, denied},
		{"auditdb_ingest", `CREATE TABLE auditdb.mine ()`, denied},
		{"auditdb_reader", `INSERT INTO public.audit_log ("timestamp", action, status) VALUES (now(), 'a', 's')`, denied},
		{"auditdb_reader", `SELECT salts FROM auditdb.leaf`, denied},
		{"auditdb_reader", `SELECT * FROM public.p`, denied},
		{"auditdb_verifier", `DELETE FROM auditdb.log`, denied},
		{"auditdb_admin", `UPDATE public.audit_log SET status = 'x'`, restricted},
		{"auditdb_admin", `DELETE FROM public.audit_log`, restricted},
		{"auditdb_admin", `DELETE FROM public.p`, restricted},
		{"auditdb_admin", `TRUNCATE public.audit_log`, restricted},
		{"auditdb_admin", `TRUNCATE public.p`, restricted},
		{"auditdb_admin", `UPDATE auditdb.log SET record = 'x'`, restricted},
		{"auditdb_admin", `DELETE FROM auditdb.log`, restricted},
		{"auditdb_admin", `TRUNCATE auditdb.log CASCADE`, restricted},
		{"auditdb_admin", `DELETE FROM auditdb.log_hash`, restricted},
		{"auditdb_admin", `TRUNCATE auditdb.checkpoint`, restricted},
		{"postgres", `DELETE FROM auditdb.checkpoint`, restricted},
		{"postgres", `INSERT INTO public.audit_log (id, "timestamp", action, status) VALUES (1, now(), 'a', 's')`, "428C9"},
		{"auditdb_writer", `INSERT INTO public.audit_log ("timestamp", action, status) VALUES ('infinity', 'a', 's')`, checked},
		{"auditdb_writer", `INSERT INTO public.audit_log ("timestamp", action, status, principal_id) VALUES (now(), 'a', 's', ` + long + `)`, checked},
		{"auditdb_writer", `INSERT INTO public.audit_log ("timestamp", action, status) VALUES ('1999-01-01', 'a', 's')`, checked},
		{"auditdb_writer", `INSERT INTO public.audit_log ("timestamp", action) VALUES (now(), 'a')`, postgres.NotNullViolation},
		{"auditdb_ingest", `INSERT INTO auditdb.log (seq, record, key_id, mac) VALUES (1, 'r', 'k', 'short')`, checked},
		{"auditdb_ingest", `INSERT INTO auditdb.log (seq, record, key_id, mac) VALUES (0, 'r', 'k', decode(repeat('00', 32), 'hex'))`, postgres.UniqueViolation},
		{"auditdb_ingest", `INSERT INTO auditdb.leaf (seq, table_id, part_from, part_to, min_id, max_id, n, ids, leaves) VALUES (0, 1, now(), now(), 1, 1, 2, '', decode(repeat('00', 32), 'hex'))`, checked},
		{"auditdb_ingest", `INSERT INTO auditdb.leaf (seq, table_id, part_from, part_to, min_id, max_id, n, ids, leaves) VALUES (9, 1, now(), now(), 1, 1, 1, '', decode(repeat('00', 32), 'hex'))`, "23503"},
		{"auditdb_admin", `INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'x', '-1 day')`, checked},
		{"auditdb_admin", `INSERT INTO auditdb.managed_table (schema_name, table_name, ahead) VALUES ('s', 't', 1001)`, checked},
		{"auditdb_admin", `INSERT INTO auditdb.managed_table (schema_name, table_name) VALUES ('public', 'audit_log')`, postgres.UniqueViolation},
		{"auditdb_admin", `INSERT INTO auditdb.hold (reason, released_at) VALUES ('x', now())`, checked},
	} {
		t.Run(c.role+" "+c.sql, func(t *testing.T) {
			t.Parallel()
			_, err := roleConn(t, address, c.role).Exec(t.Context(), c.sql)
			if postgres.SQLState(err) != c.state {
				t.Errorf("want %s, got %v", c.state, err)
			}
		})
	}
}

func TestPermitted(t *testing.T) {
	t.Parallel()
	address := prepared(t)
	for _, c := range []struct{ role, sql string }{
		{"auditdb_writer", `INSERT INTO public.audit_log ("timestamp", action, status, details, event_uid) VALUES ('2026-02-01', 'a', 's', '{}', 'u') RETURNING id, "timestamp"`},
		{"auditdb_ingest", `COPY public.audit_log (id, "timestamp", action, status) FROM STDIN`},
		{"auditdb_ingest", `SELECT nextval('auditdb.block_id'), count(*) FROM auditdb.log`},
		{"auditdb_ingest", `INSERT INTO auditdb.ingest_source (table_id, name, format, mapping, mapping_sha256, head_sha256, head_bytes) VALUES (1, 'n', 'f', 'm', '', '', 0) RETURNING source_id`},
		{"auditdb_ingest", `UPDATE auditdb.ingest_source SET finished_at = now(), size_bytes = 1, content_sha256 = ''`},
		{"auditdb_ingest", `INSERT INTO auditdb.job_run (job, version) VALUES ('ingest', 'v') RETURNING run_id`},
		{"auditdb_ingest", `UPDATE auditdb.job_run SET heartbeat_at = now(), finished_at = now(), exit_code = 0, summary = '{}'`},
		{"auditdb_ingest", `INSERT INTO auditdb.log_partition VALUES (1, '2026-01-01', '2026-02-01', 0)`},
		{"auditdb_reader", `SELECT * FROM public.audit_log`},
		{"auditdb_reader", `SELECT seq, ids, leaves FROM auditdb.leaf`},
		{"auditdb_reader", `SELECT * FROM auditdb.goose_db_version, auditdb.managed_table, auditdb.policy, auditdb.floor, auditdb.hold, auditdb.log, auditdb.log_hash, auditdb.checkpoint,
			auditdb.log_partition, auditdb.redaction, auditdb.expired, auditdb.ingest_source, auditdb.ingest_range, auditdb.job_run, auditdb.archive, auditdb.health_sample`},
		{"auditdb_verifier", `SELECT salts FROM auditdb.leaf`},
		{"auditdb_verifier", `SELECT * FROM auditdb.log, public.audit_log`},
		{"auditdb_admin", `SELECT set_config('auditdb.purpose', 'erase', false)`},
	} {
		conn := roleConn(t, address, c.role)
		if c.sql[:4] == "COPY" {
			if _, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader(""), c.sql); err != nil {
				t.Errorf("%s: %s: %v", c.role, c.sql, err)
			}
			continue
		}
		if _, err := conn.Exec(t.Context(), c.sql); err != nil {
			t.Errorf("%s: %s: %v", c.role, c.sql, err)
		}
	}
	// Logged erasure, expiry and moving are let through for their transaction only.
	admin := roleConn(t, address, "auditdb_admin")
	for _, purpose := range []string{"erase", "expire", "move"} {
		tx, err := admin.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `SELECT set_config('auditdb.purpose', $1, true)`, purpose); err != nil {
			t.Fatal(err)
		}
		tag, err := tx.Exec(t.Context(), `UPDATE public.audit_log SET principal_id = NULL`)
		if err != nil || tag.RowsAffected() == 0 {
			t.Errorf("%s: %s, %v", purpose, tag, err)
		}
		tag, err = tx.Exec(t.Context(), `DELETE FROM public.audit_log`)
		if err != nil || tag.RowsAffected() == 0 {
			t.Errorf("%s: %s, %v", purpose, tag, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := admin.Exec(t.Context(), `DELETE FROM public.audit_log`); postgres.SQLState(err) != restricted {
		t.Errorf("after that: %v", err)
	}
}
