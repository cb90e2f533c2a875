package partitions

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

// UndoMode says what becomes of a partitioned table.
type UndoMode string

// The modes.
const (
	UndoDetach UndoMode = "detach" // every partition becomes a table of its own
	UndoCopy   UndoMode = "copy"   // all rows go into one plain table
)

const (
	undoPurpose = "undo"
	undoPrefix  = "auditdb_undo_"
)

// UndoOptions say how to take a partitioned table apart.
type UndoOptions struct {
	Mode   UndoMode
	Abort  bool                      // copy: take back what an interrupted run has left
	Until  time.Time                 // copy: stops then, to go on another time; zero: never
	OnRows func(rows, ofAbout int64) // told after each batch; nil: nobody is
}

// UndoDraft is what an undo would do.
type UndoDraft struct {
	Table    Table
	Plan     plan.Plan
	Detaches []Partition // detach
	Old      string      // copy: the name that the partitioned table gets, unquoted
	Rows     int64       // copy: about how many there are
	options  UndoOptions
	source   CopySource
	target   CopyTarget
	make     string
	columns  []CopyColumn
	swap     string
}

// Question is what the user is asked.
func (d *UndoDraft) Question() string {
	return fmt.Sprintf("detach all %d partitions of %s, which is empty then and takes no rows any more", len(d.Detaches), d.Table)
}

// undoOp is what the executor needs of a step.
type undoOp int

const (
	opUndoMark undoOp = iota
	opUndoDetach
	opUndoMake
	opUndoCopy
	opUndoSwap
	opUndoAbort
)

// planDetach makes the steps that leave the table without partitions.
func (d *UndoDraft) planDetach(c *Catalog) error {
	all := c.All()
	if p := c.Default(); p != nil {
		all = append(all[:len(all):len(all)], *p)
	}
	var marks, detaches []string
	for _, p := range all {
		if p.State == DetachPending {
			return fault.New(fault.Refused, "auditdb partition finalize ends it", "undo %s: the detach of %s has not ended", d.Table, p)
		}
		switch {
		case !p.Default:
			marks = append(marks, commentSQL(p, d.Table.mark(p, Detach, "")))
		case len(all) == 1: // it has no range to be made again
			marks = append(marks, commentSQL(p, p.comment))
		}
		detaches = append(detaches, fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", d.Table.Ident(), p.Ident()))
	}
	if len(all) == 0 {
		return nil
	}
	d.Detaches = all
	d.Plan.Steps = append(d.Plan.Steps, plan.Step{
		Name: d.Table.String(), SQL: strings.Join(marks, ";\n"), Reason: "notes what is going to be detached, so that partition create does not make it again", Op: opUndoMark,
	}, plan.Step{
		Name: d.Table.String(), SQL: strings.Join(detaches, ";\n"), Reason: "all at once; locks: ACCESS EXCLUSIVE for a moment; the rows stay in the partitions", Op: opUndoDetach, Destructive: true,
	})
	return nil
}

// refuseUndo lists in words why a partitioned table cannot be copied back.
func (s shape) refuseUndo() (reasons []string) {
	reasons = append(reasons, s.others...)
	for _, p := range s.publications {
		reasons = append(reasons, "publication "+p+" names it: take it out first, and add the plain table afterwards")
	}
	if s.extension || s.subscribed || s.typed || s.labelled {
		reasons = append(reasons, "it is of a type, belongs to an extension, is the target of a subscription or has security labels")
	}
	return reasons
}

// planCopy makes the steps that bring all rows into one plain table.
func (d *UndoDraft) planCopy(s shape) {
	n := convertNames{shadow: d.target.Name, history: d.Old, objects: map[string]string{}}
	for _, name := range s.named() {
		n.objects[name] = joinName(s.t.Schema, name, "partitioned")
	}
	x := swapping{s: s, n: n, d: &ConvertDraft{Table: d.Table}, t: d.Table.Ident(), shadow: d.target.Ident(), history: pgx.Identifier{s.t.Schema, d.Old}.Sanitize()}
	x.add("CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS)", x.shadow, x.t)
	x.dress()
	for k, i := range s.indexes {
		name := pgx.Identifier{undoIndex(d.target, k)}.Sanitize()
		switch {
		case !x.moves(i):
		case i.kind != "":
			x.add("ALTER TABLE %s ADD CONSTRAINT %s %s", x.shadow, name, i.constraint)
		default:
			unique := ""
			if i.unique {
				unique = "UNIQUE "
			}
			x.add("CREATE %sINDEX %s ON %s%s", unique, name, x.shadow, i.tail)
		}
	}
	d.make, x.sql = strings.Join(x.sql, ";\n"), nil
	x.sql = append(x.sql, x.owner()...)
	x.lock()
	x.aside()
	x.moveSequences()
	x.add("ALTER TABLE %s RENAME TO %s", x.shadow, pgx.Identifier{s.t.Name}.Sanitize())
	x.seatSequences()
	for k, i := range s.indexes {
		if x.moves(i) {
			x.add("ALTER INDEX %s RENAME TO %s", pgx.Identifier{s.t.Schema, undoIndex(d.target, k)}.Sanitize(), pgx.Identifier{i.name}.Sanitize())
			x.comment("INDEX "+pgx.Identifier{s.t.Schema, i.name}.Sanitize(), i.comment)
		}
	}
	x.makeStatistics()
	x.makeRules()
	x.makeViews()
	x.add("RESET ROLE")
	d.swap = strings.Join(x.sql, ";\n")
	names := make([]string, len(d.columns))
	for i, c := range d.columns {
		names[i] = pgx.Identifier{c.Target}.Sanitize()
	}
	d.Plan.Steps = append(d.Plan.Steps,
		plan.Step{Name: displayName(d.target.Schema, d.target.Name), SQL: d.make, Reason: "the plain table", Op: opUndoMake},
		plan.Step{
			Name: d.Table.String(), SQL: fmt.Sprintf("INSERT INTO %s (%s) SELECT %[2]s FROM %[3]s", x.shadow, sqlList(names), x.t),
			Reason: fmt.Sprintf("about %d rows, in batches; inserts go on, UPDATE and DELETE are refused until it is done; then both are compared", d.Rows), Op: opUndoCopy,
		},
		plan.Step{Name: d.Table.String(), SQL: d.swap, Reason: "one short transaction; the partitioned table stays as " + displayName(s.t.Schema, d.Old), Op: opUndoSwap})
}

func undoIndex(t CopyTarget, k int) string { return fmt.Sprintf("%s_%d", t.Name, k) }

// named lists the names of what has names of its own in the schema.
func (s shape) named() []string {
	var names []string
	for _, i := range s.indexes {
		names = append(names, i.name)
	}
	for _, x := range s.statistics {
		names = append(names, x.name)
	}
	return names
}
