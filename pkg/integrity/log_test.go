package integrity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

// append adds one small batch record with invented leaves.
func (f *fixture) append(l *Log, tx pgx.Tx, block int64, extra Extra) (Appended, error) {
	leaves := make([]byte, 2*audit.HashSize)
	e, err := NewBatch(f.table, month(0), block, audit.IDRange(block<<blockBits, 2), leaves)
	if err != nil {
		return Appended{}, err
	}
	return l.Append(f.t.Context(), tx, time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC), []Entry{e}, extra)
}

func TestGenesis(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.batch(0, 3)
	kinds := f.text("SELECT string_agg(substr(record, 11, strpos(record, E'\\n') - 11), ' ' ORDER BY seq) FROM auditdb.log")
	if kinds != "genesis key format partition partition partition batch" {
		t.Error(kinds)
	}
	genesis := f.text("SELECT record FROM auditdb.log WHERE seq = 0")
	want := fmt.Sprintf("origin test.example/log\nsystem %s\ntimeline 1\ndatabase %s\n",
		f.text("SELECT system_identifier::text FROM pg_control_system()"), f.text("SELECT current_database()"))
	if !strings.HasSuffix(genesis, want) {
		t.Errorf("%s\nwant %s", genesis, want)
	}
	// The catalog's columns give the format that ingest hashes.
	rel, err := readRelation(t.Context(), f.db.Pool(), f.table.OID)
	if err != nil {
		t.Fatal(err)
	}
	derived, err := rel.format()
	if err != nil || !sameFormat(derived, audit.AuditLog()) || rel.keyColumn != "timestamp" {
		t.Errorf("%+v %v", derived, err)
	}
	for seq, n := range map[int64]int64{0: 0, 1: 0, 2: 1, 3: 1, 6: 1} {
		if got := f.int("SELECT count(*) FROM auditdb.log_partition WHERE seq = $1", seq); got != n {
			t.Errorf("record %d touches %d partitions", seq, got)
		}
	}
	f.clean()
}

// Many appenders on connections and logs of their own leave a log without gaps, each with its checkpoint.
func TestConcurrentAppends(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const workers, each = 6, 12
	var wg sync.WaitGroup
	errs := make([]error, workers)
	logs := []*Log{f.log, NewLog(f.log.keys)}
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				err := f.db.Tx(t.Context(), func(tx pgx.Tx) error {
					_, err := f.append(logs[w%2], tx, int64(1<<24+w*each+i), nil)
					if i%4 == 3 && err == nil {
						return errors.New("changed my mind")
					}
					return err
				})
				if err != nil && i%4 != 3 {
					errs[w] = err
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := f.int("SELECT count(*) FROM auditdb.log"); n != 6+workers*each*3/4 {
		t.Errorf("%d records", n)
	}
	r := f.verify()
	if slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Type != RowMissing }) {
		t.Error(r.text())
	}
}

func TestAppendExtra(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var done Appended
	err := f.db.Tx(t.Context(), func(tx pgx.Tx) (err error) {
		done, err = f.append(f.log, tx, 1<<24, func(b *pgx.Batch, seqs []int64) {
			b.Queue("INSERT INTO auditdb.job_run (job, version) VALUES ('x', $1)", fmt.Sprint(seqs))
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if v := f.text("SELECT version FROM auditdb.job_run WHERE job = 'x'"); v != "[6]" || done.Seqs[0] != 6 || done.Checkpoint.Size != 7 {
		t.Error(v, done)
	}
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	other, err := Generate("test.example/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, sql string
		keys      func(*Keys) *Keys
		class     fault.Class
		says      string
	}{
		{name: "wrong key", keys: func(*Keys) *Keys { return other }, class: fault.Config, says: "wrong_key"},
		{name: "other origin", class: fault.Config, says: "origin", keys: func(k *Keys) *Keys {
			o, _ := k.WithOrigin("test.example/other")
			return o
		}},
		{name: "no checkpoint", sql: "DELETE FROM auditdb.checkpoint", class: fault.Integrity, says: "covers 0"},
		{name: "forged checkpoint", sql: "UPDATE auditdb.checkpoint SET root = sha256(root), note = replace(note, E'\\n7\\n', E'\\n8\\n')", class: fault.Integrity, says: "not signed"},
		{name: "tree hashes gone", sql: "DELETE FROM auditdb.log_hash", class: fault.Integrity, says: "tree hashes"},
		{name: "tree hashes forged", sql: "UPDATE auditdb.log_hash SET hash = sha256(hash)", class: fault.Integrity, says: "do not lead"},
		{name: "newest record gone", sql: "DELETE FROM auditdb.log WHERE seq = (SELECT max(seq) FROM auditdb.log)", class: fault.Integrity, says: "covers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.batch(0, 2)
			if c.sql != "" {
				f.exec(c.sql)
			}
			keys := f.log.keys
			if c.keys != nil {
				keys = c.keys(keys)
			}
			before := f.int("SELECT count(*) FROM auditdb.log")
			err := f.db.Tx(t.Context(), func(tx pgx.Tx) error {
				_, err := f.append(NewLog(keys), tx, 1<<25, nil)
				return err
			})
			if fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) || fault.HintOf(err) == "" {
				t.Error(err)
			}
			if n := f.int("SELECT count(*) FROM auditdb.log"); n != before {
				t.Error("something was written")
			}
		})
	}
	t.Run("isolation", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		err := f.db.TxWith(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
			_, err := f.append(f.log, tx, 1<<24, nil)
			return err
		})
		if fault.ClassOf(err) != fault.Internal {
			t.Error(err)
		}
	})
}

// The role of ingesters may append, and nothing more.
func TestLeastRights(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("GRANT INSERT ON public.audit_log_2024_01 TO auditdb_ingest")
	as := func(sql string) error {
		return f.db.Tx(t.Context(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "SET LOCAL ROLE auditdb_ingest; "+sql); err != nil {
				return err
			}
			_, err := f.append(f.log, tx, 1<<24, nil)
			return err
		})
	}
	if err := as("SELECT 1"); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"DELETE FROM auditdb.log", "UPDATE auditdb.leaf SET n = 1", "TRUNCATE auditdb.log_hash", "UPDATE auditdb.checkpoint SET size = 1"} {
		if err := as(sql); postgres.SQLState(err) != postgres.InsufficientPrivilege {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// Nothing of a rolled back append stays in the log's memory.
func TestRollback(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 8 {
		err := f.db.Tx(t.Context(), func(tx pgx.Tx) error {
			if _, err := f.append(f.log, tx, int64(1<<24+i), nil); err != nil {
				return err
			}
			if i%2 == 1 {
				return context.Canceled
			}
			return nil
		})
		if err != nil && i%2 == 0 {
			t.Fatal(err)
		}
	}
	r := f.verify()
	if r.BatchesChecked != 4 || slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Type != RowMissing }) {
		t.Error(r.BatchesChecked, r.text())
	}
}

func TestIsEmpty(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, want := range []bool{true, false} {
		err := f.db.Tx(t.Context(), func(tx pgx.Tx) error {
			got, err := IsEmpty(t.Context(), tx)
			if got != want {
				t.Error("empty:", got)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		f.batch(0, 1)
	}
}

// Check refuses what Append would, without a lock and without writing.
func TestCheck(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if err := f.log.Check(t.Context(), f.db); err != nil {
		t.Errorf("an empty log: %v", err)
	}
	f.batch(0, 5)
	records := f.int("SELECT count(*) FROM auditdb.log")
	other, err := Generate("test.example/log")
	if err != nil {
		t.Fatal(err)
	}
	named, err := f.log.Keys().WithOrigin("another.example/log")
	if err != nil {
		t.Fatal(err)
	}
	err = f.db.Tx(t.Context(), func(tx pgx.Tx) error { // somebody is appending
		if _, err := tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1)", postgres.LockKey("log")); err != nil {
			return err
		}
		if err := NewLog(f.log.Keys()).Check(t.Context(), f.db); err != nil {
			t.Errorf("the log's key: %v", err)
		}
		for _, keys := range []*Keys{other, named} {
			if err := NewLog(keys).Check(t.Context(), f.db); fault.ClassOf(err) != fault.Config {
				t.Errorf("key %s of %s: %v", keys.ID(), keys.Origin(), err)
			}
		}
		return nil
	})
	if err != nil || f.int("SELECT count(*) FROM auditdb.log") != records {
		t.Error("the log has grown", err)
	}
	f.exec("DELETE FROM auditdb.checkpoint")
	if err := NewLog(f.log.Keys()).Check(t.Context(), f.db); fault.ClassOf(err) != fault.Integrity {
		t.Errorf("a damaged end: %v", err)
	}
}
