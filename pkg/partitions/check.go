package partitions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// ProblemKind is what is wrong: the kinds of partition check.
type ProblemKind string

// The kinds of problems.
const (
	ProblemGap           ProblemKind = "gap"            // a range between partitions has none
	ProblemOverlap       ProblemKind = "overlap"        // two tables hold one range
	ProblemRunway        ProblemKind = "runway"         // rows of the near future will find no partition
	ProblemDefaultRows   ProblemKind = "default_rows"   // rows went where they cannot be pruned
	ProblemDetachPending ProblemKind = "detach_pending" // rows of its range cannot be inserted
	ProblemOrphan        ProblemKind = "orphan"         // a table that an interrupted run has left
	ProblemDrift         ProblemKind = "drift"          // a partition is not as its table and its siblings are
	ProblemGuard         ProblemKind = "missing_guard"  // nothing keeps rows from being changed or truncated by accident
)

// Problem is something about a table's partitions that somebody should do something about.
type Problem struct {
	Kind      ProblemKind
	Partition string // schema.name; "": the table as a whole
	Detail    string
	Hint      string // what to do: mostly a command or a statement
}

// CheckOptions say what is expected.
type CheckOptions struct {
	Until time.Time     // a key value up to which rows have to find partitions; zero: the end of the next interval
	Kinds []ProblemKind // only these; none: all
	Tree  *Tree         // the partitions, where they have just been read; nil: they are read
}

// checking looks at one table.
type checking struct {
	w        *Worker
	t        Table
	o        CheckOptions
	tree     *Tree
	now      time.Time // key value
	problems []Problem
}

// Examine looks for problems of t's partitions. It changes nothing, and waits for table locks as DDL does only to look into the default
// partition. What cannot be known of a table that is not supported (Table.ReadOnly) is left out.
func (w *Worker) Examine(ctx context.Context, t Table, o CheckOptions) ([]Problem, error) {
	tree := o.Tree
	if tree == nil {
		var err error
		if tree, err = LoadTree(ctx, w.o.DB.Pool(), t); err != nil {
			return nil, err
		}
	}
	c := &checking{w: w, t: t, o: o, tree: tree, now: t.KeyTime(w.o.Now())}
	byTime := t.ReadOnly == nil
	for _, look := range []struct {
		wanted bool
		kind   ProblemKind
		at     func(context.Context) error
	}{
		{byTime, ProblemGap, c.gaps},
		{true, ProblemOverlap, c.overlaps},
		{byTime, ProblemRunway, c.runway},
		{byTime, ProblemDefaultRows, c.defaultRows},
		{true, ProblemDetachPending, c.pending},
		{true, ProblemOrphan, c.orphans},
		{true, ProblemDrift, c.drift},
		{true, ProblemGuard, c.guards},
	} {
		if !look.wanted || len(o.Kinds) > 0 && !slices.Contains(o.Kinds, look.kind) {
			continue
		}
		if err := look.at(ctx); err != nil {
			return nil, fmt.Errorf("check partitions of %s: %w", t, err)
		}
	}
	return c.problems, nil
}

func (c *checking) add(kind ProblemKind, partition, hint, format string, args ...any) {
	c.problems = append(c.problems, Problem{Kind: kind, Partition: partition, Hint: hint, Detail: fmt.Sprintf(format, args...)})
}

// gaps looks for what partition create would fill: gaps that reach beyond retention and were not pruned.
func (c *checking) gaps(ctx context.Context) error {
	gaps := c.tree.Inner()
	if len(gaps) == 0 {
		return nil
	}
	db := c.w.o.DB.Pool()
	policy, err := LoadPolicy(ctx, db, c.t)
	if err != nil {
		return err
	}
	pruned, detached, err := LoadPruned(ctx, db, c.t, Bounds{From: gaps[0].From, To: gaps[len(gaps)-1].To})
	if err != nil {
		return err
	}
	pruned = append(pruned, detached...)
	for _, p := range c.tree.Leftovers() {
		pruned = append(pruned, p.Bounds)
	}
	slices.SortFunc(pruned, compareBounds)
	for _, gap := range gaps {
		for _, g := range subtract(gap, pruned) {
			if policy == nil || g.To.After(policy.Cutoff(c.t, c.w.o.Now())) {
				c.add(ProblemGap, "", "auditdb partition create "+c.argument()+c.days(g), "no partition holds %s", g.Text())
			}
		}
	}
	return nil
}

// argument is the table's name as a shell takes it.
func (c *checking) argument() string {
	name := c.t.String()
	if strings.ContainsAny(name, "\"' $`\\!*?&;|<>(){}[]#~") {
		return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}

// days gives --from and --to for a range, widened to whole days of the table's zone.
func (c *checking) days(b Bounds) string {
	zone := c.t.keyZone()
	from, to := b.From.In(zone), b.To.In(zone)
	if to.Hour() != 0 || to.Minute() != 0 || to.Second() != 0 || to.Nanosecond() != 0 {
		to = to.AddDate(0, 0, 1)
	}
	return " --from " + from.Format(time.DateOnly) + " --to " + to.Format(time.DateOnly)
}

func (c *checking) overlaps(context.Context) error {
	for _, o := range c.tree.Overlapping() {
		hint := "one of the two has to go: whichever rows are wanted, move them into the other"
		if o.One.State == Detached || o.Other.State == Detached {
			hint = "the detached table cannot be attached again: move its rows, or drop it"
		}
		c.add(ProblemOverlap, o.Other.String(), hint, "%s and %s both hold %s", o.One, o.Other, o.Text())
	}
	return nil
}

func (c *checking) runway(context.Context) error {
	until := c.o.Until
	if until.IsZero() {
		until = c.t.Interval.Shift(c.now, 2, c.t.keyZone())
	}
	left, forever := c.tree.Runway(c.now)
	if end := c.now.Add(left); !forever && end.Before(until) {
		where := "no partition"
		if c.tree.Default() != nil {
			where = "the default partition only"
		}
		c.add(ProblemRunway, "", "auditdb partition create "+c.argument()+", best by a timer", "rows find %s from %s on; partitions should reach to %s", where,
			end.Format(time.DateTime), until.Format(time.DateTime))
	}
	return nil
}

// manyRows is where counting of the default partition's rows ends.
const manyRows = 100_000

func (c *checking) defaultRows(ctx context.Context) error {
	p := c.tree.Default()
	if p == nil || p.Kind == 'f' {
		return nil
	}
	rows, err := c.w.countSome(ctx, *p, manyRows)
	if err != nil {
		return err
	}
	if rows > 0 {
		some := fmt.Sprint(rows)
		if rows > manyRows {
			some = fmt.Sprintf("more than %d", manyRows)
		}
		c.add(ProblemDefaultRows, p.String(), "auditdb partition drain "+c.argument(), "the default partition has %s %s, which no retention reaches", some,
			map[bool]string{true: "row", false: "rows"}[rows == 1])
	}
	return nil
}

// everything calls fn for each partition of any depth; of is what it is a partition of.
func (c *checking) everything(fn func(p Partition, of uint32)) {
	var walk func(p Partition, of uint32)
	walk = func(p Partition, of uint32) {
		fn(p, of)
		for _, below := range c.tree.Below(p) {
			walk(below, p.OID)
		}
	}
	top := slices.Concat(c.tree.All(), c.tree.Foreign())
	if p := c.tree.Default(); p != nil {
		top = append(top, *p)
	}
	for _, p := range top {
		walk(p, c.t.OID)
	}
}

func (c *checking) pending(context.Context) error {
	c.everything(func(p Partition, _ uint32) {
		if p.State == DetachPending {
			c.add(ProblemDetachPending, p.String(), "auditdb partition finalize "+c.argument(), "its detach has not ended: rows of its range cannot be inserted, and no other partition can be detached")
		}
	})
	return nil
}

// orphans looks for what interrupted runs have left. As long as a run is at work on the table, what it has under way is none.
func (c *checking) orphans(ctx context.Context) error {
	holders, err := c.w.o.DB.Holders(ctx, LockName(c.t))
	if err != nil || len(holders) > 0 {
		return err
	}
	for _, p := range c.tree.Leftovers() {
		if p.mark == Drop {
			c.add(ProblemOrphan, p.String(), "auditdb partition prune "+c.argument(), "it was detached to be dropped, and the prune was interrupted")
		}
	}
	c.everything(func(p Partition, _ uint32) {
		if p.mark != "" && p.State == Attached {
			c.add(ProblemOrphan, p.String(), "auditdb partition prune "+c.argument(), "it is marked to be pruned, and the prune was interrupted before it was detached")
		}
	})
	db := c.w.o.DB.Pool()
	names, err := unattached(ctx, db, c.t)
	if err != nil {
		return err
	}
	for _, name := range names {
		c.add(ProblemOrphan, displayName(c.t.Schema, name), "auditdb partition create "+c.argument()+" takes it over if it is empty; else look what its rows are", "it was made to be a partition and was not attached: its rows are not seen")
	}
	copies, err := Copies(ctx, db, c.t)
	if err != nil {
		return err
	}
	for _, s := range copies {
		c.add(ProblemOrphan, s.Source.String(), "run auditdb partition "+s.Purpose+" again: it goes on; or take it back with --abort",
			"a copy of it for partition %s, begun %s, has not ended: changes of its rows are refused meanwhile", s.Purpose, s.StartedAt.UTC().Format(shownTime))
	}
	return nil
}

// guards looks whether what keeps rows from being changed and truncated by accident is on the table and, since PostgreSQL does not clone
// triggers of statements, on each partition.
func (c *checking) guards(ctx context.Context) error {
	all, err := readGuards(ctx, c.w.o.DB.Pool(), c.t)
	if err != nil {
		return err
	}
	if len(all) == 0 && !c.t.Integrity {
		return nil
	}
	byTable := map[uint32][]guard{}
	for _, g := range all {
		byTable[g.table] = append(byTable[g.table], g)
	}
	own := byTable[c.t.OID]
	for _, want := range []struct {
		bits  int16
		text  string
		label string
	}{{triggerUpdate | triggerDelete, "UPDATE OR DELETE", guardRows}, {triggerTruncate, "TRUNCATE", guardTruncate}} {
		if c.t.Integrity && !slices.ContainsFunc(own, func(g guard) bool { return g.enabled && g.kind&want.bits == want.bits }) {
			c.add(ProblemGuard, "", guard{name: joinName(c.t.Schema, c.t.Name, want.label), kind: want.bits}.hint(c.t.Ident(), own), "no enabled trigger guards the table against %s", want.text)
		}
	}
	c.everything(func(p Partition, _ uint32) {
		if p.Kind == 'f' {
			return
		}
		for _, g := range own {
			if g.enabled && !slices.ContainsFunc(byTable[p.OID], func(o guard) bool { return o.enabled && o.kind == g.kind }) {
				c.add(ProblemGuard, p.String(), g.hint(p.Ident(), byTable[p.OID]), "no enabled trigger like %s of the table guards it", quoteWhereNeeded(g.name))
			}
		}
	})
	return nil
}

// hint is the statement that makes a table be guarded by g.
func (g guard) hint(table string, there []guard) string {
	for _, o := range there {
		if o.kind&g.kind == g.kind && !o.enabled {
			return fmt.Sprintf("ALTER TABLE %s ENABLE TRIGGER %s", table, pgx.Identifier{o.name}.Sanitize())
		}
	}
	if g.kind&triggerTruncate == 0 {
		return createGuard(g.name, table, guardRows)
	}
	return createGuard(g.name, table, guardTruncate)
}

// Worst says whether problems are a reason to fail, as an error of class integrity; nil without any.
func Worst(problems int) error {
	if problems == 0 {
		return nil
	}
	noun := "problems"
	if problems == 1 {
		noun = "problem"
	}
	return fault.New(fault.Integrity, "each problem says what to do about it", "partition check: %d %s", problems, noun)
}
