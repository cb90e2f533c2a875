package archive

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// Source is an archive with what it takes to search it.
type Source struct {
	Entry
	Bounds partitions.Bounds
	// Live says that the rows are in the table as well, or in it again: it is not searched.
	Live bool

	logged *integrity.Archive
}

// Sources are the archives of t within a range, the newest first: of each partition those that hold its rows, or would if it were not there. Which
// rows are where follows from the log: those of an archive are in the table until a prune record says that they went, and again from the record on that says
// that they were restored.
func (a *Archiver) Sources(ctx context.Context, q partitions.Querier, c *partitions.Catalog, t partitions.Table, within partitions.Bounds) ([]Source, error) {
	if t.ManagedID == nil {
		return nil, nil
	}
	list, err := List(ctx, q, t.ManagedID)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	history, err := integrity.ArchiveHistory(ctx, q, a.Verify.Keys, *t.ManagedID)
	if err != nil {
		return nil, err
	}
	sources := current(list, history, func(b partitions.Bounds) bool {
		return slices.ContainsFunc(c.Overlaps(b), func(p partitions.Partition) bool { return p.State == partitions.Attached })
	})
	sources = slices.DeleteFunc(sources, func(s Source) bool {
		empty := s.Rows == 0 && s.Compare(s.logged) == nil
		return empty || !s.Bounds.Overlaps(within)
	})
	slices.SortFunc(sources, func(a, b Source) int {
		switch {
		case a.Bounds.FromMin || b.Bounds.FromMin:
			return map[bool]int{true: 1}[a.Bounds.FromMin] - map[bool]int{true: 1}[b.Bounds.FromMin]
		case !a.Bounds.From.Equal(b.Bounds.From):
			return b.Bounds.From.Compare(a.Bounds.From)
		}
		return int(b.Generation - a.Generation)
	})
	return sources, nil
}

// ranged is what the log has said so far of the archives of one range.
type ranged struct {
	bounds  partitions.Bounds
	here    string   // the newest archive of the rows that the partition has; "": none
	gone    []string // those of rows that were pruned
	cleared bool     // another range that overlaps was pruned since: what is here may have gone with it
}

// current follows the log through the archives. attached says whether the table has a partition within a range.
func current(list []Entry, history []integrity.Record, attached func(partitions.Bounds) bool) (sources []Source) {
	logged := map[string]*integrity.Archive{}
	var ranges []*ranged
	at := func(p integrity.PartitionRef) *ranged {
		b := boundsOf(p.Range)
		for _, r := range ranges {
			if r.bounds.Equal(b) {
				return r
			}
		}
		ranges = append(ranges, &ranged{bounds: b})
		return ranges[len(ranges)-1]
	}
	for _, record := range history {
		switch body := record.Body.(type) {
		case *integrity.Archive:
			r := at(body.Partition)
			logged[body.URL], r.here, r.cleared = body, body.URL, false
			r.gone = slices.DeleteFunc(r.gone, func(url string) bool { return url == body.URL })
		case *integrity.Prune:
			r := at(body.Partition)
			for _, other := range ranges {
				other.cleared = other.cleared || other != r && other.bounds.Overlaps(r.bounds)
			}
			if r.here != "" {
				r.gone, r.here = append(r.gone, r.here), ""
			}
		case *integrity.Restore:
			r := at(body.Partition)
			for _, url := range r.gone {
				if body.OID == 0 && logged[url].Generation == body.Generation {
					r.here, r.cleared = url, false
				}
			}
			r.gone = slices.DeleteFunc(r.gone, func(url string) bool { return url == r.here })
		}
	}
	for _, r := range ranges {
		for _, e := range list {
			s := Source{Entry: e, Bounds: e.bounds(), logged: logged[e.URL]}
			switch {
			case slices.Contains(r.gone, e.URL):
				sources = append(sources, s)
			case e.URL == r.here && !r.cleared:
				s.Live = attached(r.bounds)
				sources = append(sources, s)
			}
		}
	}
	return append(sources, unlogged(list, logged)...)
}

// unlogged are archives of which the log knows nothing, which Search refuses.
func unlogged(list []Entry, logged map[string]*integrity.Archive) (sources []Source) {
	for _, e := range list {
		if logged[e.URL] == nil {
			sources = append(sources, Source{Entry: e, Bounds: e.bounds()})
		}
	}
	return sources
}

// Search begins to look for rows in an archive, whose manifest is read and checked: a key has to be there for it.
func (a *Archiver) Search(ctx context.Context, s Source, cond Condition) (*Search, error) {
	keys := a.publics()
	if len(keys) == 0 {
		return nil, fault.New(fault.Config, "set integrity.public_key_file or integrity.key_file", "archive %s cannot be searched: there is no key to check its manifest with", s.URL)
	}
	if err := s.Compare(s.logged); err != nil {
		return nil, err
	}
	m, key, err := a.Store.Manifest(ctx, s.Entry, keys)
	if err != nil {
		return nil, err
	}
	return a.Store.Search(ctx, m, key, cond)
}

// Manifest is what the archive says of itself.
func (x *Search) Manifest() *Manifest { return x.in.m }

// Redacted are those of some rows that have been erased.
func Redacted(ctx context.Context, q partitions.Querier, table int16, ids []int64) (map[int64]bool, error) {
	return erased(ctx, q, redactedOfSQL, table, ids)
}

// erased are the rows that a query names.
func erased(ctx context.Context, q partitions.Querier, sql string, args ...any) (map[int64]bool, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("look for erased rows: %w", err)
	}
	set := map[int64]bool{}
	var id int64
	if _, err = pgx.ForEachRow(rows, []any{&id}, func() error { set[id] = true; return nil }); err != nil {
		return nil, fmt.Errorf("look for erased rows: %w", err)
	}
	return set, nil
}
