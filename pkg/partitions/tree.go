package partitions

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"auditdb/internal/fault"
)

// Tree is a table's catalog with what lies below partitions that are partitioned themselves. Their rows and sizes are those of their leaves.
type Tree struct {
	*Catalog
	below map[uint32][]Partition
}

// Below returns the partitions of p in order, the default one and those whose bounds are no ranges of times last.
func (t *Tree) Below(p Partition) []Partition { return t.below[p.OID] }

// LoadTree reads the partitions of t of any depth with one catalog query, with sizes as VACUUM and ANALYZE last saw them.
func LoadTree(ctx context.Context, q Querier, t Table) (*Tree, error) {
	found, err := load(ctx, q, t, true, treeSQL)
	if err != nil {
		return nil, err
	}
	tree := &Tree{below: map[uint32][]Partition{}}
	nested := map[uint32][]relation{}
	var top []Partition
	for _, r := range found {
		if r.level > 1 {
			nested[r.parent] = append(nested[r.parent], r)
			continue
		}
		p, err := r.partition(t)
		if err != nil {
			return nil, wrap(err, "list partitions of %s", t)
		}
		top = append(top, p)
	}
	for parent, relations := range nested {
		tree.below[parent] = understand(relations)
	}
	for i := range top {
		tree.rollUp(&top[i])
	}
	tree.Catalog = NewCatalog(top)
	return tree, nil
}

// understand reads bounds by the key of the partition that the relations belong to, as far as it can be understood; nobody writes there.
func understand(relations []relation) []Partition {
	key := relations[0].key
	var t Table
	columns, err := strconv.Atoi(key[1])
	if err == nil {
		t.Key.Kind, t.ReadOnly = keyKind(key[0], columns, key[2], key[3], key[4] == "true")
	}
	if t.ReadOnly == nil {
		exprs := make([]string, len(relations))
		for i, r := range relations {
			exprs[i] = r.expr
		}
		t.learn(exprs)
		t.ReadOnly = fault.New(fault.Usage, "", "it is a partition itself")
	}
	parts := make([]Partition, 0, len(relations))
	for _, r := range relations {
		r.comment = ""
		if p, err := r.partition(t); err == nil { // none with ReadOnly
			parts = append(parts, p)
		}
	}
	slices.SortStableFunc(parts, func(a, b Partition) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), compareBounds(a.Bounds, b.Bounds), cmp.Compare(a.Name, b.Name))
	})
	return parts
}

// rank puts ranges first, then what is no range of times, then the default partition.
func (p Partition) rank() int {
	switch {
	case p.Default:
		return 2
	case p.Foreign != "":
		return 1
	}
	return 0
}

// rollUp adds up the leaves below p; one that is not known makes the sum unknown.
func (t *Tree) rollUp(p *Partition) {
	if p.Kind != 'p' {
		return
	}
	p.RowsEstimate, p.SizeBytes = 0, 0
	below := t.below[p.OID]
	for i := range below {
		t.rollUp(&below[i])
		p.RowsEstimate = addKnown(p.RowsEstimate, below[i].RowsEstimate)
		p.SizeBytes = addKnown(p.SizeBytes, below[i].SizeBytes)
	}
}

func addKnown(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return a + b
}
