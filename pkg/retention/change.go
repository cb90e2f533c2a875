package retention

import (
	"context"
	"slices"
	"strings"

	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// Change is one difference between the rules that are wanted and those that are stored.
type Change struct {
	Table   int16  // for a floor, which is for all tables, one that has policies
	Name    string // of the policy, or the classification of the floor
	Policy  *Policy
	Floor   *Floor
	Was     string // its definition before; "": there was none
	isFloor bool
}

// Removes says that the rule is taken away.
func (c Change) Removes() bool { return c.Policy == nil && c.Floor == nil }

// Kind is policy or floor.
func (c Change) Kind() string {
	if c.isFloor {
		return "floor"
	}
	return "policy"
}

// Becomes is the rule's new definition, "" where it is taken away.
func (c Change) Becomes() string {
	switch {
	case c.Policy != nil:
		return c.Policy.Definition()
	case c.Floor != nil:
		return "keep=" + SpanText(c.Floor.Keep)
	}
	return ""
}

// String is the change for people.
func (c Change) String() string {
	if c.Removes() {
		return "remove " + c.Kind() + " " + c.Name
	}
	return "set " + c.Kind() + " " + c.Name
}

// record is what the log keeps.
func (c Change) record() integrity.Body {
	b := &integrity.Policy{Table: c.Table, Name: c.Name, Event: integrity.EventSet, Definition: c.Becomes()}
	if c.isFloor {
		b.Name = floorName(c.Name)
	}
	if c.Removes() {
		b.Event = integrity.EventRemoved
	}
	return b
}

// Differences compares the stored rules of tables with those that are wanted.
func Differences(ctx context.Context, q partitions.Querier, wanted Wanted) ([]Change, error) {
	want, floors, err := wanted(ctx, q)
	if err != nil {
		return nil, err
	}
	var out []Change
	var stored []Floor
	for _, table := range sortedTables(want) {
		rules, err := LoadRules(ctx, q, table)
		if err != nil {
			return nil, err
		}
		stored = rules.Floors
		out = append(out, comparePolicies(table, rules.Policies, want[table])...)
	}
	if floors != nil && len(want) > 0 {
		out = append(compareFloors(sortedTables(want)[0], stored, floors), out...)
	}
	return out, nil
}

func sortedTables(want map[int16][]Policy) []int16 {
	ids := make([]int16, 0, len(want))
	for id := range want {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func comparePolicies(table int16, have, want []Policy) (out []Change) {
	for _, p := range want {
		c := Change{Table: table, Name: p.Name, Policy: &p}
		if i := slices.IndexFunc(have, func(h Policy) bool { return h.Name == p.Name }); i >= 0 {
			c.Was = have[i].Definition()
		}
		if c.Was != c.Becomes() {
			out = append(out, c)
		}
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(p Policy) bool { return p.Name == h.Name }) {
			out = append(out, Change{Table: table, Name: h.Name, Was: h.Definition()})
		}
	}
	return out
}

func compareFloors(table int16, have, want []Floor) (out []Change) {
	for _, f := range want {
		c := Change{Table: table, Name: f.Classification, Floor: &f, isFloor: true}
		if i := slices.IndexFunc(have, func(h Floor) bool { return h.Classification == f.Classification }); i >= 0 {
			c.Was = "keep=" + SpanText(have[i].Keep)
		}
		if c.Was != c.Becomes() {
			out = append(out, c)
		}
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(f Floor) bool { return f.Classification == h.Classification }) {
			out = append(out, Change{Table: table, Name: h.Classification, Was: "keep=" + SpanText(h.Keep), isFloor: true})
		}
	}
	return out
}

// CheckStored refuses policies of a file without floors that keep for less than the floors that are stored.
func (f *File) CheckStored(ctx context.Context, q partitions.Querier, want map[int16][]Policy) error {
	if f.Floors != nil {
		return nil
	}
	for _, table := range sortedTables(want) {
		rules, err := LoadRules(ctx, q, table)
		if err != nil {
			return err
		}
		for _, p := range want[table] {
			if err := p.Check(rules.Floors); err != nil {
				return err
			}
		}
	}
	return nil
}

// floorPrefix begins the names by which the log keeps floors.
const floorPrefix = "floor:"

func floorName(classification string) string { return floorPrefix + classification }

func isFloorName(name string) bool { return strings.HasPrefix(name, floorPrefix) }
