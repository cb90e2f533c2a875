//go:build bench

package bench

import (
	"fmt"
	"strings"
	"time"
)

// convert turns a plain table of a year's rows into a partitioned one while clients insert and read. A reader that does nothing but look
// for one row waits as long as the table is locked exclusively, and for whoever waits for that lock.
func (b *bench) convert() []row {
	plain := "CREATE TABLE public.events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ts timestamptz NOT NULL, actor text NOT NULL, detail jsonb NOT NULL);\n" +
		"CREATE INDEX ON public.events (actor, ts);\n"
	b.sql("postgres", "CREATE DATABASE plain_events")
	b.must(b.psqlFile("plain_events", b.write("plain.sql", plain+fillEvents(month(-12), month(0), b.rows)+"VACUUM ANALYZE")))
	copied := "BEGIN;\nLOCK TABLE public.events;\nALTER TABLE public.events RENAME TO events_old;\n" + eventsSQL + ";\n" +
		partitionOf("public.events", spans(month(-12), 16, 1, 0)) +
		"INSERT INTO public.events OVERRIDING SYSTEM VALUE SELECT * FROM public.events_old;\n" +
		"SELECT setval(pg_get_serial_sequence('public.events', 'id'), max(id)) FROM public.events;\nCOMMIT"
	w := workload{read: "SELECT 1 FROM %s LIMIT 1"}
	events := contender{template: "plain_events", table: "public.events"}
	return b.race(fmt.Sprintf("convert %d rows", b.rows), "locked ≤ 100 ms", w, []contender{
		events.by("control", nothing(min(b.reader, 10*time.Second))),
		events.by("auditdb", b.ours("partition", "convert", "public.events", "--key", "ts", "--interval", "monthly", "--yes")),
		events.by("copy in one transaction", b.raw(copied)),
	})
}

// drain moves a year's rows out of a default partition, which goes on getting some.
func (b *bench) drain() []row {
	rows := fillEvents(month(-12), month(0), b.rows)
	b.sql("postgres", "CREATE DATABASE drain_events")
	b.must(b.psqlFile("drain_events", b.write("drain.sql", eventsSQL+";\nCREATE TABLE public.events_default PARTITION OF public.events DEFAULT;\n"+
		partitionOf("public.events", spans(month(0), 2, 1, 0))+rows+"VACUUM ANALYZE")))
	var moved strings.Builder
	for _, s := range spans(month(-12), 12, 1, 0) {
		name := s.name("public.events")
		fmt.Fprintf(&moved, `BEGIN;
LOCK TABLE public.events_default IN SHARE ROW EXCLUSIVE MODE;
CREATE TABLE %s (LIKE public.events INCLUDING ALL EXCLUDING IDENTITY);
WITH m AS (DELETE FROM public.events_default WHERE ts >= '%s' AND ts < '%s' RETURNING *) INSERT INTO %s SELECT * FROM m;
ALTER TABLE public.events ATTACH PARTITION %s %s;
COMMIT;
`, name, s.from.Format(time.RFC3339), s.to.Format(time.RFC3339), name, name, s)
	}
	w := workload{read: "SELECT 1 FROM %s LIMIT 1", old: month(-6)}
	events := contender{template: "drain_events", table: "public.events"}
	all := []contender{
		events.by("control", nothing(min(b.reader, 10*time.Second))),
		events.by("auditdb", b.ours("partition", "drain", "public.events", "--yes")),
		events.by("by month: DELETE, INSERT, ATTACH", b.raw(moved.String())),
	}
	if b.hasPartman() {
		b.sql("postgres", "CREATE DATABASE drain_partman")
		b.must(b.psqlFile("drain_partman", b.write("drain.sql", eventsSQL+partmanParent(0)+rows+"VACUUM ANALYZE")))
	}
	all = append(all, contender{template: "drain_partman", table: "public.events"}.by("pg_partman", b.byPartman("CALL partman.partition_data_proc('public.events')")))
	return b.race(fmt.Sprintf("drain %d rows", b.rows), "insert, read ≤ 110 ms", w, all)
}
