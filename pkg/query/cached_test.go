package query

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/cache"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// newCache makes one that ends with the test.
func newCache(t *testing.T, o cache.Options) *cache.Cache {
	t.Helper()
	o.Now = time.Now
	c, err := cache.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.WithoutCancel(t.Context())) })
	return c
}

// bed is a database whose log knows its partitions, and an engine with a cache.
type bed struct {
	*testing.T
	db     *postgres.DB
	table  partitions.Table
	log    *integrity.Log
	cache  *cache.Cache
	engine *Engine
}

func newBed(t *testing.T) *bed {
	t.Helper()
	return bedOn(t, pgtest.DB(t))
}

func bedOn(t *testing.T, url string) *bed {
	t.Helper()
	db, table := filled(t, url)
	keys, err := integrity.Generate("query.test")
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{T: t, db: db, table: table, log: integrity.NewLog(keys), cache: newCache(t, cache.Options{})}
	b.engine = b.newEngine(CacheOptions{Cache: b.cache, TTL: time.Minute, PHI: true})
	b.seal()
	return b
}

func (b *bed) newEngine(o CacheOptions) *Engine {
	return New(Options{DB: b.db, Now: func() time.Time { return start.AddDate(0, 3, 0) }, StatementTimeout: time.Minute, Cache: o})
}

func (b *bed) managed() *integrity.Table {
	return &integrity.Table{ID: *b.table.ManagedID, OID: b.table.OID, Schema: b.table.Schema, Name: b.table.Name, KeyColumn: b.table.Key.Column}
}

func (b *bed) seal() {
	b.Helper()
	if _, err := b.log.Seal(b.Context(), b.db, b.managed(), integrity.SealOptions{Now: time.Now, Wait: time.Minute, AcceptPartitions: true}); err != nil {
		b.Fatal(err)
	}
}

func (b *bed) insert(at string) {
	b.Helper()
	run(b.T, b.db, `INSERT INTO public.audit_log ("timestamp", action, status, principal_id) VALUES ($1, 'late', 's', 'p9')`, at)
}

// page asks for a month and says how many rows it has, and from where.
func (b *bed) page(from, to string) (rows int, sources Sources) {
	b.Helper()
	page, err := b.engine.Page(b.Context(), b.request(from, to))
	if err != nil {
		b.Fatal(err)
	}
	return len(page.Rows), page.Sources
}

func (b *bed) request(from, to string) Request {
	r := Request{Table: b.table, Limit: 900}
	for _, end := range []struct {
		text string
		at   **time.Time
	}{{from, &r.Window.From}, {to, &r.Window.To}} {
		at, err := time.Parse(time.DateOnly, end.text)
		if err != nil {
			b.Fatal(err)
		}
		*end.at = &at
	}
	return r
}

// want compares what January and February give, and where they come from.
func (b *bed) want(what string, january int, fromJanuary Source, february int, fromFebruary Source) {
	b.Helper()
	for _, m := range []struct {
		from, to string
		rows     int
		source   Source
	}{{"2026-01-01", "2026-02-01", january, fromJanuary}, {"2026-02-01", "2026-03-01", february, fromFebruary}} {
		if rows, sources := b.page(m.from, m.to); rows != m.rows || sources[m.source] != 1 || len(sources) != 1 {
			b.Errorf("%s: %s has %d rows from %v, want %d from %s", what, m.from, rows, sources, m.rows, m.source)
		}
	}
}

// Everything that can be asked for is answered the same from the cache.
func TestCachedAnswersAreThoseOfAPlainFilter(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	all := events(t, b.db)
	checkAnswers(t, b.engine, b.table, all)
	checkAnswers(t, b.engine, b.table, all)
}

// Whatever is committed, by this program or by others, is in the next answer; what it does not touch stays cached.
func TestCommitsAreNeverMissed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	january, _ := b.page("2026-01-01", "2026-02-01")
	february, _ := b.page("2026-02-01", "2026-03-01")
	b.want("again", january, SourceL1, february, SourceL1)

	run(t, b.db, "VACUUM public.audit_log") // the index over ids knows all pages
	b.insert("2026-02-03Z")
	february++
	b.want("an application inserted into February", january, SourceL1, february, SourcePrimary)
	b.want("again", january, SourceL1, february, SourceL1)

	b.insert("2026-01-31Z")
	january++
	b.want("an application inserted into January", january, SourcePrimary, february, SourceL1)

	b.seal()
	b.want("both were sealed", january, SourcePrimary, february, SourcePrimary)
	b.want("again", january, SourceL1, february, SourceL1)

	run(t, b.db, "ALTER TABLE public.audit_log_2026_01 SET (fillfactor = 90)")
	b.want("January was altered", january, SourcePrimary, february, SourceL1)
	run(t, b.db, "VACUUM FULL public.audit_log_2026_02")
	b.want("February was rewritten", january, SourceL1, february, SourcePrimary)

	erase := func() error {
		return b.db.Tx(t.Context(), func(tx pgx.Tx) error {
			var id int64
			if err := tx.QueryRow(t.Context(), `SELECT id FROM public.audit_log WHERE principal_id = 'p2' AND "timestamp" < '2026-02-01Z' ORDER BY id LIMIT 1`).Scan(&id); err != nil {
				return err
			}
			_, err := b.log.Redact(t.Context(), tx, time.Now(), b.managed(), []int64{id})
			return err
		})
	}
	r := b.request("2026-01-01", "2026-02-01")
	r.Filters = []Filter{{Column: "principal_id", Value: "p2"}}
	count := func() int64 {
		_, n, err := b.engine.Count(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	if err := erase(); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != before-1 {
		t.Errorf("after an erasure %d rows, want %d", n, before-1)
	}
}

// A row whose id was given out before others were committed, and which is committed after them, is not missed.
func TestLateCommitsAreNeverMissed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	january, _ := b.page("2026-01-01", "2026-02-01")
	slow, err := b.db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := slow.Exec(t.Context(), `INSERT INTO public.audit_log ("timestamp", action, status) VALUES ('2026-01-05Z', 'slow', 's')`); err != nil {
		t.Fatal(err)
	}
	b.insert("2026-01-06Z")
	for range 2 { // nothing is stored as long as the smaller id may still come
		if n, sources := b.page("2026-01-01", "2026-02-01"); n != january+1 || sources[SourcePrimary] != 1 {
			t.Errorf("%d rows from %v, want %d from the primary", n, sources, january+1)
		}
	}
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []Source{SourcePrimary, SourceL1} {
		if n, sources := b.page("2026-01-01", "2026-02-01"); n != january+2 || sources[want] != 1 {
			t.Errorf("%d rows from %v, want %d from %s", n, sources, january+2, want)
		}
	}
}

// What cannot be shown to be whole is not cached, and --explain says why.
func TestWhatIsNotCached(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	why := func(engine *Engine, from, to string) string {
		t.Helper()
		r := b.request(from, to)
		r.Explain = true
		for range 2 {
			page, err := engine.Page(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if first := page.Explain[0]; first.Source != SourcePrimary {
				return string(first.Source)
			} else if first.Cache != "stored" {
				return first.Cache
			}
		}
		return "stored, not found again"
	}
	check := func(want, got string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	check("l1", why(b.engine, "2026-01-01", "2026-02-01"))
	check("not cached: default partition", why(b.engine, "2026-03-01", "2026-04-01"))
	run(t, b.db, `ALTER TABLE public.audit_log_2026_02 DISABLE TRIGGER audit_log_guard`)
	check("not cached: its guard is missing", why(b.engine, "2026-02-01", "2026-03-01"))
	run(t, b.db, `ALTER TABLE public.audit_log_2026_02 ENABLE TRIGGER audit_log_guard`)
	check("l1", why(b.engine, "2026-02-01", "2026-03-01"))
	run(t, b.db, `CREATE TABLE public.audit_log_2026_06 PARTITION OF public.audit_log FOR VALUES FROM ('2026-06-01Z') TO ('2026-07-01Z')`)
	check("not cached: the integrity log does not know it", why(b.engine, "2026-06-01", "2026-07-01"))
	run(t, b.db, `INSERT INTO public.audit_log ("timestamp", action, status, data_classification) VALUES ('2026-04-05Z', 'a', 's', 'phi')`)
	check("not stored: health data", why(b.newEngine(CacheOptions{Cache: newCache(t, cache.Options{})}), "2026-04-01", "2026-05-01"))
	check("l1", why(b.engine, "2026-04-01", "2026-05-01"))
	check("stored, not found again", why(b.newEngine(CacheOptions{Cache: b.cache, Fresh: true}), "2026-01-01", "2026-02-01"))
	run(t, b.db, `ALTER SEQUENCE public.audit_log_id_seq CACHE 10`)
	check("not cached: ids of other writers do not come from an identity column", why(b.engine, "2026-01-01", "2026-02-01"))
	run(t, b.db, `ALTER SEQUENCE public.audit_log_id_seq CACHE 1; ALTER TABLE public.audit_log ALTER id SET GENERATED BY DEFAULT`)
	check("not cached: ids of other writers do not come from an identity column", why(b.engine, "2026-01-01", "2026-02-01"))
	run(t, b.db, `ALTER TABLE public.audit_log ALTER id SET GENERATED ALWAYS`)
	check("l1", why(b.engine, "2026-01-01", "2026-02-01"))
}

// Another role has fragments of its own, and under row security none.
func TestRolesDoNotShareFragments(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	role := fmt.Sprintf("query_test_%d", time.Now().UnixNano())
	run(t, b.db, fmt.Sprintf(`CREATE ROLE %s LOGIN IN ROLE auditdb_reader`, role))
	t.Cleanup(func() { _, _ = b.db.Pool().Exec(context.WithoutCancel(t.Context()), "DROP ROLE "+role) })
	config := b.db.Pool().Config().ConnConfig
	other := open(t, fmt.Sprintf("host=%s port=%d dbname=%s user=%s", config.Host, config.Port, config.Database, role))
	reader := New(Options{DB: other, Now: b.engine.o.Now, Cache: b.engine.o.Cache})
	ask := func(engine *Engine) (int, Source) {
		page, err := engine.Page(t.Context(), b.request("2026-01-01", "2026-02-01"))
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Rows), page.Sources.Costliest()
	}
	all, _ := ask(b.engine)
	for _, want := range []Source{SourcePrimary, SourceL1} {
		if n, source := ask(reader); n != all || source != want {
			t.Errorf("%d rows from %s, want %d from %s", n, source, all, want)
		}
	}
	run(t, b.db, `CREATE POLICY few ON public.audit_log USING (action = 'a1'); ALTER TABLE public.audit_log ENABLE ROW LEVEL SECURITY`)
	for range 2 {
		if n, source := ask(reader); n >= all || n == 0 || source != SourcePrimary {
			t.Errorf("under row security %d rows from %s", n, source)
		}
	}
	if n, _ := ask(b.engine); n != all {
		t.Errorf("the owner sees %d rows of %d", n, all)
	}
}

// A standby shows neither the primary's locks nor every step of its sequences, so nothing is cached there.
func TestNothingIsCachedOnAStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	standby, caughtUp := pgtest.Standby(t, primary)
	pgtest.Migrate(t, primary.URL(embedded.Superuser))
	b := bedOn(t, primary.URL(embedded.Superuser))
	caughtUp()
	db, err := postgres.Open(t.Context(), postgres.Options{URL: standby.URL(embedded.Superuser), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	engine := New(Options{DB: db, Now: b.engine.o.Now, Cache: b.engine.o.Cache})
	r := b.request("2026-01-01", "2026-02-01")
	r.Explain = true
	for range 2 {
		page, err := engine.Page(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if x := page.Explain[0]; x.Cache != "not cached: the server is a standby" || len(page.Rows) == 0 {
			t.Errorf("%+v", x)
		}
	}

	// Beside its primary a standby that has everything is as good: what was read from it is found again under the primary's keys.
	b.engine.o.Replicas = follower{db, caughtUp}
	rows, _ := b.page("2026-01-01", "2026-02-01")
	for range 2 {
		b.insert("2026-01-07Z")
		rows++
		for _, source := range []Source{SourceReplica, SourceL1} {
			if n, sources := b.page("2026-01-01", "2026-02-01"); n != rows || sources.Costliest() != source {
				t.Errorf("%d rows from %v, want %d from %s", n, sources, rows, source)
			}
		}
	}
}

// A replica that serves although it is behind, because the primary could not be asked just then, stores nothing.
func TestReplicasThatAreBehindStoreNothing(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	standby, caughtUp := pgtest.Standby(t, primary)
	pgtest.Migrate(t, primary.URL(embedded.Superuser))
	b := bedOn(t, primary.URL(embedded.Superuser))
	caughtUp()
	db := open(t, standby.URL(embedded.Superuser))
	b.engine.o.Replicas = follower{db, func() {}}
	run(t, db, "SELECT pg_wal_replay_pause()")
	b.insert("2026-01-07Z")
	r := b.request("2026-01-01", "2026-02-01")
	r.Explain = true
	behind := 0
	for range 2 {
		page, err := b.engine.Page(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		behind = len(page.Rows)
		if x := page.Explain[0]; x.Source != SourceReplica || x.Cache != "not cached: the replica is not where the primary was" {
			t.Errorf("%+v", x)
		}
	}
	b.engine.o.Replicas = nil
	if n, sources := b.page("2026-01-01", "2026-02-01"); n != behind+1 || sources.Costliest() != SourcePrimary {
		t.Errorf("%d rows from %v, want %d", n, sources, behind+1)
	}
}

// follower is a standby that is waited for until it has everything.
type follower struct {
	db       *postgres.DB
	caughtUp func()
}

func (f follower) Read(ctx context.Context, fn func(ctx context.Context, db *postgres.DB, name string) error) error {
	f.caughtUp()
	return fn(ctx, f.db, "standby")
}

// Redis is killed, comes back empty, and is killed again: answers stay right, and come from Redis again when it is there.
func TestRedisComesAndGoes(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	server := pgtest.RedisServer(t)
	client, err := redis.Open(t.Context(), server.URL(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	// Each question comes from another process, so to say: with an L1 of its own.
	ask := func() (int, Source) {
		t.Helper()
		c := newCache(t, cache.Options{Redis: client.UniversalClient, Timeout: 10 * time.Second})
		page, err := b.newEngine(CacheOptions{Cache: c, TTL: time.Minute, PHI: true}).Page(t.Context(), b.request("2026-01-01", "2026-02-01"))
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Rows), page.Sources.Costliest()
	}
	rows, _ := ask()
	want := func(what string, sources ...Source) {
		t.Helper()
		for _, source := range sources {
			if n, got := ask(); n != rows || got != source {
				t.Errorf("%s: %d rows from %s, want %d from %s", what, n, got, rows, source)
			}
		}
	}
	want("at first", SourceL2, SourceL2)
	b.insert("2026-01-07Z")
	rows++
	want("after an insert", SourcePrimary, SourceL2)
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("Redis is gone", SourcePrimary, SourcePrimary)
	b.insert("2026-01-07Z")
	rows++
	want("and a row has come", SourcePrimary)
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("Redis is back and empty", SourcePrimary, SourceL2)
	keys, err := client.Keys(t.Context(), "*:v:*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatal(keys, err)
	}
	for _, k := range keys {
		if err := client.Set(t.Context(), k, "poison", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	want("values were poisoned", SourcePrimary, SourceL2)
}

func FuzzDecode(f *testing.F) {
	f.Add((&fragment{sequence: 7, rows: [][][]byte{{[]byte("a"), nil}, {{}, []byte("b")}}}).encode())
	f.Add([]byte{fragmentVersion, 0, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := decode(b, 2)
		if !ok {
			return
		}
		if again, ok := decode(got.encode(), 2); !ok || again.sequence != got.sequence || len(again.rows) != len(got.rows) {
			t.Fatalf("%x: %+v, again %+v", b, got, again)
		}
	})
}

// Behind a pooler that gives each transaction another server everything works the same, and the limit of statements holds.
func TestBehindAPooler(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	db := open(t, pgtest.PgBouncer(t, pgtest.Shared(t), "transaction")(b.db.Pool().Config().ConnConfig.Database))
	if db.Pooling() != postgres.PoolingTransaction {
		t.Fatalf("pooling: %s", db.Pooling())
	}
	engine := New(Options{DB: db, Now: b.engine.o.Now, StatementTimeout: time.Minute, Cache: b.engine.o.Cache})
	checkAnswers(t, engine, resolve(t, db, "public.audit_log"), events(t, b.db))
	var limit string
	err := engine.read(t.Context(), func(tx pgx.Tx, _ Source) error {
		return tx.QueryRow(t.Context(), "SELECT current_setting('statement_timeout')").Scan(&limit)
	})
	if err != nil || limit != "1min" {
		t.Errorf("statement_timeout %q, %v", limit, err)
	}
}
