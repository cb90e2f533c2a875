//go:build bench

package bench

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"auditdb/internal/embedded"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/cache"
	"auditdb/pkg/partitions"
	"auditdb/pkg/query"
)

// shown are the columns that query shows.
const shown = `id, "timestamp", recorded_at, processing_latency, action, status, principal_id, organization_id, target_resource_type, target_resource_id, outcome_description,
correlation_id, event_uid, data_classification, retention_policy, event_version, hash, hash_algorithm, ttl, archived_at, details`

// query asks for first pages of the loaded events by processes of their own: by psql with the same SQL, and by auditdb without a cache.
func (b *bench) query() []row {
	b.loaded()
	b.sql("loaded", "VACUUM (FREEZE, ANALYZE)")
	principal := b.ask("loaded", `SELECT principal_id FROM public.audit_log GROUP BY 1 ORDER BY count(*) DESC LIMIT 1`)
	var rows []row
	for _, page := range []struct {
		name, where string
		args        []string
	}{
		{"newest 100", "", nil},
		{"newest 100 of the busiest principal", "principal_id = '" + principal + "'", []string{"--principal", principal}},
		{
			"100 of one month with a filter on details", `"timestamp" >= '2024-02-01Z' AND "timestamp" < '2024-03-01Z' AND details #>> '{region}' = 'us-east-1'`,
			[]string{"--from", "2024-02", "--to", "2024-03", "--details", "region=us-east-1"},
		},
	} {
		sql := "SELECT " + shown + " FROM public.audit_log"
		if page.where != "" {
			sql += " WHERE " + page.where
		}
		sql += ` ORDER BY "timestamp" DESC, id DESC LIMIT 101`
		var base, got []run
		for range max(b.rounds, 20) {
			base = append(base, b.measure(b.psqlCmd("loaded", sql)))
			got = append(got, b.measure(b.cmd("loaded", append([]string{"query", "-o", "json"}, page.args...)...)))
		}
		ms := func(rs []run) string { return fmt.Sprintf("%.1f ms", 1000*median(rs, wallSeconds)) }
		rows = append(rows, row{
			name: "query, " + page.name, figure: fmt.Sprintf("%s, %.0f MB", ms(got), median(got, peakMB)), baseline: ms(base), ratio: ratio(got, base), bar: "≤ 1.2x psql",
		})
	}
	return append(rows, b.manyPartitions())
}

// manyPartitions asks for the first page of a table of 3,000 days, which psql's statement has to plan all of.
func (b *bench) manyPartitions() row {
	b.sql("loaded", `CREATE TABLE public.days (at timestamptz, id bigint, PRIMARY KEY (at, id)) PARTITION BY RANGE (at)`)
	var days strings.Builder
	first := b.from.AddDate(-8, 0, 0)
	for i := range 3000 {
		from, to := first.AddDate(0, 0, i), first.AddDate(0, 0, i+1)
		fmt.Fprintf(&days, "CREATE TABLE public.days_%d PARTITION OF public.days FOR VALUES FROM ('%s') TO ('%s');\n", i, from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	b.must(b.psqlFile("loaded", b.write("days.sql", days.String())))
	b.sql("loaded", fmt.Sprintf(`INSERT INTO public.days SELECT '%s'::timestamptz + n * interval '1 hour', n FROM generate_series(0, 71999) n`, first.Format(time.RFC3339)))
	b.sql("loaded", "ANALYZE public.days")
	var base, got []run
	for range b.rounds {
		base = append(base, b.measure(b.psqlCmd("loaded", "SELECT at, id FROM public.days ORDER BY at DESC, id DESC LIMIT 101")))
		got = append(got, b.measure(b.cmd("loaded", "query", "public.days", "-o", "json")))
	}
	ms := func(rs []run) string { return fmt.Sprintf("%.0f ms", 1000*median(rs, wallSeconds)) }
	return row{name: "query, newest 100 of 3,000 partitions", figure: ms(got), baseline: ms(base), ratio: ratio(got, base), bar: "≤ 1.2x psql"}
}

// cachedQuery asks the same page by new processes that find it in Redis, and 1,000 different questions by Zipf's law (s = 1.1) in one process
// with an L1 of its own.
func (b *bench) cachedQuery() []row {
	b.loaded()
	ctx := context.Background()
	server, err := embedded.StartRedis(ctx, embedded.RedisOptions{Installed: true})
	b.check(err)
	defer func() { _ = server.Stop(ctx) }()
	ask := func() run {
		c := b.cmd("loaded", "query", "-o", "json", "--from", "2024-02", "--to", "2024-03")
		c.Env = append(c.Env, "REDIS_URL="+server.URL(), "AUDITDB_CACHE_PHI=true")
		return b.measure(c)
	}
	ask()
	var hits []run
	for range max(b.rounds, 20) {
		hits = append(hits, ask())
	}
	worst := hits[0]
	for _, h := range hits {
		if h.wall > worst.wall {
			worst = h
		}
	}
	return append([]row{{
		name: "query answered by Redis, as a process", figure: fmt.Sprintf("%.1f ms, at most %.1f", 1000*median(hits, wallSeconds), 1000*worst.wall.Seconds()), bar: "< 100 ms",
	}}, b.zipf(server.URL())...)
}

// zipf warms up with as many questions as there are different ones, five times over, and counts from then on.
func (b *bench) zipf(address string) []row {
	const distinct, warmUp, counted = 1000, 5000, 5000
	ctx := context.Background()
	db, err := postgres.Open(ctx, postgres.Options{URL: b.pg.URL("loaded"), Application: "bench"})
	b.check(err)
	defer db.Close()
	client, err := redis.Open(ctx, address, slog.New(slog.DiscardHandler))
	b.check(err)
	defer func() { _ = client.Close() }()
	c, err := cache.New(ctx, cache.Options{Redis: client.UniversalClient, Prefix: "zipf", Now: time.Now})
	b.check(err)
	defer c.Close(ctx)
	table, err := partitions.Resolve(ctx, db, partitions.DefaultTable)
	b.check(err)
	engine := query.New(query.Options{DB: db, Now: time.Now, Cache: query.CacheOptions{Cache: c, TTL: time.Hour, PHI: true}})
	rnd := rand.New(rand.NewPCG(1, 2))
	draw := rand.NewZipf(rnd, 1.1, 1, distinct-1)
	parts, cached := 0, 0
	var times []float64
	for i := range warmUp + counted {
		start := time.Now()
		page, err := engine.Page(ctx, query.Request{Table: table, Limit: 20, Filters: []query.Filter{{Column: "principal_id", Value: fmt.Sprintf("user-%05d", draw.Uint64())}}})
		b.check(err)
		if i < warmUp {
			continue
		}
		times = append(times, time.Since(start).Seconds())
		for source, n := range page.Sources {
			parts += n
			if source == query.SourceL1 || source == query.SourceL2 {
				cached += n
			}
		}
	}
	return []row{{
		name:   fmt.Sprintf("query by Zipf's law, %d after %d", counted, warmUp),
		figure: fmt.Sprintf("%.1f%% from the cache, %.2f ms each", 100*float64(cached)/float64(parts), 1000*middle(times)), bar: "≥ 90%",
	}}
}

func (b *bench) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}
