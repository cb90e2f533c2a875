package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/cache"
	"auditdb/pkg/ingest"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
	"auditdb/pkg/query"
)

func TestNoReaderMissesWhatWasCommitted(t *testing.T) {
	t.Parallel()
	modelTest(t, 6*time.Second)
}

// fact is what the test knows of one event.
type fact struct {
	tag, principal string
	id             int64 // of ingested ones that were looked up; 0: not known
	committed      bool
	going          bool // its removal has begun
	gone           bool // and was committed
}

// model is what all writers together have done.
type model struct {
	mu    sync.Mutex
	made  int
	facts map[string][]*fact // by principal
}

// principals are changed after so many events, so that a page holds all of one.
const eventsEach = 60

// begin makes events that are about to be written.
func (m *model) begin(n int) []*fact {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*fact, n)
	for i := range list {
		f := &fact{tag: fmt.Sprintf("t%d", m.made), principal: fmt.Sprintf("m%d", m.made/eventsEach)}
		m.made++
		m.facts[f.principal] = append(m.facts[f.principal], f)
		list[i] = f
	}
	return list
}

func (m *model) set(list []*fact, change func(*fact)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range list {
		change(f)
	}
}

// removable begins the removal of one ingested event, nil where there is none.
func (m *model) removable() *fact {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.facts[fmt.Sprintf("m%d", rand.IntN(m.made/eventsEach+1))] {
		if f.id != 0 && f.committed && !f.going && rand.IntN(3) == 0 {
			f.going = true
			return f
		}
	}
	return nil
}

// question is what is known when a reader asks.
type question struct {
	principal string
	must      []*fact         // committed, and not going
	mustNot   map[string]bool // gone
}

func (m *model) ask() question {
	m.mu.Lock()
	defer m.mu.Unlock()
	newest := m.made / eventsEach
	q := question{principal: fmt.Sprintf("m%d", max(0, newest-rand.IntN(4))), mustNot: map[string]bool{}}
	for _, f := range m.facts[q.principal] {
		switch {
		case f.gone:
			q.mustNot[f.tag] = true
		case f.committed && !f.going:
			q.must = append(q.must, f)
		}
	}
	return q
}

// wrong says what an answer lacks or has too much.
func (m *model) wrong(q question, tags []string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	got := map[string]bool{}
	for _, tag := range tags {
		if got[tag] {
			return tag + " comes twice"
		}
		if got[tag] = true; q.mustNot[tag] {
			return tag + " was gone when it was asked for"
		}
	}
	for _, f := range q.must {
		if !f.going && !got[f.tag] {
			return f.tag + " was committed before the question"
		}
	}
	return ""
}

// wrongCount is wrong for a number of rows.
func (m *model) wrongCount(q question, n int64) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	least, most := int64(0), int64(len(m.facts[q.principal])-len(q.mustNot))
	for _, f := range q.must {
		if !f.going {
			least++
		}
	}
	if n < least || n > most {
		return fmt.Sprintf("%d rows are counted, at least %d and at most %d there", n, least, most)
	}
	return ""
}

// modelRun is everything that one run has in common.
type modelRun struct {
	*model
	t          *testing.T
	url, redis string
	key        string
	db         *postgres.DB
	table      partitions.Table
	log        *integrity.Log
	reads      atomic.Int64
	hits       [2]atomic.Int64 // parts of answers from L1 and L2
}

// modelTest lets 8 writers and 16 readers, some of them processes of their own, go on for a while.
func modelTest(t *testing.T, lasts time.Duration) {
	t.Helper()
	r := newModelRun(t)
	ctx, stop := context.WithTimeout(t.Context(), lasts)
	defer stop()
	var wg sync.WaitGroup
	loop := func(name string, pause time.Duration, fn func(context.Context) error) {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := fn(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", name, err)
					stop()
					return
				}
				timer := time.NewTimer(rand.N(pause))
				select {
				case <-ctx.Done():
				case <-timer.C:
				}
			}
		})
	}
	// Slow enough for readers to find things as they left them, or a fragment that should not have been kept would never be asked for.
	loop("ingest", 200*time.Millisecond, r.ingest)
	loop("ingest", 200*time.Millisecond, r.ingest)
	loop("killed ingest", 500*time.Millisecond, r.killedIngest)
	loop("insert", 300*time.Millisecond, func(ctx context.Context) error { return r.insert(ctx, 0) })
	loop("slow insert", 50*time.Millisecond, func(ctx context.Context) error { return r.insert(ctx, 60*time.Millisecond) })
	loop("erase", 30*time.Millisecond, r.erase)
	loop("expire", 100*time.Millisecond, r.expire)
	loop("prune and seal", 300*time.Millisecond, r.prune())
	for range 4 {
		engine := r.engine()
		for range 3 {
			loop("read", 5*time.Millisecond, func(ctx context.Context) error { return r.read(ctx, engine) })
		}
		loop("read as a process", 400*time.Millisecond, r.readAsProcess)
	}
	wg.Wait()
	t.Logf("%d events, %d answers, parts from L1 %d, from L2 %d", r.made, r.reads.Load(), r.hits[0].Load(), r.hits[1].Load())
	if r.hits[0].Load() == 0 || r.hits[1].Load() == 0 {
		t.Error("the cache was not used")
	}
}

func newModelRun(t *testing.T) *modelRun {
	t.Helper()
	r := &modelRun{model: &model{facts: map[string][]*fact{}}, t: t, url: pgtest.DB(t), redis: pgtest.Redis(t), key: filepath.Join(t.TempDir(), "key")}
	finish(t, r.url, "integrity", "keygen", "-f", r.key)
	finish(t, r.url, "partition", "create", "--from", "2026-01", "--to", "2026-07")
	keys, err := integrity.LoadKeys(r.key)
	if err != nil {
		t.Fatal(err)
	}
	r.log, r.db = integrity.NewLog(keys), r.open()
	if r.table, err = partitions.Resolve(t.Context(), r.db, partitions.DefaultTable); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *modelRun) open() *postgres.DB {
	r.t.Helper()
	db, err := postgres.Open(r.t.Context(), postgres.Options{URL: r.url, Application: "model"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(db.Close)
	return db
}

// engine makes a reader with an L1 of its own.
func (r *modelRun) engine() *query.Engine {
	r.t.Helper()
	client, err := redis.Open(r.t.Context(), r.redis, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := cache.New(r.t.Context(), cache.Options{Redis: client.UniversalClient, Now: time.Now, Timeout: 5 * time.Second})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		c.Close(context.WithoutCancel(r.t.Context()))
		_ = client.Close()
	})
	return query.New(query.Options{DB: r.open(), Now: time.Now, StatementTimeout: time.Minute, Cache: query.CacheOptions{Cache: c, TTL: time.Minute}})
}

// at is a moment in one of the months; the older ones change seldom.
func at() time.Time {
	month := 5
	if rand.IntN(4) == 0 {
		month = rand.IntN(6)
	}
	return time.Date(2026, time.Month(1+month), 1+rand.IntN(28), rand.IntN(24), 0, 0, 0, time.UTC)
}

// file writes events to be ingested.
func (r *modelRun) file(list []*fact) (string, error) {
	var b strings.Builder
	for _, f := range list {
		line, err := json.Marshal(map[string]any{"timestamp": at(), "action": "a", "status": "s", "principal_id": f.principal, "correlation_id": f.tag})
		if err != nil {
			return "", err
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	name := filepath.Join(r.t.TempDir(), list[0].tag+".ndjson")
	return name, os.WriteFile(name, []byte(b.String()), 0o600)
}

func (r *modelRun) ingest(ctx context.Context) error {
	list := r.begin(1 + rand.IntN(3))
	name, err := r.file(list)
	if err != nil {
		return err
	}
	mapping, err := ingest.ParseMapping(ingest.MappingNative, nil)
	if err != nil {
		return err
	}
	sources, err := ingest.Expand([]string{name}, "", nil)
	if err != nil {
		return err
	}
	_, err = ingest.Run(ctx, ingest.Options{DB: r.db, Table: r.table, Log: r.log, Now: time.Now, Mapping: mapping, MaxAhead: 1 << 62, Wait: time.Minute}, sources)
	if err != nil {
		return err
	}
	r.set(list, func(f *fact) { f.committed = true })
	for _, f := range list {
		var id int64
		if err := r.db.Pool().QueryRow(ctx, "SELECT id FROM public.audit_log WHERE correlation_id = $1 AND principal_id = $2", f.tag, f.principal).Scan(&id); err != nil {
			return err
		}
		r.set([]*fact{f}, func(f *fact) { f.id = id })
	}
	return nil
}

// killedIngest may have committed when it is killed, and may not.
func (r *modelRun) killedIngest(ctx context.Context) error {
	list := r.begin(2)
	name, err := r.file(list)
	if err != nil {
		return err
	}
	c := r.command(ctx, "ingest", name)
	if err := c.Start(); err != nil {
		return err
	}
	timer := time.NewTimer(rand.N(200 * time.Millisecond))
	<-timer.C
	_ = c.Process.Kill() // it may have come to its end
	if c.Wait() == nil {
		r.set(list, func(f *fact) { f.committed = true })
	}
	return nil
}

func (r *modelRun) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "auditdb", args...)
	c.Env = append(os.Environ(), "DATABASE_URL="+r.url, "REDIS_URL="+r.redis, "AUDITDB_INTEGRITY_KEY_FILE="+r.key, "HOME="+r.t.TempDir())
	return c
}

// insert is an application's transaction; one that takes its time commits after others with larger ids, and some never commit.
func (r *modelRun) insert(ctx context.Context, longest time.Duration) error {
	list := r.begin(1 + rand.IntN(2))
	lost := errors.New("rolled back")
	err := pgx.BeginFunc(ctx, r.db.Pool(), func(tx pgx.Tx) error {
		for _, f := range list {
			if _, err := tx.Exec(ctx, `INSERT INTO public.audit_log ("timestamp", action, status, principal_id, correlation_id) VALUES ($1, 'i', 's', $2, $3)`, at(), f.principal, f.tag); err != nil {
				return err
			}
			if longest > 0 {
				if _, err := tx.Exec(ctx, "SELECT pg_sleep($1)", rand.N(longest).Seconds()); err != nil {
					return err
				}
			}
		}
		if rand.IntN(10) == 0 {
			return lost
		}
		return nil
	})
	if errors.Is(err, lost) {
		return nil
	}
	if err == nil {
		r.set(list, func(f *fact) { f.committed = true })
	}
	return err
}

func (r *modelRun) managed() *integrity.Table {
	return &integrity.Table{ID: *r.table.ManagedID, OID: r.table.OID, Schema: r.table.Schema, Name: r.table.Name, KeyColumn: r.table.Key.Column}
}

// remove takes an event away in a transaction.
func (r *modelRun) remove(ctx context.Context, how func(pgx.Tx, int64) error) error {
	f := r.removable()
	if f == nil {
		return nil
	}
	err := r.db.Tx(ctx, func(tx pgx.Tx) error { return how(tx, f.id) })
	if err == nil {
		r.set([]*fact{f}, func(f *fact) { f.gone = true })
	}
	return err
}

func (r *modelRun) erase(ctx context.Context) error {
	return r.remove(ctx, func(tx pgx.Tx, id int64) error {
		_, err := r.log.Redact(ctx, tx, time.Now(), r.managed(), []int64{id})
		return err
	})
}

// expire deletes a row as retention run does it for rules for rows.
func (r *modelRun) expire(ctx context.Context) error {
	c, err := partitions.Load(ctx, r.db.Pool(), r.table)
	if err != nil {
		return err
	}
	return r.remove(ctx, func(tx pgx.Tx, id int64) error {
		if _, err := tx.Exec(ctx, "SET LOCAL auditdb.purpose = 'expire'"); err != nil {
			return err
		}
		var when time.Time
		if err := tx.QueryRow(ctx, `DELETE FROM public.audit_log WHERE id = $1 RETURNING "timestamp"`, id).Scan(&when); err != nil {
			return err
		}
		p, _ := c.Find(when)
		ref := integrity.PartitionRef{Name: p.Name, Range: integrity.Range{From: p.From, To: p.To}}
		entries, err := r.log.ExpiringRows(ctx, tx, r.managed(), ref, []int64{id})
		if err != nil {
			return err
		}
		if err := integrity.Lock(ctx, tx); err != nil {
			return err
		}
		_, err = r.log.Append(ctx, tx, time.Now(), entries, nil)
		return err
	})
}

// prune makes a month of 2020, lets an application fill it, seals, and drops it.
func (r *modelRun) prune() func(context.Context) error {
	n := 0
	return func(ctx context.Context) error {
		from := time.Date(2010, time.Month(1+n%12), 1, 0, 0, 0, 0, time.UTC).AddDate(n/12, 0, 0)
		n++
		run := func(args ...string) error {
			if out, err := r.command(ctx, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("auditdb %s: %w\n%s", strings.Join(args, " "), err, out)
			}
			return nil
		}
		to := from.AddDate(0, 1, 0).Format("2006-01")
		if err := run("partition", "create", "--from", from.Format("2006-01"), "--to", to); err != nil {
			return err
		}
		list := r.begin(3)
		for _, f := range list {
			if _, err := r.db.Pool().Exec(ctx, `INSERT INTO public.audit_log ("timestamp", action, status, principal_id, correlation_id) VALUES ($1, 'i', 's', $2, $3)`, from, f.principal, f.tag); err != nil {
				return err
			}
			r.set([]*fact{f}, func(f *fact) { f.committed = true })
		}
		if err := run("integrity", "seal"); err != nil {
			return err
		}
		r.set(list, func(f *fact) { f.going = true })
		err := run("partition", "prune", "--partition", "public.audit_log_"+from.Format("2006_01"), "--older-than", to, "--yes")
		if err == nil {
			r.set(list, func(f *fact) { f.gone = true })
		}
		return err
	}
}

// read asks in this process for one principal's events, or for their number.
func (r *modelRun) read(ctx context.Context, engine *query.Engine) error {
	q := r.ask()
	req := query.Request{Table: r.table, Limit: 900, Filters: []query.Filter{{Column: "principal_id", Value: q.principal}}}
	var answer query.Answer
	wrong := ""
	if rand.IntN(3) == 0 {
		a, n, err := engine.Count(ctx, req)
		if err != nil {
			return err
		}
		answer, wrong = a, r.wrongCount(q, n)
	} else {
		page, err := engine.Page(ctx, req)
		if err != nil {
			return err
		}
		tags := make([]string, len(page.Rows))
		for i, row := range page.Rows {
			tags[i] = row.Text("correlation_id")
		}
		answer, wrong = page.Answer, r.wrong(q, tags)
	}
	r.note(int64(answer.Sources[query.SourceL1]), int64(answer.Sources[query.SourceL2]))
	return wrongAnswer(wrong, answer.Sources)
}

func (r *modelRun) note(l1, l2 int64) {
	r.reads.Add(1)
	r.hits[0].Add(l1)
	r.hits[1].Add(l2)
}

func wrongAnswer(wrong string, sources query.Sources) error {
	if wrong == "" {
		return nil
	}
	return fmt.Errorf("a wrong answer: %s; sources %s", wrong, sources)
}

// readAsProcess asks by a process of its own, which has Redis alone.
func (r *modelRun) readAsProcess(ctx context.Context) error {
	q := r.ask()
	out, err := r.command(ctx, "query", "--principal", q.principal, "--limit", "900", "-o", "json").Output()
	if err != nil {
		return err
	}
	doc := gjson.ParseBytes(out)
	var tags []string
	for _, tag := range doc.Get("rows.#.correlation_id").Array() {
		tags = append(tags, tag.String())
	}
	r.note(0, doc.Get("sources.l2").Int())
	return wrongAnswer(r.wrong(q, tags), query.Sources{query.SourceL2: int(doc.Get("sources.l2").Int()), query.SourcePrimary: int(doc.Get("sources.primary").Int())})
}
