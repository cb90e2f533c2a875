package indexes

import (
	"fmt"
	"slices"
	"strings"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

// operation is how a step is carried out.
type operation struct {
	kind  operationKind
	table node
	sql   []string // the step's statements, one by one
	made  string   // the name of the index that it builds, "": none
}

type operationKind int

const (
	opShort      operationKind = iota // in a transaction, under locks that it waits for but a moment
	opConcurrent                      // not in a transaction, under locks that nobody who reads or writes waits for
	opAwait                           // somebody else is at it: wait, then look again
)

// What steps do to others, by the documentation of explicit locking.
const (
	locksOnly     = "SHARE lock on %s for an instant, its partitions not locked"
	locksBuild    = "SHARE UPDATE EXCLUSIVE lock on %s: reads and writes go on"
	locksAttach   = "ACCESS EXCLUSIVE lock on the two indexes for an instant, SHARE UPDATE EXCLUSIVE on %s"
	locksDropPart = "ACCESS EXCLUSIVE lock on %s and all its partitions for an instant"
)

// creation plans the way from a situation to an index on the whole tree.
type creation struct {
	situation

	want   Definition // as the catalog would write it, at the root, with its name
	chosen bool       // the name is the user's
	steps  []plan.Step
	skips  []plan.Skip
	freed  map[string]bool
	names  map[uint32]string // by partitioned table: the index, quoted and qualified
	oids   map[uint32]uint32 // by partitioned table: the index; 0: it is still to be made
	root   *Index            // the index on the root that is there
}

// planCreate returns the steps that are missing; none: the index is there, valid and complete.
func planCreate(s situation, want Definition, chosen bool) (*creation, error) {
	c := &creation{situation: s, want: want, chosen: chosen, freed: map[string]bool{}, names: map[uint32]string{}, oids: map[uint32]uint32{}}
	if err := c.refuse(); err != nil {
		return nil, err
	}
	if by := c.coveredBy(); by != nil {
		c.skips = append(c.skips, plan.Skip{Name: want.DisplayName(), Reason: "index " + by.DisplayName() + " serves the same queries"})
		return c, nil
	}
	for _, n := range c.nodes {
		if n.partitioned() {
			if err := c.parent(n); err != nil {
				return nil, err
			}
		}
	}
	for _, n := range c.leaves() {
		if err := c.leaf(n); err != nil {
			return nil, err
		}
	}
	c.revalidate()
	return c, nil
}

func (c *creation) refuse() error {
	what := "index " + c.want.DisplayName()
	for _, n := range c.nodes {
		switch n.Kind {
		case "r", "p", "m":
		case "f":
			return fault.New(fault.Refused, "make the index on the other partitions one by one", "%s: %s is a foreign table, with which an index on %s never becomes valid", what, n, c.situation.root())
		default:
			return fault.New(fault.Usage, "name a table or a materialized view", "%s: %s is no table", what, n)
		}
	}
	return nil
}

// coveredBy is an index on the root, other than the wanted one, beside which that would be of no use.
func (c *creation) coveredBy() *Index {
	for _, i := range c.indexes[c.situation.root().OID] {
		if i.Valid && !i.Equal(c.want) && i.Covers(c.want) && c.alike(i, i.Definition) == nil {
			return &i
		}
	}
	return nil
}

// parent makes sure that partitioned table n has an index, attached to that of the table above it.
func (c *creation) parent(n node) error {
	above := c.oids[n.Parent]
	var found *Index
	for _, i := range c.indexes[n.OID] {
		if !i.Partitioned || !i.Equal(c.want) || i.Parent != 0 && i.Parent != above {
			continue
		}
		if odd := c.alike(i, c.want); odd != nil {
			c.skips = append(c.skips, plan.Skip{Name: i.DisplayName(), Reason: "its partition's index " + odd.DisplayName() + " is of another kind, as ATTACH lets it be: a new index is made beside it"})
			continue
		}
		if found == nil || better(i, *found, above) {
			found = &i
		}
	}
	if found != nil {
		c.names[n.OID], c.oids[n.OID] = found.Ident(), found.OID
		if n.Parent == 0 {
			c.root = found
		} else if found.Parent == 0 {
			c.attach(n, found.Ident())
		}
		return nil
	}
	made, err := c.name(n)
	if err != nil {
		return err
	}
	c.names[n.OID] = made.Ident()
	sql := []string{made.create(only)}
	reason := "the index of the partitioned table, invalid until all partitions have theirs; " + fmt.Sprintf(locksOnly, n)
	if n.Parent != 0 {
		sql = append(sql, attachSQL(c.names[n.Parent], made.Ident()))
	}
	c.step(operation{opShort, n, sql, ""}, made.DisplayName(), reason)
	return nil
}

// better says whether a is to be taken rather than b: attached, then valid.
func better(a, b Index, above uint32) bool {
	attached := func(i Index) bool { return above != 0 && i.Parent == above }
	if attached(a) != attached(b) {
		return attached(a)
	}
	return a.Valid && !b.Valid
}

// name is the wanted index on n, under a name that is free: on the root the one that was asked for. That one belongs to something else where
// the user has chosen it, or where an odd partition's index was attached to an index of that name.
func (c *creation) name(n node) (Definition, error) {
	d := c.want
	if n.Parent == 0 && c.free(d.Schema, d.Name, c.freed) {
		return d, nil
	}
	chosen := n.Parent == 0 && c.chosen
	if d = c.want.On(n.Schema, n.Name); !chosen {
		d.Name = c.freeName(d, c.freed)
	}
	if chosen || !c.free(d.Schema, d.Name, c.freed) {
		return d, fault.New(fault.Refused, "choose another name, or rename that relation", "index %s: the name belongs to something else", c.want.DisplayName())
	}
	return d, nil
}

// leaf makes sure that table n, which holds rows, has a valid index, attached to that of the table above it.
func (c *creation) leaf(n node) error {
	above, partition := c.oids[n.Parent], n.Parent != 0
	var good, broken *Index
	var leftovers []Index
	for _, i := range c.indexes[n.OID] {
		switch {
		case !i.Equal(c.want):
		case partition && i.Parent != 0 && i.Parent != above: // belongs to another index
		case i.Parent != 0 && !i.Valid:
			broken = &i
		case i.Valid:
			if good == nil || i.Parent != 0 {
				good = &i
			}
		case i.ours(c.want):
			leftovers = append(leftovers, i)
		default:
			c.foreign(n, i)
		}
	}
	by := c.builders[n.OID]
	if by != "" && good == nil && (len(leftovers) > 0 || broken != nil || c.unfinished(n)) {
		c.step(operation{opAwait, n, []string{"-- wait for " + by}, ""}, n.String(), "somebody is building an index on "+n.String()+" already; then it is looked at again")
		return nil
	}
	for _, i := range leftovers {
		if by != "" {
			continue // still being built, beside the good one
		}
		c.freed[i.Schema+nameSeparator+i.Name] = true
		c.step(operation{opConcurrent, n, []string{"DROP INDEX CONCURRENTLY " + i.Ident()}, ""}, i.DisplayName(), "an invalid leftover of an interrupted run; "+fmt.Sprintf(locksBuild, n))
	}
	switch {
	case good != nil && good.Parent == 0 && partition:
		c.attach(n, good.Ident())
	case good != nil:
		c.statistics(n, *good)
	case broken != nil:
		c.step(operation{opConcurrent, n, []string{"REINDEX INDEX CONCURRENTLY " + broken.Ident()}, broken.Name}, broken.DisplayName(), "attached, but invalid; "+fmt.Sprintf(locksBuild, n))
		c.attach(n, broken.Ident())
	default:
		made, err := c.name(n)
		if err != nil {
			return err
		}
		c.step(operation{opConcurrent, n, []string{made.create(concurrently)}, made.Name}, made.DisplayName(), fmt.Sprintf(locksBuild, n))
		if partition {
			c.attach(n, made.Ident())
		}
	}
	return nil
}

// foreign notes an invalid index of somebody else, which stays.
func (c *creation) foreign(n node, i Index) {
	reason := "an invalid index of the same kind that this program has not made: DROP INDEX CONCURRENTLY takes it away"
	if by := c.builders[n.OID]; by != "" {
		reason = "it is being built by " + by
	}
	c.skips = append(c.skips, plan.Skip{Name: i.DisplayName(), Reason: reason})
}

// unfinished says whether n has an invalid index like the wanted one, which whoever is building may make valid.
func (c *creation) unfinished(n node) bool {
	return slices.ContainsFunc(c.indexes[n.OID], func(i Index) bool { return !i.Valid && i.Equal(c.want) })
}

// statistics has a table analyzed whose index on expressions the planner knows nothing about.
func (c *creation) statistics(n node, i Index) {
	if c.bare[i.OID] && n.Rows > 0 {
		c.step(operation{opConcurrent, n, []string{"ANALYZE " + n.ident()}, ""}, n.String(), "statistics of the index's expressions; "+fmt.Sprintf(locksBuild, n))
	}
}

func (c *creation) attach(n node, index string) {
	c.step(operation{opShort, n, []string{attachSQL(c.names[n.Parent], index)}, ""}, n.String(), fmt.Sprintf(locksAttach, n))
}

func attachSQL(parent, child string) string {
	return "ALTER INDEX " + parent + " ATTACH PARTITION " + child
}

// revalidate attaches again what is attached already where that is all that keeps a partitioned index invalid: only ATTACH looks whether
// all others are valid.
func (c *creation) revalidate() {
	if len(c.steps) > 0 || c.root == nil || c.root.Valid {
		return
	}
	for _, n := range slices.Backward(c.nodes) {
		i := c.find(n)
		if i == nil || i.Parent == 0 || !i.Valid {
			continue
		}
		for _, above := range c.nodes {
			if parent := c.find(above); parent != nil && parent.OID == i.Parent && !parent.Valid {
				c.attach(n, i.Ident())
				return
			}
		}
	}
}

// find is the index of n in the tree of the root's.
func (c *creation) find(n node) *Index {
	for _, i := range c.indexes[n.OID] {
		if i.OID == c.root.OID || slices.ContainsFunc(c.below(*c.root), func(b Index) bool { return b.OID == i.OID }) {
			return &i
		}
	}
	return nil
}

func (c *creation) step(op operation, name, reason string) {
	c.steps = append(c.steps, op.step(name, reason))
}

func (op operation) step(name, reason string) plan.Step {
	return plan.Step{Name: name, SQL: strings.Join(op.sql, ";\n"), Reason: reason, NoTx: op.kind == opConcurrent, Op: op}
}
