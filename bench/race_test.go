//go:build bench

package bench

import (
	"fmt"
	"strings"
	"time"
)

// contender is one way to change the partitions of a table.
type contender struct {
	name, template, table string
	before                string              // SQL
	command               func() func() error // prepares what is run; nil: it is not installed
}

func (c contender) by(name string, command func() func() error) contender {
	c.name, c.command = name, command
	return c
}

func (c contender) after(sql string) contender {
	c.before = sql
	return c
}

// race runs the contenders under the same load and says what each did to it: the longest wait of a client (in brackets that of 99.9 % of the
// transactions), the longest wait for a lock as the server logged it, how long the command took, and how many partitions there are more or less. Those of auditdb show in its column, the others in the
// baseline's. "%s" in the workload's statements is the table.
func (b *bench) race(what, bar string, w workload, all []contender) []row {
	var rows []row
	for _, c := range all {
		b.t.Logf("%s %s: %s", time.Now().Format(time.TimeOnly), what, c.name)
		r := row{name: what + ": " + c.name, baseline: "not installed"}
		if c.command != nil {
			r.baseline = b.underLoad(w, c)
		}
		if strings.HasPrefix(c.name, "auditdb") {
			r.figure, r.baseline, r.bar = r.baseline, "", bar
		}
		rows = append(rows, r)
	}
	return rows
}

// underLoad runs one contender in a database of its own and says what the clients noticed.
func (b *bench) underLoad(w workload, c contender) string {
	b.fresh("bench", c.template)
	if c.before != "" {
		b.must(b.psqlFile("bench", b.write("before.sql", c.before)))
		b.sql("bench", "CHECKPOINT") // what that wrote is not to be waited for later
	}
	w.insert = insertSQL
	if c.table == "public.audit_log" {
		w.insert = auditSQL
	}
	w.read, w.hold = strings.ReplaceAll(w.read, "%s", c.table), strings.ReplaceAll(w.hold, "%s", c.table)
	before, _ := b.count(c.table)
	o := b.during("bench", w, c.command())
	after, pending := b.count(c.table)
	figure := "insert " + worst(o.inserts)
	if w.read != "" {
		figure += ", read " + worst(o.reads)
	}
	locks := "< 10"
	if o.locked > 0 {
		locks = fmt.Sprintf("%.0f", o.locked)
	}
	figure += fmt.Sprintf(" ms, for locks %s; %.1f s", locks, o.took.Seconds())
	if after != before {
		figure += fmt.Sprintf(", %+d partitions", after-before)
	}
	if pending > 0 {
		figure += fmt.Sprintf(", %d PENDING", pending)
	}
	return figure + o.note()
}

// count says how many partitions there are, and how many of them are pending detach.
func (b *bench) count(table string) (all, pending int) {
	b.t.Helper()
	got := b.ask("bench", "SELECT count(*), count(*) FILTER (WHERE inhdetachpending) FROM pg_inherits WHERE inhparent = '"+table+"'::regclass")
	if _, err := fmt.Sscanf(got, "%d|%d", &all, &pending); err != nil {
		b.t.Fatal(err)
	}
	return all, pending
}

func (b *bench) ours(args ...string) func() func() error {
	return func() func() error { return process(b.cmd("bench", args...)) }
}

func (b *bench) raw(sql string) func() func() error {
	return func() func() error { return process(b.psqlFile("bench", b.write("raw.sql", sql))) }
}

// byPartman is nil where pg_partman is not installed.
func (b *bench) byPartman(sql string) func() func() error {
	if !b.hasPartman() {
		return nil
	}
	return b.raw(sql)
}

func (b *bench) hasPartman() bool {
	return b.ask("postgres", "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_partman'") != "0"
}

// nothing lets the clients run by themselves, which shows the machine's own noise.
func nothing(d time.Duration) func() func() error {
	return func() func() error { return func() error { time.Sleep(d); return nil } }
}
