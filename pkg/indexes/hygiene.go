package indexes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

// HygieneOptions say what to look at.
type HygieneOptions struct {
	Tables   []uint32       // oids of plain and partitioned tables; none: all of the users'
	Replicas []*postgres.DB // all that applications read from: an index may be used there alone
	Blind    []string       // replicas that could not be asked; any: nothing is called unused
	Now      time.Time
	Wait     time.Duration // for tables that somebody has locked exclusively
}

const (
	trustedAge  = 30 * 24 * time.Hour // of statistics, before zero scans mean anything
	fewRows     = 1000                // below, a table is read as fast without an index
	bloatedFrom = 16 << 20            // bytes of an index worth rebuilding
	bloatedPart = 0.4                 // of it wasted
	densePart   = 0.65                // leaf pages filled less are bloat, by pgstattuple; a fresh B-tree has 0.9
)

// Hygiene looks for indexes that are unused, duplicate, redundant, invalid or bloated, for foreign keys without an index, and for tables
// without statistics. It changes nothing. notes say in words what could not be judged.
func Hygiene(ctx context.Context, db *postgres.DB, o HygieneOptions) (found []Recommendation, notes []string, err error) {
	f, err := gather(ctx, db, o)
	if err != nil {
		return nil, nil, err
	}
	found = f.judge(o.Now)
	return found, f.notes, nil
}

// gather reads what the judgement rests on.
func gather(ctx context.Context, db *postgres.DB, o HygieneOptions) (f *hygieneFacts, err error) {
	err = db.DDL(ctx, postgres.DDLOptions{What: "look at indexes", Wait: o.Wait}, func(tx pgx.Tx) (err error) {
		f, err = readHygiene(ctx, tx, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.blind = o.Blind
	for _, replica := range o.Replicas {
		if err := f.addReplica(ctx, replica); err != nil {
			return nil, fmt.Errorf("statistics of replica %s: %w", replica.Target(), err)
		}
	}
	return f, f.measure(ctx, db)
}

// hygieneFacts is what the judgement rests on.
type hygieneFacts struct {
	situation

	foreign  []foreignKey
	since    time.Time // since when scans are counted, on the server where that is the shortest
	counted  bool      // track_counts is on everywhere
	standbys int       // connected to the primary
	replicas int       // asked
	expected map[uint32]float64
	measured map[uint32]float64 // by pgstattuple: how much of the leaf pages is filled
	stale    []node
	blind    []string
	notes    []string
}

type foreignKey struct {
	Table, Root  uint32
	Name         string
	Columns      []string
	Referenced   string
	Changes      int64 // deletes and updates of the referenced table that were counted
	Schema, Rel  string
	RowsEstimate float64
}

// judge makes recommendations of the facts.
func (f *hygieneFacts) judge(now time.Time) []Recommendation {
	var found []Recommendation
	gone := map[uint32]bool{}
	add := func(i Index, action Action, evidence, format string, args ...any) {
		gone[i.OID] = gone[i.OID] || action == ActionDrop
		r := Recommend(action, i.Definition, fmt.Sprintf(format, args...), evidence)
		size := i.SizeBytes
		for _, one := range f.below(i) {
			size += one.SizeBytes
		}
		r.SizeBytes = &size
		found = append(found, r)
	}
	for _, n := range f.nodes {
		f.invalid(n, add)
	}
	for _, n := range f.nodes {
		f.superfluous(n, gone, add)
	}
	if f.usageCounts(now) {
		for _, n := range f.nodes {
			f.unused(n, gone, now, add)
		}
	}
	for _, n := range f.nodes {
		f.bloated(n, gone, add)
	}
	return append(append(found, f.withoutIndex()...), f.withoutStatistics()...)
}

type adder func(i Index, action Action, evidence, format string, args ...any)

func (f *hygieneFacts) invalid(n node, add adder) {
	for _, i := range f.indexes[n.OID] {
		alike := func(o Index) bool { return o.OID != i.OID && o.Valid && o.Equal(i.Definition) }
		_, copied := i.reindexed()
		switch by := f.builders[n.OID]; {
		case i.Valid:
		case by != "":
			f.notes = append(f.notes, fmt.Sprintf("index %s is invalid, and may be being built by %s", i.DisplayName(), by))
		case i.Partitioned && i.Parent == 0 && i.Constraint == "":
			add(i, ActionCreate, evidenceCatalog, "it is invalid: partitions have no index like it, or an invalid one")
		case i.Partitioned:
		case i.Parent == 0 && i.Constraint == "" && (copied || slices.ContainsFunc(f.indexes[n.OID], alike)):
			add(i, ActionDrop, evidenceCatalog, "it is invalid (%s), and there is a valid one like it: a leftover", i.state())
		default:
			add(i, ActionReindex, evidenceCatalog, "it is invalid (%s): no query uses it", i.state())
		}
	}
}

// state says whether an invalid index costs writes.
func (i Index) state() string {
	if i.Ready {
		return "every write maintains it"
	}
	return "writes do not maintain it"
}

// superfluous finds indexes whose queries another one serves as well. Of several alike that stays which enforces something, else which is used
// most.
func (f *hygieneFacts) superfluous(n node, gone map[uint32]bool, add adder) {
	own := f.indexes[n.OID]
	for _, i := range own {
		if !i.Valid || i.Parent != 0 || i.Enforces() {
			continue
		}
		for _, o := range own {
			if o.OID == i.OID || gone[o.OID] || !o.Valid || !o.Covers(i.Definition) {
				continue
			}
			if !o.Equal(i.Definition) {
				has := map[bool]string{true: "has", false: "begins with"}[len(o.Keys) == len(i.Keys)]
				add(i, ActionDrop, evidenceCatalog, "redundant: %s %s the same keys, over the same rows", o.DisplayName(), has)
				break
			}
			if o.Parent != 0 || f.scans(o) > f.scans(i) || f.scans(o) == f.scans(i) && o.OID < i.OID {
				add(i, ActionDrop, evidenceCatalog, "duplicate of %s", o.DisplayName())
				break
			}
		}
	}
}

// scans of an index and all that is attached to it.
func (f *hygieneFacts) scans(i Index) int64 {
	total := i.Scans
	for _, one := range f.below(i) {
		total += one.Scans
	}
	return total
}

// usageCounts says whether zero scans mean anything, and notes why not.
func (f *hygieneFacts) usageCounts(now time.Time) bool {
	switch {
	case len(f.blind) > 0:
		f.notes = append(f.notes, "no index is called unused: not asked were the replicas "+strings.Join(f.blind, ", "))
	case !f.counted:
		f.notes = append(f.notes, "no index is called unused: track_counts is off")
	case now.Sub(f.since) < trustedAge:
		f.notes = append(f.notes, fmt.Sprintf("no index is called unused: scans are counted only since %s, and that takes 30 days", f.since.UTC().Format(time.DateOnly)))
	default:
		if f.standbys > f.replicas {
			f.notes = append(f.notes, fmt.Sprintf("%d standbys are connected, and %d were asked (database.replicas): an index may be used on the others alone", f.standbys, f.replicas))
		}
		return true
	}
	return false
}

func (f *hygieneFacts) unused(n node, gone map[uint32]bool, now time.Time, add adder) {
	for _, i := range f.indexes[n.OID] {
		if !i.Valid || i.Parent != 0 || i.Enforces() || gone[i.OID] || f.scans(i) > 0 || f.supports(i) {
			continue
		}
		add(i, ActionDrop, evidenceUsage, "unused: no scan in %d days, on %d servers", int(now.Sub(f.since).Hours()/24), f.replicas+1)
	}
}

// supports says whether deletes of a referenced table find the referencing rows by the index.
func (f *hygieneFacts) supports(i Index) bool {
	return slices.ContainsFunc(f.foreign, func(k foreignKey) bool { return k.Table == i.TableOID && i.leads(k.Columns) })
}

// leads says whether the first keys of the index are the columns, in any order.
func (i Index) leads(columns []string) bool {
	if i.Method != BTree || i.Predicate != "" || len(i.Keys) < len(columns) {
		return false
	}
	for _, k := range i.Keys[:len(columns)] {
		if !slices.Contains(columns, k.Column) {
			return false
		}
	}
	return true
}

func (f *hygieneFacts) bloated(n node, gone map[uint32]bool, add adder) {
	for _, i := range f.indexes[n.OID] {
		if gone[i.OID] || f.goneAbove(i, gone) {
			continue
		}
		wasted, evidence, ok := f.waste(i)
		if ok && wasted >= bloatedPart && i.SizeBytes >= bloatedFrom {
			add(i, ActionReindex, evidence, "about %.0f%% of its %d MB is empty", wasted*100, i.SizeBytes>>20)
		}
	}
}

func (f *hygieneFacts) goneAbove(i Index, gone map[uint32]bool) bool {
	for oid := range gone {
		if gone[oid] && slices.ContainsFunc(f.below(Index{OID: oid}), func(b Index) bool { return b.OID == i.OID }) {
			return true
		}
	}
	return false
}

// waste is the part of an index that holds nothing: by pgstattuple where that has looked, else by what its entries should take.
func (f *hygieneFacts) waste(i Index) (part float64, evidence string, ok bool) {
	if filled, ok := f.measured[i.OID]; ok {
		if filled >= densePart {
			return 0, evidenceMeasured, true
		}
		return 1 - filled/0.9, evidenceMeasured, true
	}
	expected, ok := f.expected[i.OID]
	if !ok || i.SizeBytes == 0 {
		return 0, "", false
	}
	return max(1-expected/float64(i.SizeBytes), 0), evidenceEstimate, true
}

// withoutIndex finds foreign keys whose referenced rows are deleted or changed, each time with a scan of the whole referencing table.
func (f *hygieneFacts) withoutIndex() []Recommendation {
	var found []Recommendation
	for _, k := range f.foreign {
		served := slices.ContainsFunc(f.indexes[k.Table], func(i Index) bool { return i.Valid && i.leads(k.Columns) })
		if served || k.RowsEstimate < fewRows || k.Changes == 0 {
			continue
		}
		d := Definition{Schema: k.Schema, Table: k.Rel, Method: BTree}
		for _, c := range k.Columns {
			d.Keys = append(d.Keys, Key{Column: c})
		}
		found = append(found, Recommend(ActionCreate, d, fmt.Sprintf("foreign key %s has no index: each of the %d rows of %s deleted or changed reads the whole table", quoteWhereNeeded(k.Name), k.Changes, k.Referenced), evidenceCatalog))
	}
	return found
}

func (f *hygieneFacts) withoutStatistics() []Recommendation {
	var found []Recommendation
	for _, n := range f.stale {
		reason := "it was never analyzed: the planner guesses"
		if n.partitioned() {
			reason = "the planner knows nothing of the table as a whole: autovacuum never analyzes a partitioned table"
		}
		found = append(found, Recommend(ActionAnalyze, Definition{Schema: n.Schema, Table: n.Name}, reason, evidenceCatalog))
	}
	return found
}
