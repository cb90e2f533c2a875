package query

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
)

// Group is the rows that have one value in a column.
type Group struct {
	Key   *string `json:"key"` // as the server shows it, times as RFC 3339; null for NULL
	Count int64   `json:"count"`
}

// MaxGroups is how many groups a request may have: they are held in memory.
const MaxGroups = 100_000

// Count counts the rows.
func (e *Engine) Count(ctx context.Context, req Request) (Answer, int64, error) {
	p, err := e.prepare(ctx, req)
	if err != nil {
		return Answer{}, 0, err
	}
	total := int64(0)
	err = e.tally(ctx, p, "count(*)", "", func(r [][]byte) error {
		n, err := strconv.ParseInt(string(r[0]), 10, 64)
		total += n
		return err
	})
	return p.answer, total, e.explain(ctx, p, err)
}

// Groups counts the rows by the values of a column: the Request.Limit largest groups, the largest first, and how many groups there are.
func (e *Engine) Groups(ctx context.Context, req Request, by string) (a Answer, groups []Group, all int, err error) {
	p, err := e.prepare(ctx, req)
	if err != nil {
		return Answer{}, nil, 0, err
	}
	c, err := p.layout.column(by, "--group-by")
	if err != nil {
		return Answer{}, nil, 0, err
	}
	if c.oid == oidJSON || c.oid == oidJSONB {
		return Answer{}, nil, 0, fault.New(fault.Usage, "group by a column with plain values", "--group-by: %s holds documents", by)
	}
	counts := map[string]int64{}
	null := int64(0)
	err = e.tally(ctx, p, c.ident()+", count(*)", " GROUP BY 1", func(r [][]byte) error {
		n, err := strconv.ParseInt(string(r[1]), 10, 64)
		if err != nil {
			return err
		}
		if r[0] == nil {
			null += n
			return nil
		}
		if counts[string(r[0])] += n; len(counts) > MaxGroups {
			return errTooManyGroups()
		}
		return nil
	})
	if err != nil {
		return p.answer, nil, 0, e.explain(ctx, p, err)
	}
	groups = largest(c, counts, null)
	return p.answer, groups[:min(len(groups), req.Limit)], len(groups), nil
}

func errTooManyGroups() error {
	return fault.New(fault.Refused, "narrow it with --from, --to or a filter, or group by another column", "--group-by: there are more than %d groups", MaxGroups)
}

func largest(c column, counts map[string]int64, null int64) []Group {
	groups := make([]Group, 0, len(counts)+1)
	for key, n := range counts {
		if c.oid == oidTimestamptz || c.oid == oidTimestamp {
			key = timeText(key)
		}
		groups = append(groups, Group{Key: &key, Count: n})
	}
	if null > 0 {
		groups = append(groups, Group{Count: null})
	}
	slices.SortFunc(groups, func(a, b Group) int {
		if a.Key == nil || b.Key == nil {
			return cmp.Or(cmp.Compare(b.Count, a.Count), map[bool]int{true: 1, false: -1}[a.Key == nil])
		}
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(*a.Key, *b.Key))
	})
	return groups
}

// tally counts in the whole range: in one statement, which the server can share between workers, or, to explain, partition by partition.
func (e *Engine) tally(ctx context.Context, p *prepared, what, group string, fn func([][]byte) error) error {
	if p.req.After != "" {
		return fault.New(fault.Usage, "", "--after is for pages of rows, not for --count and --group-by")
	}
	if e.cached(p, 0) {
		return e.cachedTally(ctx, p, what, group, fn)
	}
	var found [][][]byte // all of one server: what another one said before it went away does not count
	err := e.read(ctx, func(tx pgx.Tx, from Source) error {
		found, p.answer = nil, Answer{Sources: Sources{}}
		return e.tallyOn(ctx, tx, from, p, what, group, func(r [][]byte) error {
			if found = append(found, newRow(p.layout, r).values); len(found) > MaxGroups {
				return errTooManyGroups()
			}
			return nil
		})
	})
	for i := 0; i < len(found) && err == nil; i++ {
		err = fn(found[i])
	}
	return err
}

func (e *Engine) tallyOn(ctx context.Context, tx pgx.Tx, from Source, p *prepared, what, group string, fn func([][]byte) error) error {
	if p.req.Archives != NoArchives {
		a, err := e.archives(ctx, tx, p, p.window)
		if err != nil {
			return err
		}
		if err := a.tally(ctx, what, group, fn); err != nil || p.req.Archives != WithArchives {
			return err
		}
	}
	if !p.req.Explain {
		p.answer.Sources[from]++
		return each(ctx, tx, p.tallyStatement(what, group, p.window), fn)
	}
	if err := p.load(ctx, tx); err != nil {
		return err
	}
	for _, at := range segments(p.catalog, p.window) {
		s := p.tallyStatement(what, group, at.Bounds)
		rows := 0
		if err := each(ctx, tx, s, func(r [][]byte) error { rows++; return fn(r) }); err != nil {
			return err
		}
		p.answer.Sources[from]++
		if err := p.explained(ctx, tx, from, at, s, rows); err != nil {
			return err
		}
	}
	return nil
}

func (p *prepared) tallyStatement(what, group string, within partitions.Bounds) *statement {
	s := &statement{}
	p.tallyOf(s, what, group, p.layout.table.Ident(), within)
	return s
}

// tallyOf writes a statement that counts rows of something that has the table's columns.
func (p *prepared) tallyOf(s *statement, what, group, source string, within partitions.Bounds) {
	fmt.Fprintf(&s.sql, "SELECT %s FROM %s", what, source)
	p.where(s, within)
	s.sql.WriteString(group)
}

// cachedTally counts partition by partition, in steps that bound what is held in memory.
func (e *Engine) cachedTally(ctx context.Context, p *prepared, what, group string, fn func([][]byte) error) error {
	if err := p.load(ctx, e.o.DB.Pool()); err != nil {
		return err
	}
	j := job{
		kind: "counts", what: what + group, columns: 1 + strings.Count(group, "GROUP BY"), phi: -1,
		statement: func(b partitions.Bounds) *statement { return p.tallyStatement(what, group, b) },
	}
	for chunk := range slices.Chunk(segments(p.catalog, p.window), tallyChunk) {
		parts, err := e.fragments(ctx, p, j, chunk)
		if err != nil {
			return err
		}
		for _, x := range parts {
			for _, r := range x.fragment.rows {
				if err := fn(r); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// tallyChunk is how many partitions are counted in one snapshot.
const tallyChunk = 64
