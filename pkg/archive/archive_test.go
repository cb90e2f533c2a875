package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

func TestMain(m *testing.M) {
	code := pgtest.Run(m)
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// bed is a database with one sealed partition.
type bed struct {
	*testing.T
	db   *postgres.DB
	a    *Archiver
	t    partitions.Table
	part partitions.Partition
}

func newBed(t *testing.T, address string) *bed {
	t.Helper()
	ctx := t.Context()
	url := pgtest.DB(t)
	db, err := postgres.Open(ctx, postgres.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	for _, sql := range []string{
		`CREATE TABLE public.audit_log_2024_01 PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01Z') TO ('2024-02-01Z')`,
		`INSERT INTO public.audit_log (timestamp, action, status, principal_id, correlation_id, details) SELECT '2024-01-01Z'::timestamptz + i * interval '1 minute', 'read', CASE WHEN i % 5 = 0 THEN '' ELSE 'ok' END,
			CASE WHEN i % 3 = 0 THEN NULL ELSE 'u-' || i % 50 END, repeat('c', i % 400), CASE WHEN i % 7 = 0 THEN NULL ELSE jsonb_build_object('n', i, 'd', 1.500, 't', E'\u00e9\n"') END FROM generate_series(1, 3000) i`,
	} {
		if _, err := db.Pool().Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := integrity.Generate("test/archive")
	if err != nil {
		t.Fatal(err)
	}
	log := integrity.NewLog(keys)
	resolved, err := partitions.Resolve(ctx, db, "public.audit_log")
	if err != nil {
		t.Fatal(err)
	}
	table := &integrity.Table{ID: *resolved.ManagedID, OID: resolved.OID, Schema: resolved.Schema, Name: resolved.Name, KeyColumn: resolved.Key.Column}
	if _, err := log.Seal(ctx, db, table, integrity.SealOptions{Now: time.Now, Wait: time.Minute}); err != nil {
		t.Fatal(err)
	}
	store, err := Open(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b := &bed{T: t, db: db, a: &Archiver{DB: db, Log: log, Store: store, Verify: integrity.VerifyOptions{Keys: keys, Now: time.Now}, Now: time.Now}}
	b.t = resolved
	c, err := partitions.Load(ctx, db.Pool(), b.t)
	if err != nil {
		t.Fatal(err)
	}
	b.part = c.All()[0]
	return b
}

func (b *bed) entry() Entry {
	b.Helper()
	list, err := List(b.Context(), b.db.Pool(), nil)
	if err != nil || len(list) != 1 {
		b.Fatalf("%d archives, %v", len(list), err)
	}
	return list[0]
}

func (b *bed) md5(table string) (sum string) {
	b.Helper()
	if err := b.db.Pool().QueryRow(b.Context(), "SELECT md5(string_agg(r::text, '|' ORDER BY id)) FROM "+table+" r").Scan(&sum); err != nil {
		b.Fatal(err)
	}
	return sum
}

// An archive in a folder and one in an S3-compatible store come back row for row; making it again finds it.
func TestRoundTrip(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	backend := s3mem.New()
	if err := backend.CreateBucket("audit"); err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(site.Close)
	for name, address := range map[string]string{"folder": t.TempDir(), "s3": "s3://audit/prefix?region=us-east-1&endpoint=" + site.URL} { //nolint:paralleltest // the environment is set
		t.Run(name, func(t *testing.T) {
			b := newBed(t, address)
			ctx := t.Context()
			for range 2 {
				made, err := b.a.Create(ctx, b.t, b.part)
				if err != nil || made.Rows != 3000 {
					t.Fatalf("%+v, %v", made, err)
				}
			}
			e := b.entry()
			if err := b.a.Check(ctx, e); err != nil {
				t.Fatal(err)
			}
			r := &Restorer{Archiver: b.a, Worker: partitions.NewWorker(partitions.Options{DB: b.db, Now: time.Now, Wait: time.Minute, LockTimeout: time.Second}), LockTimeout: time.Second, Wait: time.Minute}
			if out, err := r.Restore(ctx, b.t, e, RestoreOptions{As: "copy"}); err != nil || out.Rows != 3000 {
				t.Fatalf("%+v, %v", out, err)
			}
			if b.md5("public.copy") != b.md5("public.audit_log_2024_01") {
				t.Error("the rows differ")
			}
			if _, err := r.Restore(ctx, b.t, e, RestoreOptions{}); fault.ClassOf(err) != fault.Refused {
				t.Errorf("over a partition: %v", err)
			}
		})
	}
}

// liar is a store that does not do what it says.
type liar struct {
	backend
	cut, lose, fail bool
}

func (l *liar) stage(ctx context.Context) (staged, error) {
	s, err := l.backend.stage(ctx)
	return &lyingStage{s, l, 0}, err
}

type lyingStage struct {
	staged
	l       *liar
	written int
}

func (s *lyingStage) Write(p []byte) (int, error) {
	s.written += len(p)
	if s.l.fail && s.written > 20_000 {
		return 0, errors.New("no space left on device")
	}
	if s.l.cut && s.written > 20_000 {
		return len(p), nil
	}
	return s.staged.Write(p)
}

func (s *lyingStage) commit(ctx context.Context, key string, replace bool) error {
	if s.l.lose {
		return nil
	}
	return s.staged.commit(ctx, key, replace)
}

// With a store that cuts off, loses or is full nothing is recorded; afterwards it works.
func TestLyingStore(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]liar{"cuts off": {cut: true}, "loses": {lose: true}, "is full": {fail: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, t.TempDir())
			honest := b.a.Store.backend
			lie.backend = honest
			b.a.Store.backend = &lie
			if made, err := b.a.Create(t.Context(), b.t, b.part); err == nil || fault.ClassOf(err) == "" {
				t.Fatalf("%+v, %v", made, err)
			}
			if list, err := List(t.Context(), b.db.Pool(), nil); err != nil || len(list) != 0 {
				t.Errorf("%d archives were recorded, %v", len(list), err)
			}
			b.a.Store.backend = honest
			if _, err := b.a.Create(t.Context(), b.t, b.part); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// Any byte of the object or its manifest that is changed, and any end that is cut off, is found; what is gone is unavailable.
func TestDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBed(t, dir)
	ctx := t.Context()
	if _, err := b.a.Create(ctx, b.t, b.part); err != nil {
		t.Fatal(err)
	}
	e := b.entry()
	object := strings.TrimPrefix(e.URL, "file://")
	manifest := filepath.Join(filepath.Dir(object), manifestName(e.Root))
	for _, file := range []string{object, manifest} {
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < 60; i++ {
			bad := bytes.Clone(good)
			if at := i * len(good) / 60; i%4 == 3 {
				bad = bad[:at]
			} else {
				bad[at] ^= 1 << (i % 8)
			}
			if err := os.WriteFile(file, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := b.a.Check(ctx, e); fault.ClassOf(err) != fault.Integrity && fault.ClassOf(err) != fault.Unavailable {
				t.Errorf("%s, change %d: %v", filepath.Base(file), i, err)
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := b.a.Check(ctx, e); fault.ClassOf(err) != fault.Unavailable || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("gone: %v", err)
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.a.Check(ctx, e); err != nil {
		t.Error(err)
	}
}

// Rows that are not right, or not sealed, make no archive.
func TestRefuses(t *testing.T) {
	t.Parallel()
	b := newBed(t, t.TempDir())
	ctx := t.Context()
	change := func(sql string) {
		t.Helper()
		if err := b.db.Tx(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SET LOCAL auditdb.purpose = 'move'; "+sql)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	change(`INSERT INTO public.audit_log (timestamp, action, status) VALUES ('2024-01-05Z', 'late', 'ok')`)
	if _, err := b.a.Create(ctx, b.t, b.part); fault.ClassOf(err) != fault.Refused {
		t.Errorf("unsealed: %v", err)
	}
	change(`DELETE FROM public.audit_log WHERE action = 'late'`)
	change(`UPDATE public.audit_log SET status = 'no' WHERE id = (SELECT min(id) FROM public.audit_log)`)
	if _, err := b.a.Create(ctx, b.t, b.part); fault.ClassOf(err) != fault.Integrity {
		t.Errorf("tampered: %v", err)
	}
}

// Rows that lie in another order than that of their ids come into the archive in that order.
func TestDisorder(t *testing.T) {
	t.Parallel()
	b := newBed(t, t.TempDir())
	ctx := t.Context()
	if err := b.db.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SET LOCAL auditdb.purpose = 'move'; UPDATE public.audit_log SET action = action WHERE id < 40") // they move to the end
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var back bool
	if err := b.db.Pool().QueryRow(ctx, "SELECT bool_or(back) FROM (SELECT id < lag(id) OVER (ORDER BY ctid) AS back FROM public.audit_log_2024_01) s").Scan(&back); err != nil || !back {
		t.Fatalf("the rows lie in order, %v", err)
	}
	if _, err := b.a.Create(ctx, b.t, b.part); err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	m, key, err := b.a.Store.Manifest(ctx, b.entry(), b.a.publics())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.a.Store.Scan(ctx, m, key, func(r *Row) error {
		if r.ID <= last {
			t.Errorf("%d after %d", r.ID, last)
		}
		last = r.ID
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A folder whose archives are gone takes no new ones: another disk may be mounted there, or none.
func TestFolderIsAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBed(t, dir)
	ctx := t.Context()
	if _, err := b.a.Create(ctx, b.t, b.part); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "schema=public"), filepath.Join(t.TempDir(), "away")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.a.Create(ctx, b.t, b.part); fault.ClassOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "although 1 archives") {
		t.Errorf("%v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"manifest":{"format":"auditdb.archive.v1"},"note":""}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text, nil)
		if err == nil && m.check() != nil {
			t.Error("it was not checked")
		}
	})
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "ftp://x", "file://relative", "s3://"} {
		if _, err := Open(t.Context(), address); fault.ClassOf(err) != fault.Config {
			t.Errorf("%q: %v", address, err)
		}
	}
}

var _ io.Writer = (*lyingStage)(nil)

// A manifest that somebody else signed is found where there is a key; without one nothing is called right. One that was signed before the key
// was rotated is right.
func TestSignatures(t *testing.T) {
	t.Parallel()
	b := newBed(t, t.TempDir())
	ctx := t.Context()
	if _, err := b.a.Create(ctx, b.t, b.part); err != nil {
		t.Fatal(err)
	}
	e, old := b.entry(), b.a.Log.Keys()
	next, err := old.Next("")
	if err != nil {
		t.Fatal(err)
	}
	b.a.Log, b.a.Verify.Keys = integrity.NewLog(next), next
	if err := b.a.Check(ctx, e); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	m, key, err := b.a.Store.Manifest(ctx, e, old.Publics())
	if err != nil {
		t.Fatal(err)
	}
	b.a.Log, b.a.Verify = nil, integrity.VerifyOptions{Public: old.Public()}
	if err := b.a.Check(ctx, e); err != nil {
		t.Errorf("with the verifier key: %v", err)
	}
	stranger, err := integrity.Generate(old.Origin())
	if err != nil {
		t.Fatal(err)
	}
	forged, err := m.encode(stranger)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.a.Store.put(ctx, filepath.Dir(key)+"/"+manifestName(m.Root), forged); err != nil {
		t.Fatal(err)
	}
	if err := b.a.Check(ctx, e); fault.ClassOf(err) != fault.Integrity {
		t.Errorf("signed by somebody else: %v", err)
	}
	b.a.Verify.Public = nil
	if err := b.a.Check(ctx, e); fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("without a key: %v", err)
	}
}

// A log that is busy for longer than sessions wait for table locks is waited for.
func TestWaitsForTheLog(t *testing.T) {
	t.Parallel()
	b := newBed(t, t.TempDir())
	ctx := t.Context()
	hasty, err := postgres.Open(ctx, postgres.Options{URL: b.db.Pool().Config().ConnString(), Application: "hasty", LockTimeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hasty.Close)
	busy, err := b.db.Pool().Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := integrity.Lock(ctx, busy); err != nil {
		t.Fatal(err)
	}
	b.a.DB, b.a.Log = hasty, b.a.Log.Waiting(time.Minute)
	created := make(chan error, 1)
	go func() {
		_, err := b.a.Create(ctx, b.t, b.part)
		created <- err
	}()
	for waits := false; !waits; {
		select {
		case err := <-created:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		if err := busy.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.application_name = 'auditdb/hasty')`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := busy.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err != nil {
		t.Error(err)
	}
}
