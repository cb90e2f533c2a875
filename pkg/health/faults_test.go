package health

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// fault is made for real; the check, and no other one, has to see it.
type faultCase struct {
	check   string
	status  Status
	message string // part of it
	limits  Limits
	make    func(w *ward) (undo func())
	deep    bool
	also    []string       // others that see the same
	with    func(*Options) // what else is asked otherwise
	only    bool           // nothing else is looked at: what is asked otherwise turns others as well
}

func sqlFault(w *ward, do, undo string) func() {
	w.exec(do)
	return func() { w.exec(undo) }
}

// setting changes a setting of the server.
func setting(name, value string) func(w *ward) func() {
	return func(w *ward) func() {
		w.exec("ALTER SYSTEM SET "+name+" = "+value, "SELECT pg_reload_conf()")
		w.until("setting <> '' AND setting = '" + strings.Trim(value, "'") + "' FROM pg_settings WHERE name = '" + name + "'")
		return func() {
			w.exec("ALTER SYSTEM RESET "+name, "SELECT pg_reload_conf()")
			w.until("setting <> '" + strings.Trim(value, "'") + "' FROM pg_settings WHERE name = '" + name + "'")
		}
	}
}

// lacks lists what a test's server is not given, and that its version has come to its end.
func lacks(major int) []string {
	list := []string{"checksums", "pg_stat_statements"}
	if end, known := endOfLife(major); known && time.Now().After(end) {
		list = append(list, "server_version")
	}
	return list
}

// asItIs makes nothing: the server has the fault, or a limit makes one of its state.
func asItIs(*ward) func() { return func() {} }

func faults() []faultCase {
	return []faultCase{
		{check: "idle_in_transaction", status: Warning, message: "1 session idle in transaction", limits: limit(0, 3600), make: func(w *ward) func() { return w.hold("BEGIN", "SELECT 1") }},
		{check: "long_transaction", status: Critical, message: "is open for", limits: limit(0, 0.001), make: func(w *ward) func() { return w.busy("SELECT pg_sleep(60)") }},
		{check: "xmin_horizon", status: Warning, message: "holds back row versions", limits: limit(5, 1e9), make: func(w *ward) func() {
			end := w.busy("SELECT pg_sleep(60)", "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
			for range 8 {
				w.exec("SELECT pg_current_xact_id()")
			}
			return end
		}},
		{check: "prepared_transactions", status: Warning, message: "forgotten", limits: limit(0, 3600), make: func(w *ward) func() {
			w.exec("BEGIN", "CREATE TABLE p ()", "PREPARE TRANSACTION 'forgotten'")
			return func() { w.exec("ROLLBACK PREPARED 'forgotten'") }
		}},
		{check: "blocked_locks", status: Critical, message: "has waited for pid", limits: limit(0, 0.001), make: func(w *ward) func() {
			first := w.busy("SELECT pg_sleep(60)", "BEGIN", "LOCK TABLE public.audit_log IN SHARE MODE")
			second := w.busy("LOCK TABLE public.audit_log IN ROW EXCLUSIVE MODE", "BEGIN")
			return func() { second(); first() }
		}},
		{check: "connections", status: Critical, message: "connections are used", make: func(w *ward) func() {
			var ends []func()
			for range 25 {
				ends = append(ends, w.hold())
			}
			return func() {
				for _, end := range ends {
					end()
				}
				w.until("count(*) < 6 FROM pg_stat_activity WHERE backend_type = 'client backend'")
			}
		}},
		{check: "xid_age", status: Warning, message: "transaction ids", limits: limit(1, 1e9), make: asItIs},
		{check: "multixact_age", status: Warning, message: "multixact ids", limits: limit(0, 1e9), make: asItIs},
		{check: "sequences", status: Critical, message: "public.narrow_id_seq is the fullest", make: func(w *ward) func() {
			return sqlFault(w, "CREATE TABLE narrow (id serial PRIMARY KEY); SELECT setval('narrow_id_seq', 2000000000)", "DROP TABLE narrow")
		}},
		{check: "invalid_indexes", status: Critical, message: "should keep rows unique", make: func(w *ward) func() {
			w.exec("CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2)")
			conn := w.connect()
			if _, err := conn.Exec(w.Context(), "CREATE UNIQUE INDEX CONCURRENTLY twice_a ON twice (a)"); err == nil {
				w.Fatal("an index over duplicates was made")
			}
			return func() { w.exec("DROP TABLE twice") }
		}},
		{check: "disabled_triggers", status: Critical, message: "guard audit tables", make: func(w *ward) func() {
			return sqlFault(w, "ALTER TABLE public.audit_log DISABLE TRIGGER audit_log_guard_truncate", "ALTER TABLE public.audit_log ENABLE TRIGGER audit_log_guard_truncate")
		}},
		{check: "slot_inactive", status: Warning, message: "without a consumer", limits: limit(0, 1e9), make: func(w *ward) func() {
			return sqlFault(w, "SELECT pg_create_physical_replication_slot('lonely', true)", "SELECT pg_drop_replication_slot('lonely')")
		}},
		{check: "archiver", status: Warning, message: "archiving fails", make: func(w *ward) func() {
			undo := setting("archive_command", "'false'")(w)
			w.exec("SELECT pg_stat_reset_shared('archiver')", "SELECT pg_logical_emit_message(false, 'x', 'y')", "SELECT pg_switch_wal()")
			w.until("failed_count > 0 FROM pg_stat_archiver")
			return func() {
				undo()
				w.exec("SELECT pg_logical_emit_message(false, 'x', 'y')", "SELECT pg_switch_wal()")
				w.archived()
			}
		}},
		{check: "autovacuum", status: Critical, message: "autovacuum is off", make: setting("autovacuum", "'off'")},
		{check: "durability", status: Critical, message: "fsync is off", make: setting("fsync", "'off'")},
		{check: "durability", status: Warning, message: "synchronous_commit is off", make: setting("synchronous_commit", "'off'")},
		{check: "partition_coverage", status: Critical, message: "no partition for the current interval", make: func(w *ward) func() { return w.detach(0, 5) }},
		{check: "partition_coverage", status: Warning, message: "1 more, of 3", make: func(w *ward) func() { return w.detach(2, 5) }},
		{check: "partition_gaps", status: Warning, message: "no partition holds", make: func(w *ward) func() { return w.detach(-1, 0) }},
		{check: "default_rows", status: Warning, message: "has rows", make: func(w *ward) func() {
			w.exec("CREATE TABLE public.audit_log_default PARTITION OF public.audit_log DEFAULT",
				`INSERT INTO public.audit_log ("timestamp", action, status) VALUES ('2001-01-01', 'a', 'b')`)
			return func() { w.exec("DROP TABLE public.audit_log_default") }
		}},
		{check: "pending_detach", status: Critical, message: "has not ended", make: func(w *ward) func() {
			name := "public.audit_log_" + time.Now().UTC().AddDate(0, -2, 1-time.Now().UTC().Day()).Format("2006_01")
			end := w.busy("SELECT pg_sleep(60)", "BEGIN", "SELECT count(*) FROM public.audit_log")
			conn := w.connect("SET statement_timeout = '300ms'")
			if _, err := conn.Exec(w.Context(), "ALTER TABLE public.audit_log DETACH PARTITION "+name+" CONCURRENTLY"); err == nil {
				w.Fatal("the detach did not wait")
			}
			end()
			return func() { w.exec("ALTER TABLE public.audit_log DETACH PARTITION "+name+" FINALIZE", "DROP TABLE "+name) }
		}},
		{check: "retention_overdue", status: Critical, message: "past retention", make: func(w *ward) func() {
			now := time.Now().UTC()
			w.exec("CREATE TABLE public.audit_log_2020 PARTITION OF public.audit_log FOR VALUES FROM ('2020-01-01Z') TO ('"+time.Date(now.Year(), now.Month()-1, 1, 0, 0, 0, 0, time.UTC).Format(time.RFC3339)+"')",
				"CREATE TABLE public.audit_log_2015 PARTITION OF public.audit_log FOR VALUES FROM ('2015-01-01Z') TO ('2020-01-01Z')",
				"INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'short', '1 year')")
			return func() {
				w.exec("DELETE FROM auditdb.policy", "DROP TABLE public.audit_log_2020", "DROP TABLE public.audit_log_2015")
			}
		}},
		{check: "holds", status: Warning, message: "1 past the date of review", make: func(w *ward) func() {
			return sqlFault(w, "INSERT INTO auditdb.hold (reason, review_at) VALUES ('case 7', now() - interval '1 day')", "DELETE FROM auditdb.hold")
		}},
		{check: "integrity", status: Critical, message: "did not pass its last verification", make: func(w *ward) func() {
			return sqlFault(w, `INSERT INTO auditdb.log (seq, record, key_id, mac) VALUES (0, 'x', 'k', repeat('x', 32)::bytea);
				INSERT INTO auditdb.verdict (table_id, part_from, part_to, ok, log_size, checked_at, checked_by) VALUES (1, '2024-01-01', '2024-02-01', false, 1, now(), 'x')`,
				"SET session_replication_role = replica; DELETE FROM auditdb.verdict; DELETE FROM auditdb.log")
		}},
		{check: "migrations", status: Warning, message: "1 migration pending", make: func(w *ward) func() {
			w.exec("CREATE TABLE kept AS SELECT * FROM auditdb.goose_db_version WHERE version_id = (SELECT max(version_id) FROM auditdb.goose_db_version)", "DELETE FROM auditdb.goose_db_version WHERE version_id = (SELECT version_id FROM kept)")
			return func() {
				w.exec("INSERT INTO auditdb.goose_db_version OVERRIDING SYSTEM VALUE SELECT * FROM kept", "DROP TABLE kept")
			}
		}},
		{check: "jobs", status: Warning, message: "failed with exit code 1", make: func(w *ward) func() {
			return sqlFault(w, "INSERT INTO auditdb.job_run (job, finished_at, exit_code, version) VALUES ('retention.run', now(), 1, 'x')", "DELETE FROM auditdb.job_run")
		}},
		{check: "jobs", status: Critical, message: "it used to every", make: func(w *ward) func() {
			return sqlFault(w, "INSERT INTO auditdb.job_run (job, started_at, finished_at, exit_code, version) SELECT 'partition.create', now() - n * interval '1 day', now(), 0, 'x' FROM generate_series(5, 14) n", "DELETE FROM auditdb.job_run")
		}},
		{check: "write_grants", deep: true, status: Critical, message: "clerk on", make: func(w *ward) func() {
			return sqlFault(w, "CREATE ROLE clerk; GRANT DELETE ON public.audit_log TO clerk", "DROP OWNED BY clerk; DROP ROLE clerk")
		}},
		{check: "unlogged", deep: true, status: Critical, message: "unlogged", make: func(w *ward) func() {
			name := "public.audit_log_" + time.Now().UTC().AddDate(0, -1, 1-time.Now().UTC().Day()).Format("2006_01")
			return sqlFault(w, "ALTER TABLE "+name+" SET UNLOGGED", "ALTER TABLE "+name+" SET LOGGED")
		}},
		{check: "duplicate_indexes", deep: true, status: OK, message: "1 index that another one does the work of", make: func(w *ward) func() {
			return sqlFault(w, "CREATE TABLE d (a int); CREATE INDEX ON d (a); CREATE INDEX ON d (a)", "DROP TABLE d")
		}},
		{check: "pending_restart", deep: true, status: Warning, message: "max_connections", make: func(w *ward) func() {
			w.exec("ALTER SYSTEM SET max_connections = 31", "SELECT pg_reload_conf()")
			w.until("bool_or(pending_restart) FROM pg_settings")
			return func() {
				w.exec("ALTER SYSTEM RESET max_connections", "SELECT pg_reload_conf()")
				w.until("NOT bool_or(pending_restart) FROM pg_settings")
			}
		}},
	}
}

// archived waits until the server counts that archiving has gone on after it had failed.
func (w *ward) archived() {
	w.until("coalesce(last_archived_time > last_failed_time, false) FROM pg_stat_archiver")
}

// detach takes partitions of months from this one on out of the table, and puts them back.
func (w *ward) detach(from, to int) (undo func()) {
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	var back []string
	for n := from; n < to; n++ {
		at := month.AddDate(0, n, 0)
		name := "public.audit_log_" + at.Format("2006_01")
		w.exec("ALTER TABLE public.audit_log DETACH PARTITION " + name)
		back = append(back, fmt.Sprintf("ALTER TABLE public.audit_log ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')", name, at.Format(time.RFC3339), at.AddDate(0, 1, 0).Format(time.RFC3339)))
	}
	return func() { w.exec(back...) }
}

// Each fault is made on a server that is well otherwise: that check turns, and no unrelated one.
func TestFaults(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	if sick := ill(w.run(w.o)); len(sick) > 0 {
		t.Fatalf("a healthy server: %+v", sick)
	}
	deep := w.o
	deep.Deep = true
	before := ill(w.run(deep))
	if sick := slices.Sorted(maps.Keys(before)); !slices.Equal(sick, lacks(w.pg.Major())) {
		t.Fatalf("a healthy server with --deep: %+v", before)
	}
	for _, f := range slices.Concat(faults(), fillings(), rates(), logFaults()) { //nolint:paralleltest // all on one server, one after the other
		t.Run(f.check+" "+string(f.status), func(t *testing.T) {
			undo := f.make(w)
			defer undo()
			o := w.o
			o.Deep, o.Limits = f.deep, unhurried()
			o.Limits[f.check] = f.limits
			if f.with != nil {
				f.with(&o)
			}
			if f.only {
				o.Only = []string{f.check}
			}
			report := w.run(o)
			sick := ill(report)
			if f.check == "unused_indexes" && w.pg.Major() < 15 { // which counts from the making of the database on, and does not say that nobody has reset it
				f.status, f.message = Skipped, "scans have been counted for"
			}
			at := slices.IndexFunc(report.Checks, func(c Result) bool { return c.Name == f.check })
			if c := report.Checks[at]; c.Status != f.status || !strings.Contains(c.Message, f.message) || (c.Status != OK && c.Status != Skipped && c.Hint == "") {
				t.Errorf("%+v", c)
			}
			for name, c := range sick {
				if _, was := before[name]; name != f.check && !slices.Contains(f.also, name) && (!f.deep || !was) {
					t.Errorf("an unrelated one turned as well: %+v", c)
				}
			}
			if f.status != OK && report.Checks[0].Name != f.check && !f.deep && f.also == nil {
				t.Errorf("the first is %s", report.Checks[0].Name)
			}
		})
	}
	if sick := ill(w.run(w.o)); len(sick) > 0 {
		t.Errorf("afterwards: %+v", sick)
	}
}

// Each check that there is has a fault that makes it turn, and each fault a check.
func TestEveryCheckHasAFault(t *testing.T) {
	t.Parallel()
	made := map[string]bool{}
	for _, f := range slices.Concat(faults(), fillings(), rates(), logFaults()) {
		made[f.check] = true
	}
	for _, f := range redisFaults() {
		made[f.check] = true
	}
	for _, f := range otherFaults() {
		made[f.check] = true
	}
	// What is made by the program itself.
	for check, script := range map[string]string{"anchor_drift": "health_anchors.txtar"} {
		text, err := os.ReadFile("../../cmd/testdata/script/" + script)
		if err != nil {
			t.Fatal(err)
		}
		made[check] = strings.Contains(string(text), "CRITICAL +"+check)
	}
	for _, c := range Known() {
		if !made[c.Name] {
			t.Errorf("nothing proves that %s sees its fault", c.Name)
		}
		delete(made, c.Name)
	}
	for name := range made {
		t.Errorf("there is no check %s", name)
	}
}
