package query

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/archive"
	"auditdb/pkg/partitions"
)

// Archives says whether and how rows of archives come into an answer.
type Archives int

// None of them; those that the table does not have any more, in their place in the order; only those; and rows of all archives alone, also of
// partitions that are there.
const (
	NoArchives Archives = iota
	WithArchives
	OnlyArchives
	AllArchives
)

// ArchiveRead is an archive in the range of a request.
type ArchiveRead struct {
	Partition  string    `json:"partition"`
	Generation int64     `json:"generation"`
	URL        string    `json:"url"`
	ArchivedAt time.Time `json:"archived_at"`
	Searched   bool      `json:"searched"`
	Reason     *string   `json:"reason"` // why it was not
	Rows       int       `json:"rows"`   // that it contributed
	BytesRead  int64     `json:"bytes_read"`
	Requests   int       `json:"requests"`
}

// archived is the work on the archives of one request.
type archived struct {
	e       *Engine
	p       *prepared
	tx      pgx.Tx
	shape   *shape
	sources []archive.Source
}

// archives finds the archives of the request. It has to come first in the transaction.
func (e *Engine) archives(ctx context.Context, tx pgx.Tx, p *prepared, within partitions.Bounds) (*archived, error) {
	t := p.req.Table
	if t.ManagedID == nil || !t.Integrity {
		return nil, fault.New(fault.Usage, "only tables that auditdb manages with integrity on have archives", "query %s: it has no archives", t)
	}
	if l := p.layout; len(l.order) != 2 || l.columns[l.order[1]].name != "id" || l.columns[l.order[1]].oid != oidInt8 {
		return nil, fault.New(fault.Usage, "auditdb retention restore puts rows back", "query %s: archives can be merged where the primary key is the partition key and a bigint called id", t)
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf(stayLockSQL, t.Ident())); err != nil {
		return nil, err
	}
	a := &archived{e: e, p: p, tx: tx}
	var err error
	if a.shape, err = readShape(ctx, tx, t); err != nil {
		return nil, err
	}
	if err := p.load(ctx, tx); err != nil {
		return nil, err
	}
	a.sources, err = e.o.Archives.Sources(ctx, tx, p.catalog, t, within)
	if err != nil {
		return nil, err
	}
	p.answer.Archives = []ArchiveRead{}
	if p.req.Archives != AllArchives {
		a.sources = slices.DeleteFunc(a.sources, func(s archive.Source) bool {
			if s.Live {
				reason := "its rows are in the table"
				r := told(s)
				r.Reason = &reason
				p.answer.Archives = append(p.answer.Archives, r)
			}
			return s.Live
		})
	}
	return a, nil
}

func told(s archive.Source) ArchiveRead {
	return ArchiveRead{Partition: s.Partition, Generation: s.Generation, URL: s.URL, ArchivedAt: s.MadeAt}
}

// zone is a range with archives that overlap each other.
type zone struct {
	partitions.Bounds
	sources []archive.Source
}

// zones puts archives whose ranges overlap together, the newest range first.
func zones(sources []archive.Source) (list []zone) {
	for _, s := range sources {
		if n := len(list) - 1; n >= 0 && list[n].Overlaps(s.Bounds) {
			z := &list[n]
			z.sources = append(z.sources, s)
			z.FromMin = z.FromMin || s.Bounds.FromMin
			if !z.FromMin && s.Bounds.From.Before(z.From) {
				z.From = s.Bounds.From
			}
			if z.ToMax = z.ToMax || s.Bounds.ToMax; !z.ToMax && s.Bounds.To.After(z.To) {
				z.To = s.Bounds.To
			}
			continue
		}
		list = append(list, zone{s.Bounds, []archive.Source{s}})
	}
	return list
}

// errEnough ends a walk whose limit is reached.
var errEnough = fmt.Errorf("enough rows")

// walkArchives is walk, with the rows of archives in their place.
func (e *Engine) walkArchives(ctx context.Context, tx pgx.Tx, from Source, p *prepared, limit int, fn func([][]byte) error) error {
	left := p.walked()
	a, err := e.archives(ctx, tx, p, left)
	if err != nil {
		return err
	}
	n := 0
	emit := func(r [][]byte) error {
		if limit > 0 && n >= limit {
			return errEnough
		}
		n++
		return fn(r)
	}
	live := func(within partitions.Bounds) error {
		if p.req.Archives != WithArchives || within.Empty() || limit > 0 && n >= limit {
			return nil
		}
		return e.walkLive(ctx, tx, from, p, within, max(0, limit-n), emit)
	}
	for _, z := range zones(a.sources) {
		if !z.ToMax {
			above := partitions.Bounds{From: z.To, To: left.To, ToMax: left.ToMax}
			if err := live(clip(above, left)); err != nil {
				return err
			}
		}
		if limit > 0 && n >= limit {
			return nil
		}
		z.Bounds = clip(z.Bounds, left)
		if err := a.merge(ctx, from, z, limit-n, emit); err != nil && err != errEnough { //nolint:errorlint // it is never wrapped
			return err
		}
		left.To, left.ToMax = z.From, false
		if z.FromMin {
			return nil
		}
	}
	return live(left)
}

// rowStream gives rows newest first.
type rowStream interface {
	// head is the next row, nil at the end; advance goes on to the one after it.
	head(ctx context.Context) (*placed, error)
	advance()
}

// placed is a row with its place in the order.
type placed struct {
	values [][]byte
	at     archive.Position
}

// merge hands over the rows of a zone: those of its archives and those that the table has there as well, which came after the archives were made.
func (a *archived) merge(ctx context.Context, from Source, z zone, limit int, emit func([][]byte) error) (err error) {
	if limit <= 0 {
		limit = 0
	}
	var streams []rowStream
	for _, s := range z.sources {
		r, err := a.open(ctx, s, z.Bounds, limit)
		if err != nil {
			return err
		}
		defer r.tell()
		streams = append(streams, r)
	}
	if a.p.req.Archives == WithArchives && (len(a.p.catalog.Overlaps(z.Bounds)) > 0 || a.p.catalog.Default() != nil) {
		streams = append(streams, newLiveRows(a, from, z.Bounds))
	}
	for {
		var first rowStream
		var row *placed
		for _, s := range streams {
			r, err := s.head(ctx)
			if err != nil {
				return err
			}
			if r != nil && (row == nil || r.at.Before(row.at)) {
				first, row = s, r
			}
		}
		if row == nil {
			return nil
		}
		if err := emit(row.values); err != nil {
			return err
		}
		first.advance()
	}
}
