//go:build bench

package bench

import (
	"context"
	"os"
	"os/exec"
	"time"
)

const (
	indexParts = 24
	indexRows  = 50_000 // in each partition

	indexAdvice = `{"recommendations": [{"action": "create", "ddl": "CREATE INDEX \"events_detail\" ON \"public\".\"events\" USING \"gin\" (\"detail\" jsonb_path_ops)",
 "definition": {"schema": "public", "table": "events", "name": "events_detail", "method": "gin", "keys": [{"column": "detail", "opclass": "jsonb_path_ops"}]}},
 {"action": "create", "ddl": "CREATE INDEX \"events_ts\" ON \"public\".\"events\" USING \"btree\" (\"ts\" DESC, \"actor\")",
 "definition": {"schema": "public", "table": "events", "name": "events_ts", "method": "btree", "keys": [{"column": "ts", "descending": true}, {"column": "actor"}]}}]}`
	indexScript = `CREATE INDEX events_detail ON public.events USING gin (detail jsonb_path_ops); CREATE INDEX events_ts ON public.events (ts DESC, actor)`
)

// indexes measures what four inserting clients notice while two indexes are made on 24 partitions, also when the process is killed on its way,
// and while nothing is done for as long.
func (b *bench) indexes() []row {
	b.sql("postgres", "CREATE DATABASE index_events")
	b.must(b.psqlFile("index_events", b.write("index.sql", eventsSQL+";\n"+partitionOf("public.events", spans(month(2-indexParts), indexParts, 1, 0))+
		fillEvents(month(2-indexParts), month(1), indexParts*indexRows)+"VACUUM ANALYZE")))
	events := contender{template: "index_events", table: "public.events"}
	apply := []string{"index", "apply", "--from", b.write("advice.json", indexAdvice)}
	var took time.Duration
	var undisturbed string
	whole := func() func() error {
		run := process(b.cmd("bench", apply...))
		return func() error {
			start := time.Now()
			err := run()
			took, undisturbed = time.Since(start), b.ask("bench", indexesMadeSQL)
			return err
		}
	}
	killed := func() func() error {
		return func() error {
			for range indexKills {
				if err := killedAfter(b.cmd("bench", apply...), took/(indexKills+1)); err != nil {
					return err
				}
			}
			err := process(b.cmd("bench", apply...))()
			if made := b.ask("bench", indexesMadeSQL); err == nil && made != undisturbed {
				b.t.Errorf("after %d SIGKILLs there is\n%s\nand undisturbed\n%s", indexKills, made, undisturbed)
			}
			return err
		}
	}
	idle := func() func() error { return nothing(took)() }
	return b.race("two indexes on 24 partitions", "insert ≤ 100 ms", workload{}, []contender{
		events.by("auditdb", whole),
		events.by("auditdb, 5 SIGKILLs", killed),
		events.by("control, nothing done", idle),
		events.by("CREATE INDEX", b.raw(indexScript)),
	})
}

const (
	indexKills = 5
	// indexesMadeSQL is all indexes of the table, whether they are valid, and what they are attached to.
	indexesMadeSQL = `SELECT pg_get_indexdef(i.indexrelid), i.indisvalid, h.inhparent::regclass
FROM pg_partition_tree('public.events') t JOIN pg_index i ON i.indrelid = t.relid LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid ORDER BY 1`
)

// killedAfter runs a command and sends SIGKILL after some time, unless it has ended by itself.
func killedAfter(c *exec.Cmd, after time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), after)
	defer cancel()
	timed := exec.CommandContext(ctx, c.Path, c.Args[1:]...)
	timed.Env, timed.Stderr = c.Env, os.Stderr
	if err := timed.Run(); ctx.Err() == nil {
		return err
	}
	return nil
}
