//go:build bench

package bench

import "time"

const (
	indexParts = 24
	indexRows  = 50_000 // in each partition

	indexAdvice = `{"recommendations": [{"action": "create", "ddl": "CREATE INDEX \"events_detail\" ON \"public\".\"events\" USING \"gin\" (\"detail\" jsonb_path_ops)",
 "definition": {"schema": "public", "table": "events", "name": "events_detail", "method": "gin", "keys": [{"column": "detail", "opclass": "jsonb_path_ops"}]}},
 {"action": "create", "ddl": "CREATE INDEX \"events_ts\" ON \"public\".\"events\" USING \"btree\" (\"ts\" DESC, \"actor\")",
 "definition": {"schema": "public", "table": "events", "name": "events_ts", "method": "btree", "keys": [{"column": "ts", "descending": true}, {"column": "actor"}]}}]}`
	indexScript = `CREATE INDEX events_detail ON public.events USING gin (detail jsonb_path_ops); CREATE INDEX events_ts ON public.events (ts DESC, actor)`
)

// indexes measures what four inserting clients notice while two indexes are made on 24 partitions.
func (b *bench) indexes() []row {
	b.sql("postgres", "CREATE DATABASE index_events")
	b.must(b.psqlFile("index_events", b.write("index.sql", eventsSQL+";\n"+partitionOf("public.events", spans(month(2-indexParts), indexParts, 1, 0))+
		fillEvents(month(2-indexParts), month(1), indexParts*indexRows)+"VACUUM ANALYZE")))
	events := contender{template: "index_events", table: "public.events"}
	w := workload{}
	rows := b.race("nothing done", "", w, []contender{events.by("control", nothing(10*time.Second))})
	return append(rows, b.race("two indexes on 24 partitions", "insert ≤ 100 ms", w, []contender{
		events.by("auditdb", b.ours("index", "apply", "--from", b.write("advice.json", indexAdvice))),
		events.by("CREATE INDEX", b.raw(indexScript)),
	})...)
}
