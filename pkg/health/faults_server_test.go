package health

import (
	"fmt"
	"time"
)

// fillings are faults of what fills up, wears out, or is not as it should be.
func fillings() []faultCase {
	return []faultCase{
		{check: "clock_skew", status: Warning, message: "behind this one's", make: asItIs, with: func(o *Options) { o.Now = func() time.Time { return time.Now().Add(2 * time.Second) } }},
		{check: "clock_skew", status: Critical, message: "ahead of this one's", only: true, make: asItIs, with: func(o *Options) { o.Now = func() time.Time { return time.Now().Add(-time.Minute) } }},
		// The version is what it is: the tool's clock says that its end has come.
		{check: "server_version", status: Warning, message: "gets no fixes any more", deep: true, only: true, make: asItIs, with: func(o *Options) { o.Now = func() time.Time { return time.Now().AddDate(20, 0, 0) } }},
		{check: "pg_stat_statements", deep: true, status: Warning, message: "is not loaded", make: asItIs},
		{check: "checksums", deep: true, status: Warning, message: "are off", make: asItIs},
		{check: "lock_table", deep: true, status: Warning, message: "locks are taken", make: func(w *ward) func() {
			return w.hold("SELECT count(pg_advisory_lock(n)) FROM generate_series(1000, 2299) n")
		}},
		{check: "stuck_lock", deep: true, status: Critical, message: "auditdb/retention.run", limits: limit(0, 0.001), make: func(w *ward) func() {
			return w.hold("SET application_name = 'auditdb/retention.run'", "SELECT pg_advisory_lock(7)")
		}},
		// The real limit is 100 % of autovacuum_freeze_max_age, where autovacuum begins by itself and would mend the fault under the test.
		{check: "freeze_lag", deep: true, status: Warning, message: "of autovacuum_freeze_max_age", limits: limit(0.3, 1e9), make: func(w *ward) func() {
			w.exec(`CREATE TABLE burnt (a int)`, `DO $$ BEGIN FOR n IN 1..500 LOOP BEGIN INSERT INTO burnt VALUES (1); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$`)
			return func() { w.exec("DROP TABLE burnt", "VACUUM (FREEZE)") }
		}},
		{check: "dead_tuples", deep: true, status: Critical, message: "public.worn has 20000 dead rows", make: func(w *ward) func() {
			w.exec("CREATE TABLE worn AS SELECT n FROM generate_series(1, 20000) n", "DELETE FROM worn")
			w.until("n_dead_tup >= 20000 FROM pg_stat_user_tables WHERE relname = 'worn'")
			return func() { w.exec("DROP TABLE worn") }
		}},
		{check: "insert_vacuum_lag", deep: true, status: Critical, message: "public.filled got 150000 rows", make: func(w *ward) func() { return w.filled(150_000) }},
		{check: "last_vacuum", deep: true, status: Warning, message: "public.filled was last analyzed", limits: limit(0, 1e9), make: func(w *ward) func() {
			undo := w.filled(150_000)
			w.exec("VACUUM filled")
			w.until("n_ins_since_vacuum = 0 FROM pg_stat_user_tables WHERE relname = 'filled'")
			return undo
		}},
		{check: "unused_indexes", deep: true, status: OK, message: "1 index of more than 10 MB without a scan", make: func(w *ward) func() {
			undo := w.filled(700_000)
			w.exec("CREATE INDEX ON filled (n)", "VACUUM ANALYZE filled")
			return undo
		}},
		{check: "partition_size", deep: true, status: Warning, message: "the largest partition, public.audit_log_", limits: limit(8192, 1e12), make: func(w *ward) func() {
			return sqlFault(w, `INSERT INTO public.audit_log ("timestamp", action, status) VALUES (now(), 'a', 'b'); ANALYZE public.audit_log`, "SELECT 1")
		}},
		{check: "collation", deep: true, status: Warning, message: "1 collation of another version", make: func(w *ward) func() {
			return sqlFault(w, "CREATE COLLATION phone (provider = icu, locale = 'de-u-co-phonebk'); UPDATE pg_collation SET collversion = '0.1' WHERE collname = 'phone'", "DROP COLLATION phone")
		}},
		{check: "schema_drift", deep: true, status: Warning, message: "its siblings have no option fillfactor=50", make: func(w *ward) func() {
			name := "public.audit_log_" + time.Now().UTC().Format("2006_01")
			return sqlFault(w, "ALTER TABLE "+name+" SET (fillfactor = 50)", "ALTER TABLE "+name+" RESET (fillfactor)")
		}},
		{check: "orphan_tables", deep: true, status: Warning, message: "was not attached", make: func(w *ward) func() {
			return sqlFault(w, `CREATE TABLE public.audit_log_2099_01 (LIKE public.audit_log, CONSTRAINT auditdb_attach_range CHECK ("timestamp" >= '2099-01-01Z')); ALTER TABLE public.audit_log_2099_01 OWNER TO auditdb_admin`, "DROP TABLE public.audit_log_2099_01")
		}},
		{check: "archive_missing", deep: true, status: Critical, message: "1 expired partition without a verified archive", also: []string{"retention_overdue", "partition_gaps", "schema_drift"}, make: func(w *ward) func() {
			w.exec("CREATE TABLE public.audit_log_2015 PARTITION OF public.audit_log FOR VALUES FROM ('2015-01-01Z') TO ('2016-01-01Z')",
				"INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'base', '1 year')")
			return func() { w.exec("DELETE FROM auditdb.policy", "DROP TABLE public.audit_log_2015") }
		}},
		// Room on the disk that is left is the machine's: what makes it end is the growth of the samples.
		{check: "disk_forecast", deep: true, status: Critical, message: "a day it lasts for", make: func(w *ward) func() {
			return sqlFault(w, "INSERT INTO auditdb.health_sample (check_name, taken_at, value) SELECT 'disk_forecast', now() - n * interval '1 day', (100 - n) * 1e15 FROM generate_series(1, 5) n", "DELETE FROM auditdb.health_sample")
		}},
	}
}

// filled makes a table that got many rows since it was vacuumed and analyzed, which the server has counted.
func (w *ward) filled(rows int) (undo func()) {
	w.exec("CREATE TABLE filled (n int) WITH (fillfactor = 10)", fmt.Sprintf("INSERT INTO filled SELECT n FROM generate_series(1, %d) n", rows))
	w.until(fmt.Sprintf("n_ins_since_vacuum >= %d FROM pg_stat_user_tables WHERE relname = 'filled'", rows))
	return func() { w.exec("DROP TABLE filled") }
}

// rates are faults that show between two samples.
func rates() []faultCase {
	between := func(before, happens func(w *ward), drop string) func(w *ward) func() {
		return func(w *ward) func() {
			before(w)
			o := w.o
			o.Deep, o.Record = true, true
			w.run(o)
			happens(w)
			return func() { w.exec("DELETE FROM auditdb.health_sample", drop) }
		}
	}
	nothing := func(*ward) {}
	counter := func(w *ward, name, view string) string {
		var was string
		if err := w.connect().QueryRow(w.Context(), "SELECT sum("+name+")::text FROM "+view).Scan(&was); err != nil {
			w.Fatal(err)
		}
		return was
	}
	grows := func(w *ward, name, view string, by int, do func()) {
		was := counter(w, name, view)
		do()
		w.until(fmt.Sprintf("sum(%s) >= %s + %d FROM %s", name, was, by, view))
	}
	return []faultCase{
		{check: "deadlocks", deep: true, status: Critical, message: "1 deadlocks in the last", make: between(
			func(w *ward) {
				w.exec("CREATE TABLE left_one (a int)", "CREATE TABLE right_one (a int)")
			},
			func(w *ward) {
				grows(w, "deadlocks", "pg_stat_database", 1, func() {
					first := w.connect("SET deadlock_timeout = '1h'", "BEGIN", "LOCK TABLE left_one")
					second := w.connect("SET deadlock_timeout = '10ms'", "BEGIN", "LOCK TABLE right_one")
					ended := make(chan error, 1)
					go func() {
						_, err := first.Exec(w.Context(), "LOCK TABLE right_one")
						ended <- err
					}()
					w.until(fmt.Sprintf("wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %d", first.PgConn().PID()))
					if _, err := second.Exec(w.Context(), "LOCK TABLE left_one"); err == nil {
						w.Fatal("there was no deadlock")
					}
					_ = second.Close(w.Context())
					if err := <-ended; err != nil {
						w.Fatal(err)
					}
					_ = first.Close(w.Context())
				})
			}, "DROP TABLE left_one, right_one")},
		{check: "temp_files", deep: true, status: Critical, message: "of temporary files in the last", make: between(nothing, func(w *ward) {
			grows(w, "temp_bytes", "pg_stat_database", 1<<20, func() {
				w.exec("SET work_mem = '64kB'", "SELECT count(*) FROM (SELECT n FROM generate_series(1, 3000000) n ORDER BY n DESC OFFSET 0) t")
			})
		}, "SELECT 1")},
		{check: "cache_hit", deep: true, status: Critical, message: "of block reads of the last", make: between(
			func(w *ward) {
				w.filled(400_000)
				w.exec("VACUUM ANALYZE filled")
			},
			func(w *ward) {
				grows(w, "blks_read", "pg_stat_database", 12000, func() { w.exec("SET max_parallel_workers_per_gather = 0", "SELECT count(*) FROM filled") })
			}, "DROP TABLE filled")},
		{check: "forced_checkpoints", deep: true, status: Warning, message: "were forced", make: func(w *ward) func() {
			view, name := "pg_stat_bgwriter", "checkpoints_req"
			if w.pg.Major() >= 17 {
				view, name = "pg_stat_checkpointer", "num_requested"
			}
			return between(nothing, func(w *ward) { grows(w, name, view, 2, func() { w.exec("CHECKPOINT", "CHECKPOINT") }) }, "SELECT 1")(w)
		}},
	}
}

// logFaults are those of the write-ahead log: what holds it back, and what it is not held back for.
func logFaults() []faultCase {
	segments := func(w *ward, n int) {
		for range n {
			w.exec("SELECT pg_logical_emit_message(false, 'x', 'y')", "SELECT pg_switch_wal()")
		}
	}
	const slot, noSlot = "SELECT pg_create_physical_replication_slot('lonely', true)", "SELECT pg_drop_replication_slot('lonely')"
	kept := func(size string, n int, then string) func(w *ward) func() {
		return func(w *ward) func() {
			undo := setting("max_slot_wal_keep_size", size)(w)
			w.exec("CHECKPOINT", slot)
			segments(w, n)
			w.exec(then)
			return func() { w.exec(noSlot); undo() }
		}
	}
	lonely := []string{"slot_inactive"} // since when a slot has no consumer is known from 17 on; before, any is an alarm
	return []faultCase{
		{check: "slot_wal", status: Warning, message: "slot lonely holds back", also: lonely, limits: limit(32<<20, 1<<40), make: func(w *ward) func() {
			w.exec(slot)
			segments(w, 3)
			return func() { w.exec(noSlot) }
		}},
		{check: "slot_wal", status: Critical, message: "loses its WAL after another", also: lonely, make: kept("'80'", 5, "SELECT 1")},
		{check: "slot_invalidated", status: Warning, message: "the next checkpoint may remove", also: []string{"slot_inactive", "slot_wal"}, make: kept("'32'", 4, "SELECT 1")},
		{check: "slot_invalidated", status: Critical, message: "slot lonely is invalid", also: lonely, make: kept("'32'", 4, "CHECKPOINT")},
		{check: "wal_size", deep: true, status: Warning, message: "WAL takes", also: lonely, make: func(w *ward) func() {
			undoMin := setting("min_wal_size", "'32'")(w)
			undo := setting("max_wal_size", "'32'")(w)
			w.exec("CHECKPOINT", slot)
			segments(w, 5)
			return func() {
				w.exec(noSlot)
				undo()
				undoMin()
				w.exec("CHECKPOINT")
			}
		}},
		{check: "archive_backlog", deep: true, status: Warning, message: "files of WAL to be archived", also: []string{"archiver"}, make: func(w *ward) func() {
			undo := setting("archive_command", "'false'")(w)
			segments(w, 12)
			return func() {
				undo()
				segments(w, 1)
				w.until("count(*) = 0 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'")
				w.archived()
			}
		}},
	}
}
