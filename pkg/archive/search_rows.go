package archive

import (
	"context"
	"slices"

	"github.com/parquet-go/parquet-go"
)

// rows reads rows of a row group, given in their order, with all their columns. Of the columns only the pages that hold the rows' stripes are read;
// a stripe that does not lead to its digest is an integrity error.
func (x *Search) rows(ctx context.Context, g *group, rows []int32, fn func(Found) error) error {
	stripes := x.stripesOf(rows)
	spans, err := x.pagesOf(g, stripes)
	if err != nil {
		return err
	}
	if err := x.in.fetch(ctx, spans); err != nil {
		return err
	}
	defer x.in.drop()
	return x.decode(g, stripes, rows, fn)
}

func (x *Search) stripesOf(rows []int32) (stripes []int) {
	for _, r := range rows {
		if s := int(r) / x.in.m.Stripes.Rows; len(stripes) == 0 || stripes[len(stripes)-1] != s {
			stripes = append(stripes, s)
		}
	}
	return stripes
}

// rowsOf are the rows of a stripe.
func (x *Search) rowsOf(g *group, stripe int) (first, next int) {
	first = stripe * x.in.m.Stripes.Rows
	return first, min(first+x.in.m.Stripes.Rows, int(g.rg.NumRows()))
}

// pagesOf are the pages with stripes, and the dictionaries that they need.
func (x *Search) pagesOf(g *group, stripes []int) (spans []span, err error) {
	defer guard(x.in.name(), &err)
	for c := range x.in.m.Columns {
		index, err := x.chunk(g, c).OffsetIndex()
		if err != nil {
			return nil, broken(x.in.name(), "it has no page index: %v", err)
		}
		if chunk := chunkSpan(x.file, g.n, x.position[c]); index.NumPages() > 0 && chunk.from < index.Offset(0) {
			spans = append(spans, span{chunk.from, index.Offset(0)})
		}
		next := 0
		for i := range index.NumPages() {
			from, to := pageRowsOf(index, i, g.rg.NumRows())
			for next < len(stripes) {
				first, end := x.rowsOf(g, stripes[next])
				if int64(end) > from && int64(first) < to {
					spans = append(spans, span{index.Offset(i), index.Offset(i) + index.CompressedPageSize(i)})
				}
				if int64(end) > to { // it goes on in the next page
					break
				}
				next++
			}
		}
	}
	return spans, nil
}

// decode turns stripes into rows, and gives those that are wanted to fn.
func (x *Search) decode(g *group, stripes []int, rows []int32, fn func(Found) error) (err error) {
	defer guard(x.in.name(), &err)
	cursors := make([]*cursor, len(x.position))
	for i := range cursors {
		cursors[i] = &cursor{pages: x.chunk(g, i).Pages()}
		defer cursors[i].close()
	}
	digests := newStripeHasher(x.in.m)
	for _, s := range stripes {
		first, next := x.rowsOf(g, s)
		if err := x.assemble(cursors, first, next); err != nil {
			return err
		}
		n := 0
		for n < len(rows) && int(rows[n]) < next {
			n++
		}
		wanted := rows[:n]
		rows = rows[n:]
		found, err := x.hashed(g, digests, first, wanted)
		if err != nil {
			return err
		}
		if [digestBytes]byte(digests.sums) != x.stripes[g.stripe+s] {
			return broken(x.in.name(), "rows %d to %d of row group %d are not what they were", first, next, g.n)
		}
		digests.sums = digests.sums[:0]
		for _, f := range found {
			if err := fn(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// assemble fills the batch with a stripe.
func (x *Search) assemble(cursors []*cursor, first, next int) error {
	x.batch.reset()
	for _, c := range cursors {
		if err := c.seek(first); err != nil {
			return broken(x.in.name(), "it cannot be decoded: %v", err)
		}
		if err := c.fill(next - first); err != nil {
			return broken(x.in.name(), "it cannot be decoded: %v", err)
		}
	}
	for i := range next - first {
		for k, c := range cursors {
			x.batch.arena = x.in.m.Columns[k].appendField(x.batch.arena, c.values[i])
		}
		x.batch.ends = append(x.batch.ends, len(x.batch.arena))
	}
	for _, c := range cursors {
		c.release()
	}
	return nil
}

// hashed hashes the rows of the batch, and keeps those that are wanted.
func (x *Search) hashed(g *group, digests *stripeHasher, first int, wanted []int32) (found []Found, err error) {
	start := 0
	for i, end := range x.batch.ends {
		var r Row
		if err := x.hash.cut(x.batch.arena[start:end], &r); err != nil {
			return nil, broken(x.in.name(), "%v", err)
		}
		start = end
		digests.add(&r)
		if len(wanted) > 0 && int(wanted[0]) == first+i {
			found, wanted = append(found, x.found(g, wanted[0], &r)), wanted[1:]
		}
	}
	digests.end()
	return found, nil
}

// seek goes to a row.
func (c *cursor) seek(row int) error {
	c.release()
	if c.page != nil {
		parquet.Release(c.page)
		c.page = nil
	}
	return c.pages.SeekToRow(int64(row))
}

// Each gives all rows that may match to fn, in no order, in constant memory.
func (x *Search) Each(ctx context.Context, fn func(Found) error) error {
	if err := x.narrow(ctx); err != nil {
		return err
	}
	for _, g := range x.groups {
		rows, err := x.match(ctx, g)
		if err != nil {
			return err
		}
		for some := range slices.Chunk(rows, maxAtOnce) {
			err := x.rows(ctx, g, some, func(f Found) error {
				if !x.want(f.Key) {
					return nil
				}
				return fn(f)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// maxAtOnce is how many rows are held at a time.
const maxAtOnce = 4096
