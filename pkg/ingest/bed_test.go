package ingest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
	"auditdb/pkg/ingest"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// bed is a migrated database with partitions, and what a run needs.
type bed struct {
	t    testing.TB
	db   *postgres.DB
	keys *integrity.Keys
	opts ingest.Options
}

func newBed(tb testing.TB) *bed {
	tb.Helper()
	return openBed(tb, pgtest.DB(tb))
}

func openBed(tb testing.TB, url string) *bed {
	tb.Helper()
	db, err := postgres.Open(tb.Context(), postgres.Options{URL: url, Application: "ingest-test", LockTimeout: 100 * time.Millisecond})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	keys, err := integrity.Generate("ingest.test")
	if err != nil {
		tb.Fatal(err)
	}
	b := &bed{t: tb, db: db, keys: keys}
	if b.opts, err = optionsFor(tb.Context(), db, keys); err != nil {
		tb.Fatal(err)
	}
	return b
}

func optionsFor(ctx context.Context, db *postgres.DB, keys *integrity.Keys) (ingest.Options, error) {
	table, err := partitions.Resolve(ctx, db, "public.audit_log")
	if err != nil {
		return ingest.Options{}, err
	}
	mapping, err := ingest.ParseMapping(ingest.MappingNative, nil)
	return ingest.Options{
		DB: db, Table: table, Log: integrity.NewLog(keys), Now: time.Now, Mapping: mapping, MaxAhead: 48 * time.Hour, Wait: 20 * time.Second,
	}, err
}

// months makes monthly partitions from the first of a month on.
func (b *bed) months(from string, n int) {
	b.t.Helper()
	start, err := time.Parse("2006-01", from)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := range n {
		f, to := start.AddDate(0, i, 0), start.AddDate(0, i+1, 0)
		b.exec(fmt.Sprintf(`CREATE TABLE public.audit_log_%s PARTITION OF public.audit_log FOR VALUES FROM ('%s') TO ('%s')`,
			f.Format("2006_01"), f.Format(time.RFC3339), to.Format(time.RFC3339)))
	}
}

func (b *bed) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.db.Pool().Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

func (b *bed) count(sql string, args ...any) int64 {
	b.t.Helper()
	var n int64
	if err := b.db.Pool().QueryRow(b.t.Context(), sql, args...).Scan(&n); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (b *bed) rows() int64 {
	b.t.Helper()
	return b.count(`SELECT count(*) FROM public.audit_log`)
}

// run ingests and wants success.
func (b *bed) run(paths ...string) ingest.Report {
	b.t.Helper()
	rep, err := b.try(paths...)
	if err != nil {
		b.t.Fatalf("ingest: %v", err)
	}
	return rep
}

func (b *bed) try(paths ...string) (ingest.Report, error) {
	b.t.Helper()
	sources, err := ingest.Expand(paths, "", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	rep, err := ingest.Run(b.t.Context(), b.opts, sources)
	if rep.Read != rep.Inserted+rep.Duplicate+rep.Rejected {
		b.t.Errorf("read %d is not inserted %d + duplicate %d + rejected %d", rep.Read, rep.Inserted, rep.Duplicate, rep.Rejected)
	}
	return rep, err
}

// checkLeaves recomputes every leaf set from the table: the rows are those that the log vouches for.
func (b *bed) checkLeaves() {
	b.t.Helper()
	ctx := b.t.Context()
	conn, err := b.db.Connect(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	f := audit.AuditLog()
	leaves := map[int64][32]byte{}
	h := audit.NewHasher(f)
	scan := audit.NewTupleScanner(f, func(r audit.Row) error {
		leaves[r.ID] = h.LeafOf(r.Core, r.Personal, r.Salt)
		return nil
	})
	quoted := make([]string, 0, len(f.Names()))
	for _, n := range f.Names() {
		quoted = append(quoted, pgx.Identifier{n}.Sanitize())
	}
	if _, err := conn.PgConn().CopyTo(ctx, scan, `COPY (SELECT `+strings.Join(quoted, ", ")+` FROM public.audit_log) TO STDOUT (FORMAT binary)`); err != nil {
		b.t.Fatal(err)
	}
	rows, err := conn.Query(ctx, `SELECT min_id, ids, leaves FROM auditdb.leaf`)
	if err != nil {
		b.t.Fatal(err)
	}
	covered := 0
	var first int64
	var ids, want []byte
	if _, err := pgx.ForEachRow(rows, []any{&first, &ids, &want}, func() error {
		set, err := audit.DecodeIDSet(first, ids)
		if err != nil {
			return err
		}
		for i, id := range set.All() {
			covered++
			if got := leaves[id]; !bytes.Equal(got[:], want[32*i:32*i+32]) {
				return fmt.Errorf("row %d does not have the leaf of the log", id)
			}
		}
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	if covered != len(leaves) {
		b.t.Errorf("%d rows, %d of them in the log", len(leaves), covered)
	}
}

// events makes native NDJSON of n events in January 2024, one a second, each with a uid.
func events(first, n int) string {
	var s strings.Builder
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&s, `{"timestamp":"%s","action":"a.%d","status":"success","principalId":"p%d","event_uid":"u%d","details":{"n":%d,"b":[1,2.50,"x"]}}`+"\n",
			start.Add(time.Duration(i)*time.Second).Format(time.RFC3339), i%7, i%13, i, i)
	}
	return s.String()
}

func write(tb testing.TB, name, content string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func rewrite(tb testing.TB, path, content string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
}
