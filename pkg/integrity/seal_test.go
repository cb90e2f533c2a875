package integrity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

func TestSeal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert(0, 30)
	f.insert(1, 10)
	f.insert(0, 5)
	dry := f.seal(func(o *SealOptions) { o.DryRun = true })
	if dry.SealedRows != 45 || dry.Records != 2 || f.int("SELECT count(*) FROM auditdb.log") != 0 {
		t.Errorf("%+v", dry)
	}
	res := f.seal()
	if res.SealedRows != 45 || res.Records != 2 || res.LateRows != 0 || res.Checkpoint == nil {
		t.Errorf("%+v", res)
	}
	if again := f.seal(); again.SealedRows != 0 || again.Records != 0 || again.Checkpoint != nil {
		t.Errorf("%+v", again)
	}
	f.insert(1, 3)
	f.batch(1, 4)
	if res := f.seal(); res.SealedRows != 3 || res.LateRows != 0 {
		t.Errorf("%+v", res)
	}
	if r := f.clean(); r.RowsChecked != 52 || r.BatchesChecked != 4 {
		t.Error(r.RowsChecked, r.BatchesChecked)
	}
}

// A row that fills a gap is sealed the next time, and a warning.
func TestLateRows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert(0, 10)
	f.exec("DELETE FROM public.audit_log WHERE id IN (4, 5)")
	f.seal()
	f.exec("INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (4, '2024-01-01', 'a', 's')")
	f.insert(0, 2)
	r := f.verify()
	if !r.OK || r.UnsealedRows != 3 {
		t.Error(r.text())
	}
	if res := f.seal(); res.SealedRows != 3 || res.LateRows != 1 || res.Records != 1 {
		t.Errorf("%+v", res)
	}
	r = f.verify()
	if !r.OK || r.FindingsTotal != 1 || r.Findings[0].Type != RowLate || r.Findings[0].Severity != SeverityWarning || *r.Findings[0].RowID != 4 {
		t.Error(r.text())
	}
	f.exec("UPDATE public.audit_log SET action = 'b' WHERE id = 4")
	if r := f.verify(); r.OK || !slices.Contains(r.types(), "row_modified/error") {
		t.Error(r.text())
	}
	f.exec("INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (5, '2024-01-01', 'a', 's'), (3, '2024-01-02', 'a', 's')")
	if r := f.verify(); r.UnsealedRows != 1 || !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Type == RowUnexpected && *f.RowID == 3 }) {
		t.Error(r.text())
	}
}

// An INSERT that holds its id for a while is no false alarm, whether the seal waits for it or not.
func TestSealDuringInsert(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert(0, 3)
	slow, err := f.db.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Close(context.WithoutCancel(t.Context())) }()
	tx, err := slow.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO public.audit_log (timestamp, action, status) VALUES ('2024-01-03', 'slow', 's')"); err != nil {
		t.Fatal(err)
	}
	f.insert(0, 3)
	if res := f.seal(func(o *SealOptions) { o.Settle = 50 * time.Millisecond }); res.SealedRows != 6 {
		t.Errorf("%+v", res)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res := f.seal(); res.SealedRows != 1 || res.LateRows != 1 {
		t.Errorf("%+v", res)
	}
	if r := f.verify(); !r.OK || !slices.Equal(r.types(), []string{"row_late/warning"}) {
		t.Error(r.text())
	}
}

// Adopted rows have no salt of their own: it is in the leaf store, where nobody can change it unnoticed.
func TestSealWithoutSalts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert(0, 9)
	f.exec("UPDATE public.audit_log SET salt = NULL WHERE id % 2 = 0")
	f.seal()
	if n := f.int("SELECT octet_length(salts) FROM auditdb.leaf"); n != 9*16 {
		t.Error(n)
	}
	f.clean()
	f.exec("UPDATE auditdb.leaf SET salts = overlay(salts PLACING '\\x00' FROM 17)")
	if r := f.verify(); r.OK || *r.Findings[0].RowID != 2 {
		t.Error(r.text())
	}
}

// More rows than fit in one set make several records.
func TestSealInPieces(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(fmt.Sprintf("INSERT INTO public.audit_log (timestamp, action, status) SELECT '2024-01-02', 'a', 's' FROM generate_series(1, %d)", 2*audit.MaxSet+10))
	if res := f.seal(); res.Records != 3 || res.SealedRows != 2*audit.MaxSet+10 {
		t.Errorf("%+v", res)
	}
	f.clean()
	if n := f.int("SELECT sum(octet_length(ids)) FROM auditdb.leaf"); n > 20 {
		t.Error("ids of runs take", n, "bytes")
	}
	// When the heap's order is not that of the ids, and many sets would be open, rows are read in the order of their ids.
	f.exec("CREATE TEMP TABLE x ON COMMIT DROP AS SELECT * FROM public.audit_log; DELETE FROM public.audit_log; INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM x ORDER BY id % 1009")
	f.clean()
	f.exec("DELETE FROM public.audit_log WHERE id % 40000 = 0; UPDATE public.audit_log SET action = 'b' WHERE id = 70000")
	want := f.verify()
	m := tinyBudget(t, f)
	if want.OK || want.FindingsTotal != 4 || m.text() != want.text() {
		t.Errorf("in heap order:\n%sin id order:\n%s", want.text(), m.text())
	}
}

// tinyBudget verifies with memory for not even one open set.
func tinyBudget(t *testing.T, f *fixture) *Report {
	t.Helper()
	logFound := newCollector(0)
	v := &verifier{
		db: f.db, found: newCollector(0), logFound: logFound, sum: map[string]*unsealed{}, walk: newLogWalk(f.log.keys, f.log.keys.pub, logFound), verdicts: verdicts{},
		opts: VerifyOptions{Keys: f.log.keys, Public: f.log.keys.pub, Now: time.Now, Jobs: setMemory, Wait: time.Second},
	}
	if _, err := v.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v.report(time.Second, false)
}

func TestSealSkipsAndAccepts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insert(0, 2)
	f.seal()
	f.exec("CREATE TABLE public.april PARTITION OF public.audit_log FOR VALUES FROM ('2024-04-01') TO ('2024-05-01')")
	f.exec("CREATE TABLE public.rest PARTITION OF public.audit_log DEFAULT")
	f.insert(3, 4)
	f.exec("INSERT INTO public.audit_log (timestamp, action, status) VALUES ('2031-01-01', 'a', 's')")
	res := f.seal()
	if res.SealedRows != 0 || res.UnsealedDefault != 1 || len(res.Skipped) != 2 || res.Skipped[0].Partition != "april" {
		t.Errorf("%+v", res)
	}
	if r := f.verify(); r.OK || !slices.Contains(r.types(), "partition_unlogged/error") {
		t.Error(r.text())
	}
	res = f.seal(func(o *SealOptions) { o.AcceptPartitions = true })
	if res.SealedRows != 4 || !slices.Equal(res.AcceptedPartitions, []string{"april", "rest"}) {
		t.Errorf("%+v", res)
	}
	if r := f.verify(); !r.OK || !slices.Equal(r.types(), []string{"rows_unsealed/info"}) || r.UnsealedRows != 1 {
		t.Error(r.text())
	}
}

func TestSealExcludesItself(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	lock, err := f.db.Lock(t.Context(), fmt.Sprintf("seal:%d", f.table.OID), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	_, err = f.log.Seal(t.Context(), f.db, f.table, SealOptions{Now: time.Now})
	if fault.ClassOf(err) != fault.Locked {
		t.Error(err)
	}
}

// Two rows with one id cannot both be sealed: that is said, and nothing is written.
func TestSealDuplicateIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (7, '2024-01-01', 'a', 's'), (7, '2024-01-02', 'a', 's')")
	_, err := f.log.Seal(t.Context(), f.db, f.table, SealOptions{Now: time.Now})
	if fault.ClassOf(err) != fault.Data || !strings.Contains(err.Error(), "two rows have the id 7") {
		t.Error(err)
	}
}

// The second of two rows with one id is found also where a set ends with the first.
func TestSealDuplicateIDBetweenSets(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(fmt.Sprintf("INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE SELECT least(n, %[1]d), CASE WHEN n > %[1]d THEN timestamptz '2024-01-02' ELSE '2024-01-01' END, 'a', 's' FROM generate_series(1, %[1]d + 1) n", audit.MaxSet))
	_, err := f.log.Seal(t.Context(), f.db, f.table, SealOptions{Now: time.Now})
	if fault.ClassOf(err) != fault.Data || !strings.Contains(err.Error(), "two rows have the id 65536") {
		t.Error(err)
	}
}

// lifecycle records what partition commands do, in the transaction that does it.
func (f *fixture) lifecycle(sql string, bodies ...Body) {
	f.t.Helper()
	ctx := f.t.Context()
	err := f.db.Tx(ctx, func(tx pgx.Tx) error {
		if sql != "" {
			if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = replica; "+sql); err != nil {
				return err
			}
		}
		var entries []Entry
		for _, b := range bodies {
			entries = append(entries, Entry{Table: f.table, Body: b})
		}
		_, err := f.log.Append(ctx, tx, time.Now(), entries, nil)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

func TestPartitionLifecycle(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	jan := month(0)
	oid := f.int("SELECT 'public.audit_log_2024_01'::regclass::oid::bigint")
	f.lifecycle("", &Detach{Table: 1, Partition: jan, OID: oid})
	f.clean() // announced, not done
	f.exec("ALTER TABLE public.audit_log DETACH PARTITION public.audit_log_2024_01")
	if r := f.clean(); r.RowsChecked != 230 {
		t.Error("rows of the detached partition were not checked:", r.RowsChecked)
	}
	f.exec("ALTER TABLE public.audit_log_2024_01 RENAME TO kept")
	f.clean()
	f.exec("UPDATE public.kept SET ttl = 'x' WHERE id = 3")
	if r := f.verify(); r.OK || *r.Findings[0].RowID != 3 || *r.Findings[0].Partition != "kept" {
		t.Error(r.text())
	}
	f.exec("UPDATE public.kept SET ttl = NULL WHERE id = 3")
	// A new partition of the same range, beside the detached one.
	f.lifecycle("CREATE TABLE public.audit_log_2024_01 PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')",
		&Partition{Table: 1, Event: EventCreated, Partition: jan})
	f.batch(0, 7)
	if r := f.clean(); r.RowsChecked != 237 {
		t.Error(r.RowsChecked)
	}
	f.exec("DROP TABLE public.kept")
	if r := f.verify(); r.OK || !slices.Equal(r.types(), []string{"partition_missing/error"}) {
		t.Error(r.text())
	}
}

func TestPruned(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	jan := month(0)
	f.lifecycle("CREATE TABLE public.copy AS SELECT * FROM public.audit_log_2024_01; DROP TABLE public.audit_log_2024_01", &Prune{Table: 1, Partition: jan, Rows: 120})
	if r := f.clean(); r.RowsChecked != 110 {
		t.Error(r.RowsChecked)
	}
	f.exec("CREATE TABLE public.again PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01') TO ('2024-02-01'); INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM public.copy")
	r := f.verify()
	if !slices.Contains(r.types(), "partition_unlogged/error") || !slices.Contains(r.types(), "row_unexpected/error") {
		t.Error(r.text())
	}
	f.exec("DROP TABLE public.again")
	f.lifecycle("CREATE TABLE public.audit_log_2024_01 PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')", &Partition{Table: 1, Event: EventCreated, Partition: jan})
	f.batch(0, 5)
	if r := f.clean(); r.RowsChecked != 115 {
		t.Error(r.RowsChecked)
	}
}

// Rows moved by logged moves keep their evidence: a wide partition split into two.
func TestMoved(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	half := func(name string, from, to int) PartitionRef {
		return PartitionRef{Name: name, Range: Range{From: time.Date(2024, 1, from, 0, 0, 0, 0, time.UTC), To: time.Date(2024, 1, to, 0, 0, 0, 0, time.UTC)}}
	}
	a, b := half("jan_a", 1, 2), half("jan_b", 2, 32)
	b.Range.To = time.Date(2024, 2, 1, 0, 0, 0, 0, time.UTC)
	f.lifecycle(`
ALTER TABLE public.audit_log DETACH PARTITION public.audit_log_2024_01;
CREATE TABLE public.jan_a PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01') TO ('2024-01-02');
CREATE TABLE public.jan_b PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-02') TO ('2024-02-01');
INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM public.audit_log_2024_01;
DROP TABLE public.audit_log_2024_01;`,
		&Partition{Table: 1, Event: EventCreated, Partition: a}, &Partition{Table: 1, Event: EventCreated, Partition: b},
		&Move{Table: 1, From: month(0), To: a, Rows: 120}, &Move{Table: 1, From: month(0), To: b}, &Prune{Table: 1, Partition: month(0)})
	if r := f.clean(); r.RowsChecked != 230 {
		t.Error(r.RowsChecked)
	}
	f.insert(0, 3)
	if res := f.seal(); res.SealedRows != 3 {
		t.Errorf("%+v", res)
	}
	f.clean()
	f.exec(fmt.Sprintf("DELETE FROM public.audit_log WHERE id = %d", first))
	if r := f.verify(); r.OK || *r.Findings[0].RowID != first {
		t.Error(r.text())
	}
}

// The log's own lock is waited for as long as asked, but at least a second; then the error names who has it.
func TestSealWaitsForTheLog(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	f.insert(2, 3)
	tx, err := f.db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1)", postgres.LockKey(logLock)); err != nil {
		t.Fatal(err)
	}
	table, start := *f.table, time.Now()
	_, err = f.log.Seal(t.Context(), f.db, &table, SealOptions{Now: time.Now, Wait: 50 * time.Millisecond})
	holder := fmt.Sprintf("the integrity log is held by pid %d (", tx.Conn().PgConn().PID())
	if took := time.Since(start); fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), holder) || took < time.Second || took > 30*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res := f.seal(); res.SealedRows != 3 {
		t.Errorf("%+v", res)
	}
}
