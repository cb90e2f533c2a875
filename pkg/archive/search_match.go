package archive

import (
	"context"
	"slices"

	"github.com/parquet-go/parquet-go"
)

const (
	bloomsAtOnce = 32      // row groups whose bloom filters are read together
	maxRemember  = 1 << 20 // rows that a search keeps in mind between passes
)

// narrow takes out row groups of which a bloom filter says that a value is not there.
func (x *Search) narrow(ctx context.Context) error {
	if x.narrowed {
		return nil
	}
	x.narrowed = true
	columns := make([]int, 0, len(x.cond.Equal))
	for _, e := range x.cond.Equal {
		i := slices.IndexFunc(x.in.m.Columns, func(c Column) bool { return c.Name == e.Column && c.Role != roleAside })
		if i < 0 { // the column is newer than the archive: NULL in all of its rows
			x.groups = nil
			return nil
		}
		columns = append(columns, i)
	}
	var left []*group
	for some := range slices.Chunk(x.groups, bloomsAtOnce) {
		var spans []span
		for _, g := range some {
			for _, c := range columns {
				if s := bloomSpan(x.file, g.n, x.position[c]); s.from > 0 {
					spans = append(spans, s)
				}
			}
		}
		if err := x.in.whole(ctx, spans...); err != nil {
			return err
		}
		for _, g := range some {
			there, err := x.mayHave(g, columns)
			if err != nil {
				return err
			}
			if there {
				left = append(left, g)
			}
		}
		x.in.drop()
	}
	x.groups = left
	return nil
}

// mayHave asks the bloom filters of a row group for all values.
func (x *Search) mayHave(g *group, columns []int) (there bool, err error) {
	defer guard(x.in.name(), &err)
	for i, c := range columns {
		if bloomSpan(x.file, g.n, x.position[c]).from == 0 {
			continue
		}
		there, err := x.chunk(g, c).BloomFilter().Check(parquet.ByteArrayValue([]byte(x.cond.Equal[i].Value)))
		if err != nil {
			return false, broken(x.in.name(), "a bloom filter cannot be read: %v", err)
		}
		if !there {
			return false, nil
		}
	}
	return true, nil
}

// match gives the rows of a row group that may match: pages by their smallest and largest keys, and the columns that are compared with values.
func (x *Search) match(ctx context.Context, g *group) ([]int32, error) {
	if g.matched {
		return g.matching, nil
	}
	rows, err := x.inTime(g)
	if err != nil {
		return nil, err
	}
	for _, e := range x.cond.Equal {
		if len(rows) == 0 {
			break
		}
		column := slices.IndexFunc(x.in.m.Columns, func(c Column) bool { return c.Name == e.Column })
		if rows, err = x.equal(ctx, g, column, e.Value, rows); err != nil {
			return nil, err
		}
	}
	x.in.drop()
	if x.remembers+len(rows) <= maxRemember {
		g.matching, g.matched, x.remembers = rows, true, x.remembers+len(rows)
	}
	return rows, nil
}

// inTime gives the rows of the pages whose keys are in the range.
func (x *Search) inTime(g *group) (rows []int32, err error) {
	defer guard(x.in.name(), &err)
	chunk := x.chunk(g, x.key)
	bounds, err := chunk.ColumnIndex()
	if err != nil {
		return nil, broken(x.in.name(), "it has no page index: %v", err)
	}
	offsets, err := chunk.OffsetIndex()
	if err != nil {
		return nil, broken(x.in.name(), "it has no page index: %v", err)
	}
	for i := range offsets.NumPages() {
		if x.finite() && (bounds.NullPage(i) || x.keyOf(bounds.MaxValue(i)) < x.from || x.keyOf(bounds.MinValue(i)) >= x.to) {
			continue
		}
		first, next := pageRowsOf(offsets, i, g.rg.NumRows())
		for r := first; r < next; r++ {
			rows = append(rows, int32(r)) //nolint:gosec // a row group has less than 2^31 rows
		}
	}
	return rows, nil
}

// pageRowsOf are the rows of a page.
func pageRowsOf(index parquet.OffsetIndex, page int, rows int64) (first, next int64) {
	next = rows
	if page+1 < index.NumPages() {
		next = index.FirstRowIndex(page + 1)
	}
	return index.FirstRowIndex(page), min(next, rows)
}

// equal keeps the rows with a value in a column, which is read whole.
func (x *Search) equal(ctx context.Context, g *group, column int, value string, rows []int32) ([]int32, error) {
	kept := rows[:0]
	err := x.values(ctx, g, column, rows, func(row int32, v parquet.Value) {
		if !v.IsNull() && string(v.ByteArray()) == value {
			kept = append(kept, row)
		}
	})
	return kept, err
}

// values reads a column of a row group whole, checks it, and gives the values of some rows to fn.
func (x *Search) values(ctx context.Context, g *group, column int, rows []int32, fn func(row int32, v parquet.Value)) (err error) {
	if err := x.in.whole(ctx, chunkSpan(x.file, g.n, x.position[column])); err != nil {
		return err
	}
	defer guard(x.in.name(), &err)
	c := &cursor{pages: x.chunk(g, column).Pages()}
	defer c.close()
	total := int(g.rg.NumRows())
	for at, next := 0, 0; at < total && next < len(rows); at += batchRows {
		n := min(batchRows, total-at)
		if err := c.fill(n); err != nil {
			return broken(x.in.name(), "it cannot be decoded: %v", err)
		}
		for ; next < len(rows) && int(rows[next]) < at+n; next++ {
			fn(rows[next], c.values[int(rows[next])-at])
		}
		c.release()
	}
	return nil
}
