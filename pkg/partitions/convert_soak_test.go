//go:build soak

package partitions

import (
	"context"
	"sync"
	"testing"
	"time"

	"auditdb/internal/postgres"
)

// A million rows: nobody waits for longer than a tenth of a second, by the swap's own count and as writers and readers see it.
func TestSoakConvertMillion(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, who text, body jsonb); INSERT INTO t (at, who) SELECT now() - g * interval '1 second', g FROM generate_series(1, 1000000) g`,
		`CREATE INDEX ON t (who); CREATE INDEX ON t (at); CREATE VIEW v AS SELECT id, at FROM t`, `VACUUM ANALYZE t`).realClock()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	worst := make([]time.Duration, 2)
	for i, sql := range []string{"INSERT INTO public.t (at) VALUES (now())", "SELECT count(*) FROM public.v WHERE id = 7"} {
		conn := b.conn()
		wg.Go(func() {
			for ctx.Err() == nil {
				started := time.Now()
				if _, err := conn.Exec(ctx, sql); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v (%s)", sql, err, postgres.SQLState(err))
				}
				worst[i] = max(worst[i], time.Since(started))
			}
		})
	}
	o := byColumn("at")
	done := b.convert("t", o)
	stop()
	wg.Wait()
	t.Logf("locked %s, worst insert %s, worst read %s", done.Locked, worst[0], worst[1])
	if done.Locked > 100*time.Millisecond {
		t.Errorf("the table was locked for %s", done.Locked)
	}
}
