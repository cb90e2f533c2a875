package partitions

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

const (
	convertCheck  = "auditdb_convert_range"
	convertPrefix = "auditdb_convert_" // of the names of what a conversion makes beside the table
	convertMark   = "auditdb convert " // begins the comment of the check, which tells the range

	// DefaultConvertAhead is how far into the future the history partition takes rows at least: they would be refused between the check and
	// the swap, also where a run is interrupted in between.
	DefaultConvertAhead = 48 * time.Hour
)

// ConvertOptions say how to turn a plain table into a partitioned one.
type ConvertOptions struct {
	Key        Key
	Interval   Interval       // "": monthly
	Location   *time.Location // nil: UTC
	Ahead      int            // partitions after the current one
	TakeAhead  time.Duration  // the history takes rows this far ahead of now; 0: DefaultConvertAhead
	HistoryTo  time.Time      // … or up to this key value, widened to a whole interval; zero: not said
	DropUnique []string       // unique indexes without the key that only the history keeps
	Register   *Registration  // also registers the table, in the same transaction; nil: does not
	Abort      bool           // instead: take back what an interrupted run has left
}

// Registration is the row of auditdb.managed_table that a table gets.
type Registration struct {
	Integrity bool
	BlockIDs  bool
}

// ConvertDraft is what a convert would do to one table.
type ConvertDraft struct {
	Table     Table // as it is going to be; OID is the plain table's, or, once it has been swapped, the partitioned one's
	Plan      plan.Plan
	History   Partition // the old table
	Converted bool      // the swap lies behind
	create    *Draft    // Converted: what is missing
	creates   []Partition
	index     string // for the new primary key, quoted
	options   ConvertOptions
}

// Creates lists the partitions that are made beside the history.
func (d *ConvertDraft) Creates() []Partition { return d.creates }

// convertOp is what the executor needs of a step.
type convertOp int

const (
	opDropIndex convertOp = iota
	opIndex
	opCheck
	opValidate
	opSwap
	opPartitions
)

// convertState is what an interrupted run may have left.
type convertState struct {
	index      string // name of the unique index for the new primary key
	indexThere bool
	indexValid bool
	check      *Bounds // nil: there is none, or none that can be used
	checkThere bool
	validated  bool
}

// history says which range the old table gets as a partition. now is a key value.
func (o ConvertOptions) history(t Table, r keyRange, kept *Bounds, now time.Time) (Bounds, error) {
	zone := t.keyZone()
	low, high := now, now
	if !r.empty {
		low, high = time.UnixMicro(r.low).UTC(), time.UnixMicro(r.high).UTC()
		if low.After(now) {
			low = now
		}
	}
	limits := t.Key.Kind.limits()
	if !limits.Contains(low) || !limits.Contains(high) {
		return Bounds{}, fault.New(fault.Refused, "correct those rows first, or name another --key-kind", "convert %s: column %s has values outside of the years that a partition can have", t, t.Key.Column)
	}
	end := now.Add(o.TakeAhead)
	if !o.HistoryTo.IsZero() {
		end = o.HistoryTo.Add(-time.Microsecond)
		if end.Before(now) {
			return Bounds{}, fault.New(fault.Usage, "", "convert %s: --history-to is in the past, and rows are still coming in", t)
		}
	}
	b := Bounds{From: t.Interval.Floor(low, zone), To: t.Interval.Next(end, zone)}
	if kept != nil && kept.Covers(b) && kept.Contains(high) {
		return *kept, nil
	}
	if !high.Before(b.To) {
		return Bounds{}, fault.New(fault.Refused, "correct those rows first, or name a later end of the history with --history-to",
			"convert %s: it has rows after %s, which would not belong to the history partition", t, b.To.Format(textLayout))
	}
	if !limits.Covers(b) {
		return Bounds{}, fault.New(fault.Refused, "", "convert %s: the range %s is outside of what column %s can hold", t, b.Text(), t.Key.Column)
	}
	return b, nil
}

// planConvert makes the steps up to the swap. It is pure.
func (d *ConvertDraft) planConvert(s shape, state convertState, names convertNames) {
	t := d.Table
	add := func(op convertOp, noTx bool, reason, sql string) {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: t.String(), SQL: sql, Reason: reason, NoTx: noTx, Op: op})
	}
	index := pgx.Identifier{t.Schema, state.index}.Sanitize()
	d.index = index
	if pk := s.primary(); pk != nil && !pk.hasKey && !state.indexValid {
		if state.indexThere {
			add(opDropIndex, true, "an interrupted run has left it unfinished", "DROP INDEX CONCURRENTLY "+index)
		}
		add(opIndex, true, "the primary key gets the partition key; readers and writers go on", s.primaryIndexSQL(state.index))
	}
	if state.check == nil || !state.check.Equal(d.History.Bounds) {
		add(opCheck, false, "so that the swap need not look at the rows; rows outside are refused from here on", checkSQL(t, d.History.Bounds, state.checkThere))
		state.validated = false
	}
	if !state.validated {
		add(opValidate, false, "looks at every row; readers and writers go on", fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", t.Ident(), convertCheck))
	}
	add(opSwap, false, "locks: SHARE UPDATE EXCLUSIVE, at the end ACCESS EXCLUSIVE for a moment; "+s.keeps(), swapSQL(s, d, state, names))
	for _, p := range d.creates {
		add(opPartitions, false, "new partition", fmt.Sprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING IDENTITY, CONSTRAINT %s CHECK (%s));\nALTER TABLE %[2]s ATTACH PARTITION %[1]s %[5]s;\nALTER TABLE %[1]s DROP CONSTRAINT %[3]s",
			p.Ident(), t.Ident(), rangeCheck, t.Key.within(p.Bounds), t.Key.ForValues(p.Bounds)))
	}
	for _, p := range s.publishing {
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: "publication " + p, Reason: "it publishes the table with others: its subscribers get changes under the names of partitions, unless publish_via_partition_root is set"})
	}
	for _, name := range d.options.DropUnique {
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: name, Reason: "from now on it holds within the history only"})
	}
	for _, i := range s.indexes {
		if !i.valid {
			d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: i.name, Reason: "it is invalid, and stays with the history only"})
		}
	}
	if pk := s.primary(); pk != nil && !pk.hasKey {
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: pk.name, Reason: "ON CONFLICT (" + sqlList(pk.columns) + ") has to name column " + t.Key.Column + " as well"})
	}
}

// keeps says in short what is taken over.
func (s shape) keeps() string {
	var parts []string
	count := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	count(len(s.indexes), "indexes")
	count(len(s.constraints), "constraints")
	count(len(s.triggers), "triggers")
	count(len(s.policies), "policies")
	count(len(s.grants), "grants")
	count(len(s.sequences), "sequences")
	count(len(s.statistics), "statistics objects")
	count(len(s.views), "views")
	if len(parts) == 0 {
		return "nothing else belongs to the table"
	}
	return "takes over " + sqlList(parts)
}

// primaryIndexSQL makes the index for a primary key that has the partition key as well.
func (s shape) primaryIndexSQL(name string) string {
	pk := s.primary()
	sql := fmt.Sprintf("CREATE UNIQUE INDEX CONCURRENTLY %s ON %s (%s)", pgx.Identifier{name}.Sanitize(), s.t.Ident(), sqlList(s.primaryColumns()))
	if len(pk.include) > 0 {
		sql += " INCLUDE (" + sqlList(pk.include) + ")"
	}
	return sql
}

func (s shape) primaryColumns() []string {
	pk := s.primary()
	if pk.hasKey {
		return pk.columns
	}
	return append(slices.Clone(pk.columns), s.key.ident)
}

func checkSQL(t Table, b Bounds, there bool) string {
	var sql []string
	if there {
		sql = append(sql, fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s", t.Ident(), convertCheck))
	}
	return strings.Join(append(sql,
		fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s) NOT VALID", t.Ident(), convertCheck, t.Key.within(b)),
		fmt.Sprintf("COMMENT ON CONSTRAINT %s ON %s IS %s", convertCheck, t.Ident(), quoteText(convertMark+t.Key.ForValues(b)))), ";\n")
}

// convertNames are the names that the old table and what belongs to it get.
type convertNames struct {
	shadow, history string
	objects         map[string]string // of indexes and statistics objects
}

func namesFor(s shape) convertNames {
	n := convertNames{shadow: convertPrefix + hash8(s.t.Schema, s.t.Name), history: joinName(s.t.Schema, s.t.Name, "history"), objects: map[string]string{}}
	for _, i := range s.indexes {
		n.objects[i.name] = joinName(s.t.Schema, i.name, "history")
	}
	for _, x := range s.statistics {
		n.objects[x.name] = joinName(s.t.Schema, x.name, "history")
	}
	return n
}

func (n convertNames) wanted() []string {
	names := []string{n.shadow, n.history}
	for _, to := range n.objects {
		names = append(names, to)
	}
	slices.Sort(names)
	return names
}

// swapSQL is the whole swap, in one transaction: all that can be made beside the table comes first, what needs its lock last.
func swapSQL(s shape, d *ConvertDraft, state convertState, n convertNames) string {
	x := swapping{s: s, d: d, n: n, t: d.Table.Ident(), shadow: pgx.Identifier{s.t.Schema, n.shadow}.Sanitize(), history: pgx.Identifier{s.t.Schema, n.history}.Sanitize()}
	x.beside()
	x.lock()
	x.aside()
	x.dropRowTriggers()
	x.replacePrimary(state)
	x.moveSequences()
	x.add("ALTER TABLE %s RENAME TO %s", x.shadow, pgx.Identifier{s.t.Name}.Sanitize())
	x.seatSequences()
	x.makeIndexes()
	x.makeStatistics()
	x.makeRules()
	x.add("ALTER TABLE %s ATTACH PARTITION %s %s", x.t, x.history, s.t.Key.ForValues(d.History.Bounds))
	x.add("ALTER TABLE %s DROP CONSTRAINT %s", x.history, convertCheck)
	if len(s.grantees) > 0 {
		x.add("REVOKE ALL ON TABLE %s FROM %s CASCADE", x.history, sqlList(s.grantees))
	}
	x.makeViews()
	return strings.Join(x.sql, ";\n")
}
