package query

import (
	"reflect"
	"sync"
	"testing"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/pkg/cache"
)

// A thousand callers ask for pages, counts and groups on three connections, with and without a cache: no question holds a connection while it
// waits for another one, so that all are answered, and answered right.
func TestAThousandCallers(t *testing.T) {
	t.Parallel()
	url := pgtest.DB(t)
	b := bedOn(t, url)
	few, err := postgres.Open(t.Context(), postgres.Options{URL: url, Application: "few", MaxConns: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(few.Close)
	plain := b.newEngine(CacheOptions{})
	b.db = few
	engines := []*Engine{b.newEngine(CacheOptions{}), b.newEngine(CacheOptions{Cache: newCache(t, cache.Options{}), PHI: true})}
	ask := func(e *Engine, i int) (any, error) {
		req := b.request("2026-01-01", []string{"2026-02-01", "2026-03-01", "2026-06-01"}[i%3])
		req.Explain = i%17 == 0
		switch i % 4 {
		case 0:
			_, n, err := e.Count(t.Context(), req)
			return n, err
		case 1:
			_, groups, _, err := e.Groups(t.Context(), req, "action")
			return groups, err
		}
		req.Limit = 20 + i%5
		page, err := e.Page(t.Context(), req)
		if err != nil {
			return nil, err
		}
		ids := []string{page.Next}
		for _, r := range page.Rows {
			ids = append(ids, r.Text("id"))
		}
		return ids, nil
	}
	want := make([]any, 60)
	for i := range want {
		if want[i], err = ask(plain, i); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			got, err := ask(engines[i%2], i/2)
			if err != nil || !reflect.DeepEqual(got, want[i/2%60]) {
				t.Errorf("caller %d: %v; got %v, want %v", i, err, got, want[i/2%60])
			}
		})
	}
	wg.Wait()
	if s := few.Stat(); s.Waiting != 0 || s.EmptyAcquireCount() == 0 || s.TotalConns() > 3 {
		t.Errorf("%d wait, %d waited, %d connections", s.Waiting, s.EmptyAcquireCount(), s.TotalConns())
	}
}
