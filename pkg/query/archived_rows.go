package query

import (
	"context"
	"math"
	"strconv"

	"auditdb/internal/fault"
	"auditdb/pkg/archive"
	"auditdb/pkg/partitions"
)

const (
	mostArchived   = 4096    // rows that an archive is asked for at a time
	mostGivenBytes = 8 << 20 // of rows that are given to the server in one statement, about
	leastArchived  = 64
)

// archiveRows are the rows of an archive that match, newest first.
type archiveRows struct {
	a      *archived
	source archive.Source
	search *archive.Search
	within partitions.Bounds
	places []int
	after  *archive.Position
	ask    int
	rows   []placed
	ended  bool
	out    int // rows that were taken
}

// open begins to read an archive.
func (a *archived) open(ctx context.Context, s archive.Source, within partitions.Bounds, limit int) (*archiveRows, error) {
	r := &archiveRows{a: a, source: s, within: clip(s.Bounds, within), ask: mostArchived}
	if limit > 0 {
		r.ask = min(max(limit, leastArchived), mostArchived)
	}
	if at, ok := a.p.position(a.p.after); ok {
		r.after = &at
	}
	var err error
	if r.search, err = a.e.o.Archives.Search(ctx, s, a.condition(r.within)); err != nil {
		return nil, err
	}
	r.places, err = a.shape.from(r.search.Manifest())
	return r, err
}

// condition is what an archive itself can leave out rows by. The server looks at the rest.
func (a *archived) condition(within partitions.Bounds) archive.Condition {
	var c archive.Condition
	if !within.FromMin {
		c.From = &within.From
	}
	if !within.ToMax {
		c.To = &within.To
	}
	for _, f := range a.p.req.Filters {
		for _, column := range a.shape.columns {
			if column.name == f.Column && (column.typ == "text" || column.typ == "varchar") && column.deterministic {
				c.Equal = append(c.Equal, archive.Equal{Column: f.Column, Value: f.Value})
			}
		}
	}
	return c
}

func (r *archiveRows) head(ctx context.Context) (*placed, error) {
	for len(r.rows) == 0 && !r.ended {
		found, more, err := r.search.Newest(ctx, r.after, r.ask)
		if err != nil {
			return nil, err
		}
		r.ended = !more
		if len(found) == 0 {
			break
		}
		r.after = &found[len(found)-1].Position
		r.ask = min(2*r.ask, mostArchived)
		if err := r.show(ctx, found); err != nil {
			return nil, err
		}
	}
	if len(r.rows) == 0 {
		return nil, nil //nolint:nilnil // the end
	}
	return &r.rows[0], nil
}

func (r *archiveRows) advance() {
	r.rows = r.rows[1:]
	r.out++
}

// show has the server filter and write rows.
func (r *archiveRows) show(ctx context.Context, found []archive.Found) error {
	at := make(map[string]archive.Position, len(found))
	for _, f := range found {
		at[strconv.FormatInt(f.ID, 10)] = f.Position
	}
	id := r.a.p.layout.order[1]
	return r.a.give(ctx, found, r.places, func(s *statement) {
		r.a.p.rowsOf(s, given(s, r.a.p.req.Table), r.within, 0)
	}, func(values [][]byte) error {
		row := newRow(r.a.p.layout, values)
		r.rows = append(r.rows, placed{row.values, at[string(row.values[id])]})
		return nil
	})
}

// give runs a statement over rows of an archive, without what was erased of them since, in steps that bound what the server is sent at once.
func (a *archived) give(ctx context.Context, found []archive.Found, places []int, write func(*statement), fn func([][]byte) error) error {
	ids := make([]int64, len(found))
	for i, f := range found {
		ids[i] = f.ID
	}
	erased, err := archive.Redacted(ctx, a.tx, *a.p.req.Table.ManagedID, ids)
	if err != nil {
		return err
	}
	for len(found) > 0 {
		var rows [][][]byte
		size := 0
		for len(rows) < len(found) && size < mostGivenBytes {
			values := found[len(rows)].Values(erased[found[len(rows)].ID])
			for _, v := range values {
				size += len(v)
			}
			rows = append(rows, values)
		}
		found = found[len(rows):]
		s := &statement{}
		write(s)
		if err := a.shape.eachOf(ctx, a.tx, s, a.shape.array(rows, places), fn); err != nil {
			return err
		}
	}
	return nil
}

// tell says what the archive contributed.
func (r *archiveRows) tell() { r.a.tell(r.source, r.search, r.within, r.out) }

func (a *archived) tell(source archive.Source, search *archive.Search, within partitions.Bounds, rows int) {
	one := told(source)
	cost := search.Cost()
	one.Searched, one.Rows, one.BytesRead, one.Requests = true, rows, cost.Bytes, cost.Requests
	a.p.answer.Archives = append(a.p.answer.Archives, one)
	a.p.answer.Sources[SourceArchive]++
	if a.p.req.Explain {
		x := Explained{Partition: source.Partition, Source: SourceArchive, Rows: rows, Scans: []Scan{}, Archive: &one}
		if !within.FromMin {
			x.From = &within.From
		}
		if !within.ToMax {
			x.To = &within.To
		}
		a.p.answer.Explain = append(a.p.answer.Explain, x)
	}
}

// liveRows are the rows of the table within a range, read in pages so that the connection is free in between.
type liveRows struct {
	a      *archived
	from   Source
	within partitions.Bounds
	p      prepared // with its own place in the order
	rows   []placed
	ended  bool
}

func newLiveRows(a *archived, from Source, within partitions.Bounds) *liveRows {
	return &liveRows{a: a, from: from, within: within, p: *a.p}
}

const livePage = 1000

func (l *liveRows) head(ctx context.Context) (*placed, error) {
	if len(l.rows) == 0 && !l.ended {
		var last Row
		err := each(ctx, l.a.tx, l.p.rowsStatement(l.within, livePage), func(values [][]byte) error {
			last = newRow(l.p.layout, values)
			at, ok := l.p.position(last.position())
			if !ok {
				return fault.New(fault.Data, "ask without --archives", "query %s: a key that is no time cannot be merged with archives", l.p.req.Table)
			}
			l.rows = append(l.rows, placed{last.values, at})
			return nil
		})
		if err != nil {
			return nil, err
		}
		l.a.p.answer.Sources[l.from]++
		if l.ended = len(l.rows) < livePage; len(l.rows) > 0 {
			l.p.after = last.position()
		}
	}
	if len(l.rows) == 0 {
		return nil, nil //nolint:nilnil // the end
	}
	return &l.rows[0], nil
}

func (l *liveRows) advance() { l.rows = l.rows[1:] }

// position reads the place of a row: the texts of its key and of its id.
func (p *prepared) position(at []string) (archive.Position, bool) {
	if len(at) != 2 {
		return archive.Position{}, false
	}
	id, err := strconv.ParseInt(at[1], 10, 64)
	if err != nil {
		return archive.Position{}, false
	}
	switch at[0] {
	case "infinity":
		return archive.Position{Key: math.MaxInt64, ID: id}, true
	case "-infinity":
		return archive.Position{Key: math.MinInt64, ID: id}, true
	}
	t, ok := keyTime(p.req.Table.Key.Kind, at[0])
	return archive.Position{Key: archive.KeyAt(t, p.req.Table.Key.Kind == partitions.KeyDate), ID: id}, ok
}

// tally counts rows of the archives; fn gets what all of them together come to.
func (a *archived) tally(ctx context.Context, what, group string, fn func([][]byte) error) error {
	counts, null, plain := map[string]int64{}, int64(0), int64(0)
	add := func(r [][]byte) error {
		n, err := strconv.ParseInt(string(r[len(r)-1]), 10, 64)
		switch {
		case len(r) == 1:
			plain += n
		case r[0] == nil:
			null += n
		default:
			if counts[string(r[0])] += n; len(counts) > MaxGroups {
				return errTooManyGroups()
			}
		}
		return err
	}
	for _, s := range a.sources {
		if err := a.tallyOne(ctx, s, what, group, add); err != nil {
			return err
		}
	}
	number := func(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
	if group == "" {
		return fn([][]byte{number(plain)})
	}
	for key, n := range counts {
		if err := fn([][]byte{[]byte(key), number(n)}); err != nil {
			return err
		}
	}
	if null > 0 {
		return fn([][]byte{nil, number(null)})
	}
	return nil
}

func (a *archived) tallyOne(ctx context.Context, s archive.Source, what, group string, add func([][]byte) error) error {
	within := clip(s.Bounds, a.p.window)
	search, err := a.e.o.Archives.Search(ctx, s, a.condition(within))
	if err != nil {
		return err
	}
	places, err := a.shape.from(search.Manifest())
	if err != nil {
		return err
	}
	rows := 0
	var held []archive.Found
	flush := func() error {
		rows += len(held)
		err := a.give(ctx, held, places, func(s *statement) { a.p.tallyOf(s, what, group, given(s, a.p.req.Table), within) }, add)
		held = held[:0]
		return err
	}
	err = search.Each(ctx, func(f archive.Found) error {
		if held = append(held, f); len(held) < mostArchived {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	a.tell(s, search, within, rows)
	return err
}
