//go:build bench

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

const (
	poolCallers = 1000
	poolConns   = 20
	poolSeconds = 4
	// The newest of a principal: columns, how the number of the principal is written in pgbench's script or in ours, and how many.
	poolSQL = `SELECT %s FROM public.audit_log WHERE principal_id = 'user-' || lpad(%s::int::text, 5, '0') ORDER BY "timestamp" DESC, id DESC LIMIT %d`
)

// pool has a thousand callers in one process ask on 20 connections, against pgbench with the same prepared statement on as many: for pages of
// 100 rows as query shows them, and for one row of few columns, where there is little more than the way to the server and back.
func (b *bench) pool() []row {
	b.loaded()
	b.sql("loaded", "VACUUM (FREEZE, ANALYZE)")
	return []row{b.poolOf("pages of 100", shown, 101, ">= 0.9x"), b.poolOf("one row", "id", 1, "")}
}

func (b *bench) poolOf(name, columns string, limit int, bar string) row {
	script := b.write("pool.sql", "\\set n random(0, 999)\n"+fmt.Sprintf(poolSQL, strings.ReplaceAll(columns, "\n", " "), ":n", limit)+";\n")
	db, err := postgres.Open(context.Background(), postgres.Options{URL: b.pg.URL("loaded"), Application: "bench", MaxConns: poolConns})
	b.check(err)
	defer db.Close()
	var base, got []float64
	var worst time.Duration
	for range b.rounds {
		base = append(base, b.pgbench(script))
		n, longest := b.callers(db, fmt.Sprintf(poolSQL, columns, "$1", limit))
		got, worst = append(got, n), max(worst, longest)
	}
	perSecond := func(v []float64) string { return fmt.Sprintf("%.0f/s", medianTime(v)) }
	return row{
		fmt.Sprintf("%d callers on %d connections, %s", poolCallers, poolConns, name), fmt.Sprintf("%s, at most %s ms each", perSecond(got), milli(worst)), perSecond(base) + " pgbench", ratios(got, base), bar,
	}
}

// pgbench is how many transactions a second it makes.
func (b *bench) pgbench(script string) float64 {
	b.t.Helper()
	config, err := pgx.ParseConfig(b.pg.URL("loaded"))
	b.check(err)
	out, err := exec.Command(filepath.Join(b.pg.BinDir(), "pgbench"), "-n", "-M", "prepared", "-c", strconv.Itoa(poolConns), "-j", "2", "-T", strconv.Itoa(poolSeconds), "-f", script,
		"-h", config.Host, "-p", strconv.Itoa(int(config.Port)), "-U", config.User, "loaded").CombinedOutput()
	if err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	_, text, _ := strings.Cut(string(out), "tps = ")
	text, _, _ = strings.Cut(text, " ")
	tps, err := strconv.ParseFloat(text, 64)
	b.check(err)
	return tps
}

// callers is how many answers a second all get together, and how long one waited for his at most.
func (b *bench) callers(db *postgres.DB, sql string) (float64, time.Duration) {
	b.t.Helper()
	ctx := context.Background()
	var answers, longest atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range poolCallers {
		wg.Go(func() {
			for time.Since(start) < poolSeconds*time.Second {
				asked := time.Now()
				rows, err := db.Pool().Query(ctx, sql, rand.IntN(1000))
				if err == nil {
					for rows.Next() {
						_ = rows.RawValues()
					}
					err = rows.Err()
				}
				if err != nil {
					b.t.Error(err)
					return
				}
				answers.Add(1)
				for took := int64(time.Since(asked)); ; {
					if before := longest.Load(); took <= before || longest.CompareAndSwap(before, took) {
						break
					}
				}
			}
		})
	}
	wg.Wait()
	return float64(answers.Load()) / time.Since(start).Seconds(), time.Duration(longest.Load())
}
