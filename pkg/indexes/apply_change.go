package indexes

import (
	"fmt"
	"slices"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

// find is the index of the tree that a recommendation names; nil: it is not there. An error says that another one has its name.
func (s situation) named(d Definition) (*Index, error) {
	for _, i := range s.all() {
		if i.Schema != d.Schema || i.Name != d.Name {
			continue
		}
		if i.Table != d.Table || !i.Equal(d) {
			return nil, fault.New(fault.Refused, "analyze again", "index %s is not what was analyzed any more", d.DisplayName())
		}
		return &i, nil
	}
	return nil, nil
}

// planDrop returns the steps that drop an index, which is looked at again: what it was recommended for must still be so.
func planDrop(s situation, r Recommendation) ([]plan.Step, []plan.Skip, error) {
	skip := func(reason string) ([]plan.Step, []plan.Skip, error) {
		return nil, []plan.Skip{{Name: r.Index, Reason: reason}}, nil
	}
	i, err := s.named(r.Definition)
	switch {
	case err != nil:
		return nil, nil, err
	case i == nil:
		return skip("it is not there any more")
	case i.Parent != 0:
		return nil, nil, fault.New(fault.Refused, "drop that one, which drops those of all partitions", "drop index %s: it is attached to %s", r.Index, i.Above)
	case i.Enforces():
		return nil, nil, fault.New(fault.Refused, "an index that keeps rows unique, or that replication or CLUSTER goes by, is not for queries alone", "drop index %s: it %s", r.Index, i.duty())
	}
	if reason := s.stillNeeded(*i, r); reason != "" {
		return skip(reason)
	}
	root := s.root()
	// What a killed run's server process still drops may be gone when this one gets its lock.
	op := operation{kind: opConcurrent, table: root, sql: []string{"DROP INDEX CONCURRENTLY IF EXISTS " + i.Ident()}}
	locks := fmt.Sprintf(locksBuild, root)
	if i.Partitioned { // DROP INDEX CONCURRENTLY does not work on it
		op.kind, op.sql = opShort, []string{"DROP INDEX IF EXISTS " + i.Ident()}
		locks = fmt.Sprintf(locksDropPart, root)
	}
	step := op.step(r.Index, r.Reason+"; "+locks)
	step.Destructive = true
	return []plan.Step{step}, nil, nil
}

// duty is what an index does beside serving queries.
func (i Index) duty() string {
	switch {
	case i.Primary:
		return "is the primary key"
	case i.Constraint != "":
		return "belongs to constraint " + i.Constraint
	case i.Unique:
		return "keeps its keys unique"
	case i.ReplicaIdentity:
		return "is the replica identity"
	}
	return "is what CLUSTER goes by"
}

// stillNeeded says why the reason for a drop is none any more; "": it still is.
func (s situation) stillNeeded(i Index, r Recommendation) string {
	switch r.Evidence {
	case evidenceUsage:
		for _, one := range append(s.below(i), i) {
			if one.Scans > 0 {
				return "it has been used since"
			}
		}
	case evidenceCatalog:
		others := slices.ContainsFunc(s.indexes[i.TableOID], func(o Index) bool { return o.OID != i.OID && o.Valid && o.Covers(i.Definition) })
		if i.Valid && !others {
			return "no other index serves its queries any more"
		}
		if !i.Valid && s.builders[i.TableOID] != "" {
			return "it is being built by " + s.builders[i.TableOID]
		}
	}
	return ""
}

// planReindex returns the steps that build an index anew, a table at a time.
func planReindex(s situation, r Recommendation) ([]plan.Step, []plan.Skip, error) {
	i, err := s.named(r.Definition)
	if err != nil {
		return nil, nil, err
	}
	if i == nil {
		return nil, []plan.Skip{{Name: r.Index, Reason: "it is not there any more"}}, nil
	}
	if i.Exclusion {
		return nil, nil, fault.New(fault.Refused, "REINDEX INDEX without CONCURRENTLY, in a maintenance window", "reindex %s: PostgreSQL cannot rebuild the index of an exclusion constraint online", r.Index)
	}
	var steps []plan.Step
	for _, one := range append([]Index{*i}, s.below(*i)...) {
		if one.Partitioned {
			continue
		}
		n := s.nodes[slices.IndexFunc(s.nodes, func(n node) bool { return n.OID == one.TableOID })]
		locks := fmt.Sprintf(locksBuild, n)
		for _, left := range s.indexes[n.OID] {
			if base, ok := left.reindexed(); ok && base == one.Name && !left.Valid && left.Equal(one.Definition) && s.builders[n.OID] == "" {
				op := operation{kind: opConcurrent, table: n, sql: []string{"DROP INDEX CONCURRENTLY IF EXISTS " + left.Ident()}}
				steps = append(steps, op.step(left.DisplayName(), "an invalid leftover of an interrupted run; "+locks))
			}
		}
		op := operation{kind: opConcurrent, table: n, sql: []string{"REINDEX INDEX CONCURRENTLY " + one.Ident()}, made: one.Name}
		steps = append(steps, op.step(one.DisplayName(), r.Reason+"; "+locks))
		if !one.Valid && one.Parent != 0 {
			op := operation{kind: opShort, table: n, sql: []string{attachSQL(one.Above, one.Ident())}}
			steps = append(steps, op.step(one.DisplayName(), "so that the partitioned index becomes valid; "+fmt.Sprintf(locksAttach, n)))
		}
	}
	return steps, nil, nil
}
