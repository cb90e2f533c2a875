package partitions

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/pkg/plan"
)

// pruneOp is what the executor needs of a step.
type pruneOp struct {
	part Partition
	kind pruneKind
}

type pruneKind int

const (
	opFinalize pruneKind = iota
	opUnmark
	opAttach
	opDetach
	opDetachConcurrently
	opMove
	opDrop
)

// finalize plans to end what an interrupted prune, or somebody else, has begun: a detach that is pending, and the way of a detached table to
// its schema.
func (d *PruneDraft) finalize() {
	for _, p := range d.Catalog.All() {
		if p.State == DetachPending {
			d.Pending = append(d.Pending, p)
			d.add(p, opFinalize, false, "its detach has not ended, and no other partition can be detached before; locks: SHARE UPDATE EXCLUSIVE on the table",
				"ALTER TABLE "+d.Table.Ident()+" DETACH PARTITION "+p.Ident()+" FINALIZE")
			d.move(p, p.attic)
		}
	}
	for _, p := range d.Catalog.Leftovers() {
		d.move(p, p.attic)
	}
}

// move plans to bring a table that is detached by then to its schema.
func (d *PruneDraft) move(p Partition, attic string) {
	if attic == "" || attic == p.Schema {
		return
	}
	p.attic = attic
	d.add(p, opMove, false, "that is where detached partitions go; locks: ACCESS EXCLUSIVE on the detached table alone", moveSchemaSQL(p))
}

// steps turns the choice into a plan: what is pending first, then one partition after the other.
func (d *PruneDraft) steps() {
	d.finalize()
	goes := map[uint32]bool{}
	for _, p := range d.Goes {
		goes[p.OID] = true
	}
	for _, p := range d.Catalog.All() {
		if p.mark != "" && p.State == Attached && !goes[p.OID] {
			d.add(p, opUnmark, false, "it carries the mark of a prune that was interrupted, and stays", commentSQL(p, p.comment))
		}
	}
	for _, p := range d.Back {
		d.add(p, opAttach, false, "an interrupted prune has left it, and it has to stay: it is attached again; locks: SHARE UPDATE EXCLUSIVE on the table",
			"ALTER TABLE "+d.Table.Ident()+" ATTACH PARTITION "+p.Ident()+" "+d.Table.Key.ForValues(p.Bounds))
	}
	for _, p := range d.Goes {
		d.prune(p)
	}
}

func (d *PruneDraft) prune(p Partition) {
	if p.State == Attached {
		kind, how := opDetachConcurrently, " CONCURRENTLY"
		locks := "locks: SHARE UPDATE EXCLUSIVE on the table (readers and writers go on)"
		if d.Catalog.Default() != nil {
			kind, how, locks = opDetach, "", "locks: ACCESS EXCLUSIVE on table, partition and default partition, for a moment"
		}
		sql := "ALTER TABLE " + d.Table.Ident() + " DETACH PARTITION " + p.Ident() + how
		sql = commentSQL(p, d.Table.mark(p, d.Action, d.attic)) + ";\n" + sql
		d.add(p, kind, true, d.why()+"; "+locks, sql)
	}
	d.move(p, d.attic)
	if d.Action == Drop {
		reason := "its rows are not needed any more; locks: ACCESS EXCLUSIVE on the detached table alone"
		if p.State != Attached {
			reason = "an interrupted prune has left it; locks: ACCESS EXCLUSIVE on the detached table alone"
		}
		d.add(p, opDrop, true, reason, "DROP TABLE "+p.Ident())
	}
}

// why says why partitions go.
func (d *PruneDraft) why() string {
	if d.options.Decide != nil {
		return "every row in it is past its rule"
	}
	return "all of it is older than " + d.Cutoff.UTC().Format(shownTime)
}

func (d *PruneDraft) add(p Partition, kind pruneKind, destructive bool, reason, sql string) {
	if role := d.role(p); role != "" {
		local := "LOCAL "
		if kind == opDetachConcurrently || kind == opFinalize {
			local = ""
		}
		sql = "SET " + local + "ROLE " + pgx.Identifier{role}.Sanitize() + ";\n" + sql
	}
	d.Plan.Steps = append(d.Plan.Steps, plan.Step{
		Name: p.String(), SQL: sql, Reason: reason, Destructive: destructive, Group: p.String(), Op: pruneOp{part: p, kind: kind},
		NoTx: kind == opDetachConcurrently || kind == opFinalize,
	})
}

// role is what to become for work on p: the table's owner, or "" where p belongs to somebody else, because then only the connected user may
// have rights on both.
func (d *PruneDraft) role(p Partition) string {
	if d.user == d.Table.Owner || p.Owner != d.Table.Owner {
		return ""
	}
	return d.Table.Owner
}

func moveSchemaSQL(p Partition) string {
	return "ALTER TABLE " + p.Ident() + " SET SCHEMA " + pgx.Identifier{p.attic}.Sanitize()
}

func commentSQL(p Partition, comment string) string {
	text := "NULL"
	if comment != "" {
		text = quoteText(comment)
	}
	return "COMMENT ON TABLE " + p.Ident() + " IS " + text
}

// Question is what the user is asked to confirm.
func (d *PruneDraft) Question() string {
	names := make([]string, 0, 3)
	for i, p := range d.Goes {
		if i == 3 {
			names = append(names, "…")
			break
		}
		names = append(names, p.Name)
	}
	noun := "partitions"
	if len(d.Goes) == 1 {
		noun = "partition"
	}
	return fmt.Sprintf("%s %d %s of %s (%s)", d.Action, len(d.Goes), noun, d.Table, strings.Join(names, ", "))
}
