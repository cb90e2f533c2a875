package partitions

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// looks is what of a leaf can differ from its siblings, as texts that do not contain its name.
type looks struct {
	oid, parent uint32
	owner       string
	options     []string // name=value
	grants      []string // SELECT TO role
	indexes     []string // [UNIQUE ]USING btree (k)
	invalid     []string // names of indexes that are
	constraints []string // CHECK (…)
}

// drift compares each leaf with what it belongs to (owner, indexes and constraints) and with its siblings.
func (c *checking) drift(ctx context.Context) error {
	leaves, parents := map[uint32]Partition{}, []uint32{c.t.OID}
	groups := map[uint32][]looks{}
	c.everything(func(p Partition, _ uint32) {
		switch p.Kind {
		case 'r':
			leaves[p.OID] = p
		case 'p':
			parents = append(parents, p.OID)
		}
	})
	all, err := readLooks(ctx, c.w.o.DB.Pool(), parents)
	if err != nil {
		return err
	}
	own := map[uint32]looks{}
	for _, l := range all {
		own[l.oid] = l
		if _, leaf := leaves[l.oid]; leaf {
			groups[l.parent] = append(groups[l.parent], l)
		}
	}
	for _, parent := range parents {
		c.compare(own[parent], groups[parent], leaves)
	}
	return nil
}

// compare looks at the leaves of one parent. The default partition counts as a sibling too.
func (c *checking) compare(parent looks, siblings []looks, leaves map[uint32]Partition) {
	newest := looks{}
	for _, l := range siblings {
		p := leaves[l.oid]
		if !p.Default && (newest.oid == 0 || compareBounds(leaves[newest.oid].Bounds, p.Bounds) < 0) {
			newest = l
		}
	}
	usual := func(of func(looks) []string) []string { return expected(siblings, newest, of) }
	options, grants := usual(func(l looks) []string { return l.options }), usual(func(l looks) []string { return l.grants })
	indexes := union(parent.indexes, usual(func(l looks) []string { return l.indexes }))
	constraints := union(parent.constraints, usual(func(l looks) []string { return l.constraints }))
	for _, l := range siblings {
		p := leaves[l.oid]
		name, table := p.String(), p.Ident()
		if l.owner != parent.owner {
			c.add(ProblemDrift, name, fmt.Sprintf("ALTER TABLE %s OWNER TO %s", table, pgx.Identifier{parent.owner}.Sanitize()), "it belongs to %s, its table to %s", l.owner, parent.owner)
		}
		for _, index := range missingFrom(l.indexes, indexes) {
			unique, def := "", index
			if rest, ok := strings.CutPrefix(index, "UNIQUE "); ok {
				unique, def = "UNIQUE ", rest
			}
			c.add(ProblemDrift, name, fmt.Sprintf("CREATE %sINDEX CONCURRENTLY ON %s %s", unique, table, def), "it has no index %s", index)
		}
		for _, index := range l.invalid {
			c.add(ProblemDrift, name, "REINDEX INDEX CONCURRENTLY "+pgx.Identifier{p.Schema, index}.Sanitize(), "its index %s is not valid", quoteWhereNeeded(index))
		}
		for _, def := range missingFrom(l.constraints, constraints) {
			c.add(ProblemDrift, name, fmt.Sprintf("ALTER TABLE %s ADD %s", table, def), "it has no constraint %s", def)
		}
		for _, one := range missingFrom(l.options, options) {
			c.add(ProblemDrift, name, fmt.Sprintf("ALTER TABLE %s SET (%s)", table, one), "its siblings have the option %s", one)
		}
		for _, one := range missingFrom(options, l.options) {
			option, _, _ := strings.Cut(one, "=")
			c.add(ProblemDrift, name, fmt.Sprintf("ALTER TABLE %s RESET (%s)", table, option), "its siblings have no option %s", one)
		}
		for _, one := range missingFrom(l.grants, grants) {
			right, to, _ := strings.Cut(one, " TO ")
			c.add(ProblemDrift, name, fmt.Sprintf("GRANT %s ON TABLE %s TO %s", right, table, to), "its siblings have the grant %s", one)
		}
		for _, one := range missingFrom(grants, l.grants) {
			right, to, _ := strings.Cut(one, " TO ")
			to = strings.TrimSuffix(to, " WITH GRANT OPTION")
			c.add(ProblemDrift, name, fmt.Sprintf("REVOKE %s ON TABLE %s FROM %s", right, table, to), "its siblings have no grant %s", one)
		}
	}
}

// expected returns what more than half of the siblings have, and, of what just half of them have, what the newest does.
func expected(siblings []looks, newest looks, of func(looks) []string) []string {
	count := map[string]int{}
	for _, l := range siblings {
		for _, one := range slices.Compact(slices.Sorted(slices.Values(of(l)))) {
			count[one]++
		}
	}
	var out []string
	for one, n := range count {
		if 2*n > len(siblings) || 2*n == len(siblings) && slices.Contains(of(newest), one) {
			out = append(out, one)
		}
	}
	slices.Sort(out)
	return out
}

// missingFrom returns those of wants that has does not have.
func missingFrom(has, wants []string) []string {
	return slices.DeleteFunc(slices.Clone(wants), func(one string) bool { return slices.Contains(has, one) })
}

func union(a, b []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}
