package integrity

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// fixture is a database of a test's own with an audit log of three months, 2024-01 to 2024-03.
type fixture struct {
	t     testing.TB
	db    *postgres.DB
	log   *Log
	table *Table
	block int64
}

var monthsOf2024 = []string{"2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01", "2024-05-01"}

func newFixture(tb testing.TB) *fixture {
	tb.Helper()
	return fixtureAt(tb, pgtest.DB(tb))
}

// fixtureAt is newFixture for a migrated database.
func fixtureAt(tb testing.TB, url string) *fixture {
	tb.Helper()
	db := openDB(tb, url)
	keys, err := Generate("test.example/log")
	if err != nil {
		tb.Fatal(err)
	}
	f := &fixture{t: tb, db: db, log: NewLog(keys), block: 1 << 24}
	for i := range 3 {
		f.exec(fmt.Sprintf("CREATE TABLE public.audit_log_2024_%02d PARTITION OF public.audit_log FOR VALUES FROM ('%s') TO ('%s')", i+1, monthsOf2024[i], monthsOf2024[i+1]))
	}
	tables, err := ManagedTables(tb.Context(), db.Pool())
	if err != nil || len(tables) != 1 || !tables[0].Integrity {
		tb.Fatal("managed tables:", tables, err)
	}
	f.table = &tables[0].Table
	return f
}

func openDB(tb testing.TB, url string) *postgres.DB {
	tb.Helper()
	db, err := postgres.Open(tb.Context(), postgres.Options{URL: url, Application: "test", MaxConns: 6, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

// exec runs statements as an attacker would who is superuser: triggers do not fire.
func (f *fixture) exec(sql string) {
	f.t.Helper()
	err := f.db.Tx(f.t.Context(), func(tx pgx.Tx) error {
		_, err := tx.Exec(f.t.Context(), "SET LOCAL session_replication_role = replica; "+sql)
		return err
	})
	if err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

func (f *fixture) int(sql string, args ...any) int64 {
	f.t.Helper()
	var n int64
	if err := f.db.Pool().QueryRow(f.t.Context(), sql, args...).Scan(&n); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (f *fixture) text(sql string, args ...any) string {
	f.t.Helper()
	var s string
	if err := f.db.Pool().QueryRow(f.t.Context(), sql, args...).Scan(&s); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return s
}

func month(i int) PartitionRef {
	from, _ := time.Parse(time.DateOnly, monthsOf2024[i])
	to, _ := time.Parse(time.DateOnly, monthsOf2024[i+1])
	return PartitionRef{Name: fmt.Sprintf("audit_log_2024_%02d", i+1), Range: Range{From: from, To: to}}
}

const rowColumns = `"timestamp", processing_latency, action, status, principal_id, organization_id, target_resource_type, target_resource_id,
 outcome_description, correlation_id, event_uid, hash, hash_algorithm, ttl, archived_at, details`

func rowSelect(from string, n int) string {
	return fmt.Sprintf(`SELECT timestamptz '%s' + g * interval '1 minute', g, 'action ' || g %% 7, 'success', CASE WHEN g %% 3 > 0 THEN 'user-' || g %% 5 END, 'org', 'doc', 'id-' || g,
 CASE WHEN g %% 2 = 0 THEN '' END, 'corr-' || g, gen_random_uuid()::text, 'aGFzaA==', 'none', NULL, NULL::timestamptz,
 jsonb_build_object('n', 9007199254740993 + g, 'list', jsonb_build_array(g, 1.50, NULL), 'text', 'Grüße "x"') FROM generate_series(0, %d) g`, from, n-1)
}

// batch writes n rows to a partition as ingest does, and returns their smallest id.
func (f *fixture) batch(m, n int) int64 {
	f.t.Helper()
	f.block++
	first, p := f.block<<blockBits, month(m)
	ctx := f.t.Context()
	err := f.db.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO public.audit_log (id, %s) OVERRIDING SYSTEM VALUE SELECT %d + (row_number() OVER ()) - 1, q.* FROM (%s) q", rowColumns, first, rowSelect(monthsOf2024[m], n)))
		if err != nil {
			return err
		}
		b, err := readBack(ctx, tx, p.Name, first, n)
		if err != nil {
			return err
		}
		set, err := b.build()
		if err != nil {
			return err
		}
		f.table.Format = audit.AuditLog()
		e, err := NewBatch(f.table, p, f.block, set.IDs, set.Leaves)
		if err != nil {
			return err
		}
		_, err = f.log.Append(ctx, tx, time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC), []Entry{e}, nil)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return first
}

func readBack(ctx context.Context, tx pgx.Tx, name string, first int64, n int) (setBuilder, error) {
	format := audit.AuditLog()
	l, err := newLayout(format, "timestamp")
	if err != nil {
		return setBuilder{}, err
	}
	b := setBuilder{hash: audit.NewHasher(format)}
	r := tupleReader{layout: l, fn: b.add}
	sql := copyRangeSQL(relation{schema: "public", name: name}, format, first, first+int64(n)-1)
	if err := copyTo(ctx, tx.Conn().PgConn(), sql, r.feed); err != nil {
		return b, err
	}
	return b, r.close()
}

// insert adds n rows as another application does.
func (f *fixture) insert(m, n int) {
	f.t.Helper()
	f.exec(fmt.Sprintf("INSERT INTO public.audit_log (%s) %s", rowColumns, rowSelect(monthsOf2024[m], n)))
}

func (f *fixture) seal(change ...func(*SealOptions)) SealResult {
	f.t.Helper()
	o := SealOptions{Now: time.Now, Wait: 10 * time.Second}
	for _, c := range change {
		c(&o)
	}
	t := *f.table
	t.Format = audit.Format{}
	res, err := f.log.Seal(f.t.Context(), f.db, &t, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return res
}

func (f *fixture) verify(change ...func(*VerifyOptions)) *Report {
	f.t.Helper()
	o := VerifyOptions{Keys: f.log.Keys(), Jobs: 2, Now: time.Now, Wait: 10 * time.Second}
	for _, c := range change {
		c(&o)
	}
	r, err := Verify(f.t.Context(), f.db, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// filled is a fixture with two batches and sealed rows in each month.
func filled(tb testing.TB) (*fixture, int64) {
	tb.Helper()
	f := newFixture(tb)
	first := f.batch(0, 60)
	f.batch(0, 40)
	f.batch(1, 50)
	f.batch(2, 50)
	f.insert(0, 20)
	f.insert(1, 10)
	f.seal()
	return f, first
}

func (r *Report) types() []string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, string(f.Type)+"/"+string(f.Severity))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (r *Report) text() string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s", f.Type, f.Severity)
		if f.Partition != nil {
			fmt.Fprintf(&b, " partition=%s", *f.Partition)
		}
		if f.Batch != nil {
			fmt.Fprintf(&b, " batch=%d", *f.Batch)
		}
		if f.RowID != nil {
			fmt.Fprintf(&b, " row=%d", *f.RowID)
		}
		fmt.Fprintf(&b, ": %s\n", f.Detail)
	}
	return b.String()
}

func (f *fixture) clean(change ...func(*VerifyOptions)) *Report {
	f.t.Helper()
	r := f.verify(change...)
	if r.OK != (r.Unproven == "") || r.FindingsTotal != 0 {
		f.t.Fatalf("not clean:\n%s", r.text())
	}
	return r
}

// signCheckpoint makes the checkpoint of a log under the keys' origin.
func (k *Keys) signCheckpoint(size int64, root tlog.Hash) (Checkpoint, error) {
	return k.signWith(size, root, k.signer)
}
