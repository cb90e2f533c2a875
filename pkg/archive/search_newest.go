package archive

import (
	"cmp"
	"container/heap"
	"context"
	"slices"

	"github.com/parquet-go/parquet-go"
)

// newest keeps the newest n rows; the oldest of them is on top.
type newest struct {
	rows []Found
	n    int
	more bool // there were others
}

// Len, Less, Swap, Push and Pop make it a heap.
func (h *newest) Len() int           { return len(h.rows) }
func (h *newest) Less(i, j int) bool { return h.rows[j].Before(h.rows[i].Position) }
func (h *newest) Swap(i, j int)      { h.rows[i], h.rows[j] = h.rows[j], h.rows[i] }
func (h *newest) Push(f any)         { h.rows = append(h.rows, f.(Found)) } //nolint:forcetypeassert // only take pushes
func (h *newest) Pop() any {
	last := h.rows[len(h.rows)-1]
	h.rows = h.rows[:len(h.rows)-1]
	return last
}

func (h *newest) take(f Found) {
	if len(h.rows) < h.n {
		heap.Push(h, f)
		return
	}
	if h.more = true; f.Before(h.rows[0].Position) {
		h.rows[0] = f
		heap.Fix(h, 0)
	}
}

// full says that no row with a key like this or a smaller one can be among the newest any more.
func (h *newest) full(key int64) bool { return len(h.rows) == h.n && h.rows[0].Key > key }

// Newest gives the newest n rows that may match and come after a position, newest first, and says whether there may be others.
func (x *Search) Newest(ctx context.Context, after *Position, n int) (rows []Found, more bool, err error) {
	if err := x.narrow(ctx); err != nil {
		return nil, false, err
	}
	h := &newest{n: n}
	for _, g := range x.groups {
		if after != nil && g.min > after.Key {
			continue
		}
		if h.full(g.max) { // of the groups after this one too
			h.more = true
			break
		}
		if err := x.collect(ctx, g, after, h); err != nil {
			return nil, false, err
		}
	}
	if err := x.materialise(ctx, h.rows); err != nil {
		return nil, false, err
	}
	slices.SortFunc(h.rows, func(a, b Found) int {
		return cmp.Or(cmp.Compare(b.Key, a.Key), cmp.Compare(b.ID, a.ID))
	})
	return h.rows, h.more, nil
}

// fewStripes is the share of a row group's stripes, 1 in so many, up to which the rows themselves are read, instead of the keys of all first.
const fewStripes = 8

// collect takes the rows of a row group: with all their columns where they are few, else only where they stand.
func (x *Search) collect(ctx context.Context, g *group, after *Position, h *newest) error {
	rows, err := x.match(ctx, g)
	if err != nil || len(rows) == 0 {
		return err
	}
	take := func(f Found) {
		if x.want(f.Key) && (after == nil || after.Before(f.Position)) {
			h.take(f)
		}
	}
	total := int(g.rg.NumRows()) / x.in.m.Stripes.Rows
	if n := len(x.stripesOf(rows)); n == 1 || n*fewStripes <= total {
		return x.rows(ctx, g, rows, func(f Found) error { take(f); return nil })
	}
	keys := make([]int64, 0, len(rows))
	if err := x.values(ctx, g, x.key, rows, func(_ int32, v parquet.Value) { keys = append(keys, x.keyOf(v)) }); err != nil {
		return err
	}
	i := 0
	id := x.in.m.Columns[x.id]
	err = x.values(ctx, g, x.id, rows, func(row int32, v parquet.Value) {
		take(Found{Position: Position{keys[i], signed(id.appendField(nil, v)[4:])}, group: g.n, at: row})
		i++
	})
	x.in.drop()
	return err
}

// materialise reads the columns of rows of which only the place is known.
func (x *Search) materialise(ctx context.Context, found []Found) error {
	slices.SortFunc(found, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.at, b.at))
	})
	for start := 0; start < len(found); {
		end := start + 1
		for end < len(found) && found[end].group == found[start].group {
			end++
		}
		part := found[start:end]
		start = end
		if part[0].row.core != nil {
			continue
		}
		rows := make([]int32, len(part))
		for i, f := range part {
			rows[i] = f.at
		}
		g := x.groups[slices.IndexFunc(x.groups, func(g *group) bool { return g.n == part[0].group })]
		i := 0
		if err := x.rows(ctx, g, rows, func(f Found) error { part[i] = f; i++; return nil }); err != nil {
			return err
		}
	}
	return nil
}
