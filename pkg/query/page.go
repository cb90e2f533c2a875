package query

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
)

// MaxPage is how many rows a page may have: it is held in memory. Streams have no limit.
const MaxPage = 10_000

// Page reads one page.
func (e *Engine) Page(ctx context.Context, req Request) (*Page, error) {
	if req.Limit < 1 || req.Limit > MaxPage {
		return nil, fault.New(fault.Usage, "-o ndjson and -o csv stream any number of rows; --after goes on where a page ends", "--limit must be from 1 to %d, not %d", MaxPage, req.Limit)
	}
	p, err := e.prepare(ctx, req)
	if err != nil {
		return nil, err
	}
	page := &Page{Rows: []Row{}}
	if e.cached(p, req.Limit+1) {
		page.Rows, err = e.cachedRows(ctx, p, req.Limit+1)
	} else {
		err = e.read(ctx, func(tx pgx.Tx, from Source) error {
			page.Rows, p.answer = []Row{}, Answer{Sources: Sources{}}
			return e.walk(ctx, tx, from, p, req.Limit+1, func(r [][]byte) error {
				page.Rows = append(page.Rows, newRow(p.layout, r))
				return nil
			})
		})
	}
	if err != nil {
		return nil, e.explain(ctx, p, err)
	}
	if len(page.Rows) > req.Limit {
		page.Rows = page.Rows[:req.Limit]
		page.Next = p.cursorAfter(page.Rows[req.Limit-1])
	}
	page.Answer = p.answer
	return page, nil
}

// Stream hands over rows one by one, newest first, up to Request.Limit, each good until fn returns. next is the cursor where the limit ended it.
func (e *Engine) Stream(ctx context.Context, req Request, fn func(Row) error) (a Answer, next string, err error) {
	p, err := e.prepare(ctx, req)
	if err != nil {
		return Answer{}, "", err
	}
	n := 0
	var stopped error // by the reader: a pipe that was closed must not be taken for a server that went away
	err = e.read(ctx, func(tx pgx.Tx, from Source) error {
		if stopped != nil {
			return errStopped
		}
		if next != "" {
			return nil
		}
		if err := p.inOrder(ctx, tx); err != nil {
			return err
		}
		limit := 0 // of what is left: a replica may have gone away in the middle, and another server goes on from there
		if req.Limit > 0 {
			limit = req.Limit + 1 - n
		}
		return e.walk(ctx, tx, from, p, limit, func(values [][]byte) error {
			row := Row{layout: p.layout, values: values}
			if n++; req.Limit > 0 && n > req.Limit {
				next = p.cursorAt(p.after)
				return nil
			}
			if stopped = fn(row); stopped != nil {
				return errStopped
			}
			p.after = row.position()
			return nil
		})
	})
	if stopped != nil {
		return p.answer, "", stopped
	}
	return p.answer, next, e.explain(ctx, p, err)
}

var errStopped = errors.New("the reader of the stream has stopped")

// Header is the names of the columns that rows of t have.
func (e *Engine) Header(ctx context.Context, req Request) ([]string, error) {
	p, err := e.prepare(ctx, req)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(p.layout.columns))
	for i, c := range p.layout.columns {
		names[i] = c.name
	}
	return names, nil
}

func (p *prepared) cursorAfter(r Row) string { return p.cursorAt(r.position()) }

func (p *prepared) cursorAt(position []string) string {
	return cursor{from: p.req.Window.From, to: p.req.Window.To, at: position}.text(p.digest)
}

// walk reads partitions from the newest to the oldest until it has limit rows; 0 reads all. To explain, each is asked for by itself.
func (e *Engine) walk(ctx context.Context, tx pgx.Tx, from Source, p *prepared, limit int, fn func([][]byte) error) error {
	if p.req.Archives != NoArchives {
		return e.walkArchives(ctx, tx, from, p, limit, fn)
	}
	return e.walkLive(ctx, tx, from, p, p.walked(), limit, fn)
}

// walkLive is walk over what the table itself has within a range.
func (e *Engine) walkLive(ctx context.Context, tx pgx.Tx, from Source, p *prepared, within partitions.Bounds, limit int, fn func([][]byte) error) error {
	if p.direct() {
		p.answer.Sources[from]++
		return each(ctx, tx, p.rowsStatement(within, limit), fn)
	}
	if err := p.load(ctx, tx); err != nil {
		return err
	}
	c := chunks{left: segments(p.catalog, within), now: p.req.Table.KeyTime(e.o.Now())}
	if p.req.Explain || limit == 0 { // a stream of everything visits every partition anyway
		c.most = 1
	}
	for n := 0; len(c.left) > 0 && (limit == 0 || n < limit); {
		chunk := c.next()
		s := p.rowsStatement(span(chunk), max(0, limit-n))
		before := n
		if err := each(ctx, tx, s, func(r [][]byte) error { n++; return fn(r) }); err != nil {
			return err
		}
		p.answer.Sources[from] += len(chunk)
		if p.req.Explain {
			if err := p.explained(ctx, tx, from, chunk[0], s, n-before); err != nil {
				return err
			}
		}
	}
	return nil
}
