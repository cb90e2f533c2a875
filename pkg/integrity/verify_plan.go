package integrity

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/pkg/audit"
)

// unit is what is read in one snapshot: usually one partition with its leaf sets; all partitions and leaf sets of overlapping ranges
// where they do not match one to one.
type unit struct {
	table  *tableCheck
	rels   []unitRelation
	ranges []rangeKey // whose leaf sets belong here
	seqs   []int64    // further leaf sets: those of a detached generation
	after  int64      // the log's size when the unit was planned
	pages  int64
}

// unitRelation is a table to read.
type unitRelation struct {
	rel      relation
	name     string
	rng      rangeKey
	unlogged string // why the log does not know it; "": it does
}

// tableCheck is one table to be verified.
type tableCheck struct {
	id        int16
	name      string // schema.table, for messages
	schema    string
	format    audit.Format
	layout    layout
	keyColumn string
	keyType   string
	known     bool // the log has records about it
}

func tableName(schema, name string) string { return schema + "." + name }

// planner turns the state of the log and the catalog of one snapshot into units and findings about structure.
type planner struct {
	tx       pgx.Tx
	walk     *logWalk
	found    *collector
	verdicts verdicts
	filter   filter
	units    []*unit
}

// filter limits what is verified.
type filter struct {
	from, to  int64 // Unix microseconds, half open
	partition string
	only      map[int16][]rangeKey // in a later round: the ranges that are to be looked at again; nil: all
}

func (f filter) wants(k rangeKey) bool {
	return k.def || (k.from < f.to && f.from < k.to)
}

func (f filter) named(schema, name string) bool {
	return f.partition == "" || f.partition == name || f.partition == tableName(schema, name)
}

// again tells whether a range is to be looked at in this round.
func (f filter) again(table int16, k rangeKey) bool {
	if f.only == nil {
		return true
	}
	return slices.ContainsFunc(f.only[table], func(o rangeKey) bool { return o == k || o.overlaps(k) })
}

// table plans one table.
func (p *planner) table(ctx context.Context, m managed) error {
	parent, ok, err := findRelation(ctx, p.tx, m.schema, m.name)
	if err != nil {
		return err
	}
	t := &tableCheck{id: m.id, schema: m.schema, name: tableName(m.schema, m.name)}
	state := p.walk.state.tables[m.id]
	if !ok {
		p.gone(t, state)
		return nil
	}
	if err := p.decoy(ctx, t, state); err != nil {
		return err
	}
	if !p.trustworthy(t, parent) {
		return nil
	}
	if !p.columns(t, parent, state) {
		return nil
	}
	parts, err := readPartitions(ctx, p.tx, parent.oid)
	if err != nil {
		return err
	}
	rels, err := readChildren(ctx, p.tx, parent.oid)
	if err != nil {
		return err
	}
	for i := range parts {
		parts[i].rel = rels[parts[i].oid]
	}
	return p.partitions(ctx, t, state, parts)
}

// gone reports a table that is not there. Without records about it, nothing was lost that was ever logged.
func (p *planner) gone(t *tableCheck, state *tableState) {
	if state == nil {
		p.found.add(newFinding(SchemaDrift, "the managed table %s does not exist", t.name).on(t.name))
		return
	}
	p.found.add(newFinding(PartitionMissing, "the table %s is gone, with all of its partitions", t.name).on(t.name))
}

// decoy looks for a relation under the name that the table had when the log began with it, where the managed table has another name
// now: readers may be looking at that one. A table that was renamed leaves none behind.
func (p *planner) decoy(ctx context.Context, t *tableCheck, state *tableState) error {
	if p.filter.only != nil || state == nil || state.name == "" || tableName(state.schema, state.name) == t.name {
		return nil
	}
	other, ok, err := findRelation(ctx, p.tx, state.schema, state.name)
	if err == nil && ok {
		p.found.add(newFinding(HostileRelation, "the log began with %s, where there is a %s now; the managed table is %s", tableName(state.schema, state.name), relationKind(other.kind), t.name).on(t.name))
	}
	return err
}

// trustworthy looks for what could stand between a reader and the table's rows.
func (p *planner) trustworthy(t *tableCheck, parent relation) bool {
	if p.filter.only != nil {
		return parent.kind == 'p'
	}
	hostile := func(format string, args ...any) Finding {
		return newFinding(HostileRelation, format, args...).on(t.name)
	}
	if parent.kind != 'p' {
		p.found.add(hostile("%s is a %s, not a partitioned table", t.name, relationKind(parent.kind)))
		return false
	}
	if parent.rules > 0 {
		p.found.add(hostile("%s has rewrite rules", t.name))
	}
	if parent.rowSecurity {
		f := hostile("reads through %s are filtered by row security; its partitions were read directly", t.name)
		f.Severity = SeverityWarning
		p.found.add(f)
	}
	return true
}

func relationKind(kind byte) string {
	switch kind {
	case 'r':
		return "plain table"
	case 'v':
		return "view"
	case 'm':
		return "materialized view"
	case 'f':
		return "foreign table"
	case 'p':
		return "partitioned table"
	}
	return "relation of kind " + string(kind)
}

// columns compares the table's columns with the logged format. Without one the table's own columns are taken: then only unsealed rows
// can be counted. It tells whether rows can be read.
func (p *planner) columns(t *tableCheck, parent relation, state *tableState) bool {
	t.keyColumn = parent.keyColumn
	var err error
	if state == nil || len(state.format.Core) == 0 {
		if t.format, err = parent.format(); err != nil {
			p.found.add(newFinding(SchemaDrift, "%s: %v", t.name, err).on(t.name))
			return false
		}
	} else {
		t.known, t.format = true, state.format
	}
	if t.layout, err = newLayout(t.format, t.keyColumn); err != nil {
		p.found.add(newFinding(SchemaDrift, "%s: %v", t.name, err).on(t.name))
		return false
	}
	want := map[string]string{}
	for _, c := range append(slices.Clone(t.format.Core), t.format.Personal...) {
		want[c.Name] = c.Type
	}
	if t.format.Salt != "" {
		want[t.format.Salt] = "uuid"
	}
	usable := true
	report := p.filter.only == nil
	for _, c := range parent.columns {
		if c.Name == t.keyColumn {
			t.keyType = c.Type
		}
		typ, ok := want[c.Name]
		delete(want, c.Name)
		switch {
		case !ok && report:
			p.found.add(newFinding(UncoveredColumn, "column %s of %s is not covered by the leaves", c.Name, t.name).on(t.name))
		case ok && typ != c.Type:
			usable = false
			if report {
				p.found.add(newFinding(SchemaDrift, "column %s of %s has type %s, logged as %s: its rows cannot be compared", c.Name, t.name, c.Type, typ).on(t.name))
			}
		}
	}
	for name := range want {
		usable = false
		if report {
			p.found.add(newFinding(SchemaDrift, "column %s of %s is gone: its rows cannot be compared", name, t.name).on(t.name))
		}
	}
	if state != nil && state.formats > 0 {
		usable = false
		p.found.add(newFinding(SchemaDrift, "the log has more than one format of %s, which this version cannot read", t.name).on(t.name))
	}
	return usable
}

// node is a range on the way to units: a partition of the catalog or a range of the log.
type node struct {
	key   rangeKey
	part  *partition
	state *partState
	apart []unitRelation // tables that were detached from it, where they hold rows of overlapping ranges too
	sets  []int64        // leaf sets of those that were replaced since
}

// partitions compares the log's ranges with the catalog's and forms units.
func (p *planner) partitions(ctx context.Context, t *tableCheck, state *tableState, parts []partition) error {
	nodes := map[rangeKey]*node{}
	for i := range parts {
		nodes[parts[i].ref.Range.key()] = &node{key: parts[i].ref.Range.key(), part: &parts[i]}
	}
	if state != nil {
		for k, s := range state.parts {
			if nodes[k] == nil {
				nodes[k] = &node{key: k}
			}
			nodes[k].state = s
		}
	}
	list := make([]*node, 0, len(nodes))
	for _, n := range nodes {
		if p.filter.again(t.id, n.key) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *node) int { return a.key.compare(b.key) })
	for _, n := range list {
		if n.state == nil {
			continue
		}
		shared := slices.ContainsFunc(list, func(o *node) bool { return o.relocated() && o.key.overlaps(n.key) })
		for _, old := range n.state.old {
			if err := p.detached(ctx, t, n, old, shared); err != nil {
				return err
			}
		}
		if n.part == nil && n.state.status == partDetaching {
			if err := p.detached(ctx, t, n, detachedSets{ref: n.state.ref, oid: n.state.oid, sets: n.state.sets}, shared); err != nil {
				return err
			}
		}
	}
	for _, group := range components(list) {
		p.component(t, group)
	}
	return nil
}

// relocated tells whether the rows of a range were moved to partitions of other ranges.
func (n *node) relocated() bool {
	return n.state != nil && n.state.status == partRelocated && len(n.state.sets) > 0
}

// detached plans a partition that was detached: its rows must be there until they are pruned. With shared it holds rows of leaf sets
// of other ranges too, and must be read together with the partitions that have the rest of them.
func (p *planner) detached(ctx context.Context, t *tableCheck, n *node, d detachedSets, shared bool) error {
	k := n.key
	if !p.filter.wants(k) || !p.filter.named(t.schema, d.ref.Name) {
		return nil
	}
	rel, ok, err := findDetached(ctx, p.tx, d.oid, t.schema, strings.TrimPrefix(t.name, t.schema+"."), d.ref.Name)
	if err != nil {
		return err
	}
	if !ok {
		p.found.add(newFinding(PartitionMissing, "the detached partition %s %s is gone, and no prune was logged", d.ref.Name, k).on(t.name).in(d.ref.Name))
		return nil
	}
	readable := p.readable(t, k, rel, rel.name)
	if shared {
		if readable {
			n.apart = append(n.apart, unitRelation{rel: rel, name: rel.name, rng: k})
		}
		if n.part != nil || n.state.status != partDetaching {
			n.sets = append(n.sets, d.sets...)
		}
		return nil
	}
	u := &unit{table: t, after: p.walk.next, seqs: d.sets}
	if readable {
		u.rels = []unitRelation{{rel: rel, name: rel.name, rng: k}}
	}
	p.units = append(p.units, u)
	return nil
}

// components groups nodes whose ranges overlap, directly or through others. Ranges that must hold no rows do not connect anything.
func components(list []*node) [][]*node {
	var out [][]*node
	var end int64
	for _, n := range list {
		// A range that was pruned and had rows again, in a partition that another tool made, is expected to be there.
		if n.part == nil && len(n.apart) == 0 && (n.state.status == partDetaching || len(n.state.sets) == 0 && n.state.status != partAttached) {
			continue
		}
		if len(out) > 0 && !n.key.def && !out[len(out)-1][0].key.def && n.key.from < end {
			out[len(out)-1] = append(out[len(out)-1], n)
			end = max(end, n.key.to)
			continue
		}
		out = append(out, []*node{n})
		end = n.key.to
	}
	return out
}

// component plans one unit and reports what the log and the catalog disagree about.
func (p *planner) component(t *tableCheck, group []*node) {
	wanted, named := false, false
	for _, n := range group {
		name := ""
		if n.part != nil {
			name = n.part.ref.Name
		} else {
			name = n.state.ref.Name
		}
		wanted = wanted || p.filter.wants(n.key)
		named = named || p.filter.named(t.schema, name)
	}
	if !wanted || !named && !slices.ContainsFunc(group, p.apartNamed(t)) {
		return
	}
	u := &unit{table: t, after: p.walk.next}
	changed := p.boundsChanged(t, group)
	for _, n := range group {
		u.ranges = append(u.ranges, n.key)
		u.rels, u.seqs = append(u.rels, n.apart...), append(u.seqs, n.sets...)
		if n.part == nil {
			if !changed && n.state.status != partRelocated && n.state.status != partDetaching {
				p.found.add(newFinding(PartitionMissing, "partition %s %s is gone, with %d leaf sets, and no prune was logged", n.state.ref.Name, n.key, len(n.state.sets)).
					on(t.name).in(n.state.ref.Name))
			}
			continue
		}
		if changed {
			p.verdicts.add(t.id, n.key, verdict{false, p.walk.next})
		}
		if !p.readable(t, n.key, n.part.rel, n.part.ref.Name) {
			continue
		}
		r := unitRelation{rel: n.part.rel, name: n.part.ref.Name, rng: n.key}
		if !changed {
			r.unlogged = unloggedReason(t, n.state)
		}
		u.rels = append(u.rels, r)
		u.pages += n.part.pages
	}
	// Rows that were moved out of a range which nothing holds any more are gone, unless they have expired.
	if len(u.rels) > 0 || slices.ContainsFunc(group, func(n *node) bool { return n.part == nil && n.state.status == partRelocated }) {
		p.units = append(p.units, u)
	}
}

// apartNamed finds the detached table that the filter names.
func (p *planner) apartNamed(t *tableCheck) func(*node) bool {
	return func(n *node) bool {
		return slices.ContainsFunc(n.apart, func(r unitRelation) bool { return p.filter.named(t.schema, r.name) })
	}
}

// unloggedReason says why the log does not expect a partition that is attached.
func unloggedReason(t *tableCheck, s *partState) string {
	switch {
	case !t.known:
		return ""
	case s == nil || s.status == partUnrecorded:
		return "the log has no record of it"
	case s.status == partPruned || s.status == partRelocated:
		return "the log says that it was dropped"
	}
	return ""
}

// boundsChanged reports a logged partition whose place others have taken that the log does not know.
func (p *planner) boundsChanged(t *tableCheck, group []*node) bool {
	changed := false
	for _, lost := range group {
		if lost.part != nil || lost.state.status == partRelocated || lost.state.status == partDetaching {
			continue
		}
		var names []string
		for _, n := range group {
			if n.part != nil && n.key.overlaps(lost.key) && unloggedReason(t, n.state) != "" {
				names = append(names, n.part.ref.Name+" "+n.key.String())
			}
		}
		if len(names) > 0 {
			changed = true
			p.found.add(newFinding(PartitionBounds, "partition %s was logged with %s; now there is %s", lost.state.ref.Name, lost.key, strings.Join(names, ", ")).
				on(t.name).in(lost.state.ref.Name))
		}
	}
	return changed
}

// readable checks a partition's relation before its rows are trusted.
func (p *planner) readable(t *tableCheck, k rangeKey, rel relation, name string) bool {
	hostile := func(format string, args ...any) {
		p.verdicts.add(t.id, k, verdict{false, p.walk.next})
		p.found.add(newFinding(HostileRelation, format, args...).on(t.name).in(name))
	}
	if rel.kind != 'r' {
		hostile("%s is a %s: its rows cannot be checked", name, relationKind(rel.kind))
		return false
	}
	if rel.rules > 0 {
		hostile("%s has rewrite rules", name)
	}
	if rel.rowSecurity {
		hostile("%s has row security, which hides rows from its readers", name)
	}
	return true
}

// sortUnits puts the largest first, so that workers end together.
func sortUnits(units []*unit) {
	slices.SortStableFunc(units, func(a, b *unit) int { return cmp.Compare(b.pages, a.pages) })
}
