package integrity

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVerifyClean(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	r := f.clean()
	if r.RowsChecked != 230 || r.BatchesChecked != 6 || r.UnsealedRows != 0 {
		t.Errorf("checked %d rows in %d sets, %d unsealed", r.RowsChecked, r.BatchesChecked, r.UnsealedRows)
	}
	if r.Checkpoint == nil || r.Checkpoint.Size != f.int("SELECT count(*) FROM auditdb.log") {
		t.Errorf("checkpoint %+v", r.Checkpoint)
	}
	if !strings.Contains(r.Assurance, "NO EXTERNAL ANCHOR: rollback not excluded") {
		t.Error(r.Assurance)
	}
}

// attack is what a superuser without keys does, and what must be found.
type attack struct {
	name string
	sql  string // %d: the smallest id of a batch of 60 rows in January
	want string // type/severity that must be there
	row  int64  // offset of the row that must be named; -1: none
	only bool   // nothing else may be found
}

func rowAttacks() []attack {
	set := func(name, expr string) attack {
		return attack{name: name, sql: "UPDATE public.audit_log SET " + expr + " WHERE id = %d + 7", want: "row_modified/error", row: 7, only: true}
	}
	return []attack{
		set("timestamp by a microsecond", `"timestamp" = "timestamp" + interval '1 microsecond'`),
		set("recorded_at", "recorded_at = recorded_at - interval '1 microsecond'"),
		set("salt", "salt = gen_random_uuid()"),
		set("salt gone", "salt = NULL"),
		set("processing_latency", "processing_latency = processing_latency + 1"),
		set("processing_latency to NULL", "processing_latency = NULL"),
		set("action", "action = action || ' '"),
		set("status", "status = 'Success'"),
		set("principal_id", "principal_id = 'user-9'"),
		set("organization_id", "organization_id = 'Org'"),
		set("target_resource_type", "target_resource_type = ''"),
		set("target_resource_id", "target_resource_id = NULL"),
		set("NULL to empty", "outcome_description = ''"),
		set("correlation_id", "correlation_id = 'x'"),
		set("event_uid", "event_uid = 'x'"),
		set("data_classification", "data_classification = 'PUBLIC'"),
		set("retention_policy", "retention_policy = NULL"),
		set("event_version", "event_version = '1.1'"),
		set("hash", "hash = NULL"),
		set("hash_algorithm", "hash_algorithm = 'sha256'"),
		set("ttl", "ttl = '1'"),
		set("archived_at", "archived_at = now()"),
		set("64-bit integer by one", "details = jsonb_set(details, '{n}', ((details->>'n')::bigint + 1)::text::jsonb)"),
		set("scale of a number", "details = jsonb_set(details, '{list,1}', '1.5')"),
		set("details to NULL", "details = NULL"),
		set("bytes over a column border", "target_resource_type = target_resource_type || left(target_resource_id, 1), target_resource_id = substr(target_resource_id, 2)"),
		{name: "NULL from empty", sql: "UPDATE public.audit_log SET outcome_description = NULL WHERE id = %d + 8", want: "row_modified/error", row: 8, only: true},
		{
			name: "details of two rows swapped", want: "row_modified/error", row: 7, only: true,
			sql: "UPDATE public.audit_log a SET details = b.details FROM public.audit_log b WHERE a.id + b.id = 2 * %[1]d + 15 AND a.id IN (%[1]d + 7, %[1]d + 8)",
		},
		{
			name: "ids of two rows swapped", want: "row_modified/error", row: 7, only: true,
			sql: "ALTER TABLE public.audit_log ALTER id DROP IDENTITY; UPDATE public.audit_log SET id = 2 * %[1]d + 15 - id WHERE id IN (%[1]d + 7, %[1]d + 8)",
		},
		{name: "row deleted", sql: "DELETE FROM public.audit_log WHERE id = %d + 7", want: "row_missing/error", row: 7, only: true},
		{name: "whole batch deleted", sql: "DELETE FROM public.audit_log WHERE id BETWEEN %[1]d AND %[1]d + 59", want: "row_missing/error", row: -1, only: true},
		{
			name: "inserted into a sealed block", want: "row_unexpected/error", row: 1000, only: true,
			sql: "INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (%d + 1000, '2024-01-05', 'a', 's')",
		},
		{
			name: "inserted with an id of a row", want: "row_unexpected/error", row: 7, only: true,
			sql: "INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (%d + 7, '2024-01-05', 'a', 's')",
		},
		{
			name: "inserted with a block id of nobody", want: "row_unexpected/error", row: 1 << 32, only: true,
			sql: "INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (%d + 4294967296, '2024-01-05', 'a', 's')",
		},
		{
			name: "moved to another month", want: "row_unexpected/error", row: 7,
			sql: `UPDATE public.audit_log SET "timestamp" = "timestamp" + interval '1 month' WHERE id = %d + 7`,
		},
		{
			name: "a copy under a new identity", want: "rows_unsealed/info", row: -1, only: true,
			sql: "INSERT INTO public.audit_log (" + rowColumns + ") SELECT " + strings.Replace(rowColumns, "event_uid", "NULL", 1) + " FROM public.audit_log WHERE id = %d + 7",
		},
	}
}

func TestRowAttacks(t *testing.T) {
	t.Parallel()
	for _, a := range rowAttacks() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			f, first := filled(t)
			sql := a.sql
			if strings.Contains(sql, "%") {
				sql = fmt.Sprintf(sql, first)
			}
			f.exec(sql)
			r := f.verify()
			checkAttack(t, r, a, first)
		})
	}
}

func checkAttack(t *testing.T, r *Report, a attack, first int64) {
	t.Helper()
	if r.OK != !strings.HasSuffix(a.want, "/error") || !slices.Contains(r.types(), a.want) {
		t.Fatalf("want %s, got:\n%s", a.want, r.text())
	}
	if a.only && len(r.types()) != 1 {
		t.Errorf("want only %s, got:\n%s", a.want, r.text())
	}
	typ, _, _ := strings.Cut(a.want, "/")
	if a.row >= 0 && !slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return string(f.Type) == typ && f.RowID != nil && *f.RowID == first+a.row && f.Partition != nil && strings.HasPrefix(*f.Partition, "audit_log_2024_0") && f.Table != nil
	}) {
		t.Errorf("row %d is not named:\n%s", first+a.row, r.text())
	}
}

func storeAttacks() []attack {
	firstBatch := "(SELECT min(seq) FROM auditdb.leaf WHERE block IS NOT NULL)"
	return []attack{
		{name: "batch deleted with its records", want: "log_gap/error", row: -1, only: true, sql: `
			DELETE FROM public.audit_log WHERE id BETWEEN %[1]d AND %[1]d + 59;
			CREATE TEMP TABLE s ON COMMIT DROP AS SELECT seq FROM auditdb.leaf WHERE min_id = %[1]d;
			DELETE FROM auditdb.leaf WHERE seq IN (TABLE s); DELETE FROM auditdb.log_partition WHERE seq IN (TABLE s); DELETE FROM auditdb.log WHERE seq IN (TABLE s)`},
		{name: "batch deleted with its records and tree hashes", want: "log_gap/error", row: -1, only: true, sql: `
			DELETE FROM public.audit_log WHERE id BETWEEN %[1]d AND %[1]d + 59;
			CREATE TEMP TABLE s ON COMMIT DROP AS SELECT seq FROM auditdb.leaf WHERE min_id = %[1]d;
			DELETE FROM auditdb.log_hash WHERE idx >= (SELECT 2 * seq - bit_count(seq::bit(64)) FROM s);
			DELETE FROM auditdb.leaf WHERE seq IN (TABLE s); DELETE FROM auditdb.log_partition WHERE seq IN (TABLE s); DELETE FROM auditdb.log WHERE seq IN (TABLE s)`},
		{name: "record edited", want: "mac_invalid/error", row: -1, sql: "UPDATE auditdb.log SET record = replace(record, 'rows 60', 'rows 59') WHERE seq = " + firstBatch},
		{name: "record's root edited", want: "mac_invalid/error", row: -1, sql: "UPDATE auditdb.log SET record = regexp_replace(record, 'root ..', 'root 00') WHERE seq = " + firstBatch},
		{name: "record no record", want: "mac_invalid/error", row: -1, sql: "UPDATE auditdb.log SET record = 'x' WHERE seq = " + firstBatch},
		{name: "mac edited", want: "mac_invalid/error", row: -1, only: true, sql: "UPDATE auditdb.log SET mac = sha256(mac) WHERE seq = " + firstBatch},
		{name: "key id edited", want: "key_unknown/error", row: -1, only: true, sql: "UPDATE auditdb.log SET key_id = '00000000' WHERE seq = " + firstBatch},
		{name: "records swapped", want: "mac_invalid/error", row: -1, sql: "UPDATE auditdb.log a SET record = b.record FROM auditdb.log b WHERE a.seq + b.seq = 2 * " + firstBatch + " + 1 AND a.seq BETWEEN " + firstBatch + " AND " + firstBatch + " + 1"},
		{name: "record and mac swapped", want: "log_root_mismatch/error", row: -1, sql: "UPDATE auditdb.log a SET record = b.record, mac = b.mac FROM auditdb.log b WHERE a.seq + b.seq = 2 * " + firstBatch + " + 1 AND a.seq BETWEEN " + firstBatch + " AND " + firstBatch + " + 1"},
		{name: "tree hash edited", want: "log_root_mismatch/error", row: -1, only: true, sql: "UPDATE auditdb.log_hash SET hash = sha256(hash) WHERE idx = 2"},
		{name: "newest tree hash edited", want: "log_root_mismatch/error", row: -1, only: true, sql: "UPDATE auditdb.log_hash SET hash = sha256(hash) WHERE idx = (SELECT max(idx) FROM auditdb.log_hash)"},
		{name: "checkpoint root edited", want: "log_root_mismatch/error", row: -1, sql: "UPDATE auditdb.checkpoint SET root = sha256(root) WHERE size = (SELECT min(size) FROM auditdb.checkpoint)"},
		{name: "checkpoint note edited", want: "checkpoint_signature_invalid/error", row: -1, only: true, sql: "UPDATE auditdb.checkpoint SET note = replace(note, 'test.example/log', 'test.example/lag')"},
		{name: "checkpoints swapped", want: "checkpoint_signature_invalid/error", row: -1, sql: "UPDATE auditdb.checkpoint a SET note = (SELECT note FROM auditdb.checkpoint ORDER BY size LIMIT 1)"},
		{name: "newest record deleted", want: "log_truncated/error", row: -1, sql: "DELETE FROM auditdb.leaf WHERE seq = (SELECT max(seq) FROM auditdb.log); DELETE FROM auditdb.log WHERE seq = (SELECT max(seq) FROM auditdb.log)"},
		{name: "newest checkpoint deleted", want: "log_root_mismatch/error", row: -1, only: true, sql: "DELETE FROM auditdb.checkpoint WHERE size = (SELECT max(size) FROM auditdb.checkpoint)"},
		{name: "leaf edited", want: "leaves_corrupt/error", row: -1, only: true, sql: "UPDATE auditdb.leaf SET leaves = overlay(leaves PLACING '\\x00' FROM 40) WHERE seq = " + firstBatch},
		{name: "leaf ids edited", want: "leaves_corrupt/error", row: -1, only: true, sql: "UPDATE auditdb.leaf SET ids = '\\x0001' WHERE seq = " + firstBatch},
		{name: "leaf row deleted", want: "leaves_corrupt/error", row: -1, only: true, sql: "DELETE FROM auditdb.leaf WHERE seq = " + firstBatch},
		{name: "sealed leaf row deleted", want: "leaves_corrupt/error", row: -1, only: true, sql: "DELETE FROM auditdb.leaf WHERE block IS NULL"},
		{name: "leaf row filed under another month", want: "leaves_corrupt/error", row: -1, only: true, sql: "UPDATE auditdb.leaf SET part_from = part_from + interval '1 month', part_to = part_to + interval '1 month' WHERE seq = " + firstBatch},
		{name: "leaf row filed under other ids", want: "leaves_corrupt/error", row: -1, only: true, sql: "UPDATE auditdb.leaf SET min_id = min_id - 1 WHERE seq = " + firstBatch},
		{name: "leaf row filed under another block", want: "leaves_corrupt/error", row: -1, only: true, sql: "UPDATE auditdb.leaf SET block = block + 1000 WHERE seq = " + firstBatch},
		{name: "row and leaf edited together", want: "batch_root_mismatch/error", row: -1, sql: "UPDATE public.audit_log SET ttl = '1' WHERE id = %[1]d + 7; UPDATE auditdb.leaf SET leaves = overlay(leaves PLACING sha256('x') FROM 32 * 7 + 1) WHERE min_id = %[1]d"},
		{name: "row edited and leaf row deleted", want: "batch_root_mismatch/error", row: -1, sql: "UPDATE public.audit_log SET ttl = '1' WHERE id = %[1]d + 7; DELETE FROM auditdb.leaf WHERE min_id = %[1]d"},
		{name: "row edited under a damaged record", want: "row_modified/error", row: 7, sql: "UPDATE public.audit_log SET ttl = '1' WHERE id = %[1]d + 7; UPDATE auditdb.log SET record = 'x' WHERE seq = (SELECT seq FROM auditdb.leaf WHERE min_id = %[1]d)"},
		{name: "whole log emptied", want: "row_unexpected/error", row: -1, sql: "TRUNCATE auditdb.log, auditdb.log_hash, auditdb.checkpoint, auditdb.leaf, auditdb.log_partition CASCADE"},
		{name: "partition dropped", want: "partition_missing/error", row: -1, only: true, sql: "DROP TABLE public.audit_log_2024_01"},
		{name: "partition detached", want: "partition_missing/error", row: -1, only: true, sql: "ALTER TABLE public.audit_log DETACH PARTITION public.audit_log_2024_01"},
		{name: "partition emptied", want: "row_missing/error", row: -1, only: true, sql: "TRUNCATE public.audit_log_2024_01"},
		{name: "partition with wider bounds", want: "partition_bounds_changed/error", row: -1, sql: "ALTER TABLE public.audit_log DETACH PARTITION public.audit_log_2024_01; ALTER TABLE public.audit_log ATTACH PARTITION public.audit_log_2024_01 FOR VALUES FROM ('2023-12-01') TO ('2024-02-01')"},
		{name: "extra partition with rows", want: "partition_unlogged/error", row: -1, sql: "CREATE TABLE public.extra PARTITION OF public.audit_log FOR VALUES FROM ('2030-01-01') TO ('2031-01-01'); INSERT INTO public.audit_log (timestamp, action, status) VALUES ('2030-02-01', 'a', 's')"},
		{name: "extra empty partition", want: "partition_unlogged/warning", row: -1, only: true, sql: "CREATE TABLE public.extra PARTITION OF public.audit_log FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')"},
		{name: "default partition with rows", want: "partition_unlogged/error", row: -1, sql: "CREATE TABLE public.extra PARTITION OF public.audit_log DEFAULT; INSERT INTO public.audit_log (timestamp, action, status) VALUES ('2030-02-01', 'a', 's')"},
		{name: "view in place of the table", want: "hostile_relation/error", row: -1, only: true, sql: "ALTER TABLE public.audit_log RENAME TO hidden; CREATE VIEW public.audit_log AS SELECT * FROM public.hidden"},
		{name: "decoy of the table", want: "hostile_relation/error", row: -1, only: true, sql: "ALTER TABLE public.audit_log RENAME TO hidden; CREATE TABLE public.audit_log AS SELECT * FROM public.hidden; UPDATE auditdb.managed_table SET table_name = 'hidden'"},
		{name: "rule on the table", want: "hostile_relation/error", row: -1, only: true, sql: "CREATE RULE r AS ON INSERT TO public.audit_log DO INSTEAD NOTHING"},
		{name: "rule on a partition", want: "hostile_relation/error", row: -1, only: true, sql: "CREATE RULE r AS ON INSERT TO public.audit_log_2024_01 DO INSTEAD NOTHING"},
		{name: "row security on a partition", want: "hostile_relation/error", row: -1, only: true, sql: "ALTER TABLE public.audit_log_2024_01 ENABLE ROW LEVEL SECURITY"},
		{name: "row security on the table", want: "hostile_relation/warning", row: -1, only: true, sql: "ALTER TABLE public.audit_log ENABLE ROW LEVEL SECURITY"},
		{name: "extra column", want: "uncovered_column/error", row: -1, only: true, sql: "ALTER TABLE public.audit_log ADD COLUMN note text"},
		{name: "column dropped", want: "schema_drift/error", row: -1, only: true, sql: "ALTER TABLE public.audit_log DROP COLUMN ttl"},
		{name: "column of another type", want: "schema_drift/error", row: -1, only: true, sql: "ALTER TABLE public.audit_log ALTER COLUMN ttl TYPE varchar"},
		{name: "column of a type of the same name", want: "schema_drift/error", row: -1, only: true, sql: "CREATE SCHEMA evil; CREATE DOMAIN evil.text AS pg_catalog.text; ALTER TABLE public.audit_log ALTER COLUMN ttl TYPE evil.text"},
		{name: "table dropped", want: "partition_missing/error", row: -1, only: true, sql: "DROP TABLE public.audit_log"},
		{name: "table unmanaged", want: "row_modified/error", row: 7, only: true, sql: "UPDATE public.audit_log SET ttl = '1' WHERE id = %[1]d + 7; UPDATE auditdb.managed_table SET integrity = 'off'"},
		{name: "sealed row changed", want: "row_modified/error", row: -1, only: true, sql: "UPDATE public.audit_log SET ttl = '1' WHERE id = 5"},
		{name: "sealed row deleted", want: "row_missing/error", row: -1, only: true, sql: "DELETE FROM public.audit_log WHERE id = 5"},
		{name: "row out of bounds", want: "partition_bounds_changed/error", row: -1, sql: "ALTER TABLE public.audit_log DETACH PARTITION public.audit_log_2024_01; " +
			"UPDATE public.audit_log_2024_01 SET timestamp = '2025-01-01' WHERE id = %[1]d + 7; ALTER TABLE public.audit_log_2024_01 ADD CONSTRAINT c CHECK (timestamp IS NOT NULL AND timestamp >= '2024-01-01' AND timestamp < '2024-02-01') NOT VALID; " +
			"UPDATE pg_constraint SET convalidated = true WHERE conname = 'c'; ALTER TABLE public.audit_log ATTACH PARTITION public.audit_log_2024_01 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')"},
	}
}

func TestStoreAttacks(t *testing.T) {
	t.Parallel()
	for _, a := range storeAttacks() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			f, first := filled(t)
			sql := a.sql
			if strings.Contains(sql, "%") {
				sql = fmt.Sprintf(sql, first)
			}
			f.exec(sql)
			checkAttack(t, f.verify(), a, first)
		})
	}
}

func TestNoFalseAlarm(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"rename a partition":       "ALTER TABLE public.audit_log_2024_01 RENAME TO january",
		"move to another schema":   "CREATE SCHEMA attic; ALTER TABLE public.audit_log_2024_01 SET SCHEMA attic",
		"rename the table":         "ALTER TABLE public.audit_log RENAME TO events; UPDATE auditdb.managed_table SET table_name = 'events'",
		"cluster":                  "CLUSTER public.audit_log_2024_01 USING audit_log_2024_01_pkey",
		"delete and insert again":  "CREATE TEMP TABLE x ON COMMIT DROP AS SELECT * FROM public.audit_log WHERE id < 50; DELETE FROM public.audit_log WHERE id < 50; INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM x",
		"reverse the heap":         "CREATE TEMP TABLE x ON COMMIT DROP AS SELECT * FROM public.audit_log; DELETE FROM public.audit_log; INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM x ORDER BY id DESC",
		"odd settings of the role": "ALTER DATABASE %s SET timezone = 'Asia/Kolkata'; ALTER DATABASE %[1]s SET datestyle = 'German'; ALTER DATABASE %[1]s SET extra_float_digits = -5; ALTER DATABASE %[1]s SET bytea_output = 'escape'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := filled(t)
			if strings.Contains(sql, "%") {
				sql = fmt.Sprintf(sql, f.text("SELECT quote_ident(current_database())"))
			}
			f.exec(sql)
			f.clean()
		})
	}
	for _, sql := range []string{"VACUUM FULL public.audit_log_2024_01", "REINDEX TABLE public.audit_log", "VACUUM FREEZE ANALYZE"} {
		t.Run(sql, func(t *testing.T) {
			t.Parallel()
			f, _ := filled(t)
			if _, err := f.db.Pool().Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
			f.clean()
		})
	}
}

func TestUnsealedAge(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert(0, 5)
	f.exec("UPDATE public.audit_log SET recorded_at = now() - interval '2 days'")
	r := f.verify()
	if !r.OK || r.UnsealedRows != 5 || !slices.Equal(r.types(), []string{"rows_unsealed/info"}) {
		t.Errorf("%d unsealed:\n%s", r.UnsealedRows, r.text())
	}
	for age, ok := range map[time.Duration]bool{0: false, 24 * time.Hour: false, 72 * time.Hour: true} {
		r = f.verify(func(o *VerifyOptions) { o.MaxUnsealedAge = &age })
		if r.OK != ok {
			t.Errorf("%s: %s", age, r.text())
		}
	}
	f.exec("UPDATE public.audit_log SET recorded_at = now() + interval '1 hour'") // a clock that is ahead
	r = f.verify(func(o *VerifyOptions) { o.MaxUnsealedAge = new(time.Duration) })
	if r.OK || !slices.Equal(r.types(), []string{"rows_unsealed/error"}) {
		t.Error(r.text())
	}
}
