package ingest

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// leaf is a partition that takes rows, with its range in microseconds since 2000-01-01.
type leaf struct {
	leafState
	ident    string // quoted, with its schema
	from, to int64  // half open
	ref      integrity.PartitionRef
}

// catalog is the partitions of the table at one moment, in the order of their ranges.
type catalog struct{ leaves []*leaf }

// find returns the partition for a time, nil when none takes it.
func (c *catalog) find(micros int64) *leaf {
	i := sort.Search(len(c.leaves), func(i int) bool { return c.leaves[i].to > micros })
	if i == len(c.leaves) || c.leaves[i].from > micros {
		return nil
	}
	return c.leaves[i]
}

func boundMicros(t time.Time, open bool, infinite int64) int64 {
	if open {
		return infinite
	}
	return audit.TimestampMicros(t)
}

// reload reads the catalog anew; every row routed from now on goes by it.
func (r *run) reload(ctx context.Context) error {
	r.loading.Lock()
	defer r.loading.Unlock()
	states, err := leafStates(ctx, r.db.Pool(), r.opts.Table.OID, nil)
	if err != nil {
		return err
	}
	c := &catalog{leaves: make([]*leaf, 0, len(states))}
	for _, s := range states {
		l, err := newLeaf(s, r.opts.Table.Key.Kind)
		if err != nil {
			return err
		}
		if l != nil {
			c.leaves = append(c.leaves, l)
		}
	}
	c.sort()
	r.catalog.Store(c)
	return nil
}

// newLeaf returns a partition that rows may be copied into; nil for the default partition, which the log does not cover, for foreign
// tables and partitions that have partitions themselves, and for one that is being detached.
func newLeaf(s leafState, kind partitions.KeyKind) (*leaf, error) {
	if s.pending || s.kind != "r" {
		return nil, nil //nolint:nilnil // no leaf is no error
	}
	b, isDefault, err := partitions.ParseBounds(s.bound, kind)
	if err != nil || isDefault {
		return nil, err
	}
	return &leaf{
		leafState: s, ident: pgx.Identifier{s.schema, s.name}.Sanitize(),
		from: boundMicros(b.From, b.FromMin, math.MinInt64), to: boundMicros(b.To, b.ToMax, math.MaxInt64),
		ref: integrity.PartitionRef{Name: s.name, Range: integrity.Range{From: b.From, To: b.To, FromMin: b.FromMin, ToMax: b.ToMax}},
	}, nil
}

// seal routes a batch by the present catalog, makes partitions where that is wanted, and computes what the log needs of it.
func (r *run) seal(ctx context.Context, h *audit.Hasher, b *batch) error {
	recorded := audit.TimestampMicros(r.opts.Now())
	if err := b.seal(h, r.catalog.Load().find, recorded); err != nil {
		return err
	}
	if len(b.outside) > 0 && !r.opts.DryRun { // there may be a partition by now
		if err := postgres.Retry(ctx, r.retry(), r.reload); err != nil {
			return err
		}
		if err := b.seal(h, r.catalog.Load().find, recorded); err != nil {
			return err
		}
	}
	if len(b.outside) > 0 && r.opts.Creator != nil {
		b.whyNot = r.opts.Creator.WhyNot
		if err := r.makeRoom(ctx, b); err != nil {
			return err
		}
		if err := b.seal(h, r.catalog.Load().find, recorded); err != nil {
			return err
		}
	}
	b.entries = b.entries[:0]
	if r.opts.Log == nil || r.opts.DryRun {
		return nil
	}
	for _, s := range b.shares {
		leaves := b.leaves[s.first*audit.HashSize : (s.first+s.n)*audit.HashSize]
		e, err := integrity.NewBatch(r.table, s.leaf.ref, b.block, audit.IDRange(b.id(s.first), s.n), leaves)
		if err != nil {
			return fmt.Errorf("make the batch's record: %w", err)
		}
		b.entries = append(b.entries, e)
	}
	return nil
}

// maxCreateAhead is how far ahead a row may lie for a partition to be made for it: a wrong clock must not make years of them.
const maxCreateAhead = 48 * time.Hour

// makeRoom makes the partitions that rows of the batch lack: the table's whole intervals, as far as they are free.
func (r *run) makeRoom(ctx context.Context, b *batch) error {
	r.creating.Lock()
	defer r.creating.Unlock()
	ranges := r.lacking(b)
	if len(ranges) == 0 {
		return nil
	}
	var made []partitions.Partition
	err := postgres.Retry(ctx, r.retry(), func(ctx context.Context) error { // what is there already is not made again
		_, created, err := r.opts.Creator.Ensure(ctx, r.opts.Table, ranges)
		made = append(made, created...)
		return err
	})
	r.mu.Lock()
	for _, p := range made {
		r.report.Created = append(r.report.Created, NewPartition{Name: p.Name, From: p.From, To: p.To})
	}
	r.mu.Unlock()
	if err != nil {
		return fmt.Errorf("create partitions: %w", err)
	}
	if r.opts.DryRun {
		r.pretend(made)
		return nil
	}
	return postgres.Retry(ctx, r.retry(), r.reload)
}

// lacking returns the intervals of the rows that were routed nowhere, and would be now: another job may have made room for them.
func (r *run) lacking(b *batch) []partitions.Bounds {
	var ranges []partitions.Bounds
	latest := r.opts.Now().Add(maxCreateAhead)
	for _, i := range b.outside { // in the order of time
		at := audit.MicrosTime(b.rows[i].micros)
		if at.After(latest) {
			break
		}
		if n := len(ranges); n > 0 && at.Before(ranges[n-1].To) {
			continue
		}
		if r.catalog.Load().find(b.rows[i].micros) == nil {
			ranges = append(ranges, r.opts.Table.IntervalOf(at))
		}
	}
	return ranges
}

// pretend adds to the catalog what a real run would make.
func (r *run) pretend(made []partitions.Partition) {
	next := &catalog{leaves: slices.Clone(r.catalog.Load().leaves)}
	for _, p := range made {
		next.leaves = append(next.leaves, &leaf{from: boundMicros(p.From, p.FromMin, math.MinInt64), to: boundMicros(p.To, p.ToMax, math.MaxInt64)})
	}
	next.sort()
	r.catalog.Store(next)
}

func (c *catalog) sort() {
	slices.SortFunc(c.leaves, func(a, b *leaf) int { return cmp.Compare(a.from, b.from) })
}
