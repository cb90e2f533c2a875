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
		l, err := newLeaf(s)
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
func newLeaf(s leafState) (*leaf, error) {
	if s.pending || s.kind != "r" {
		return nil, nil //nolint:nilnil // no leaf is no error
	}
	b, isDefault, err := partitions.ParseBounds(s.bound)
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
	if len(b.outside) > 0 && r.opts.CreatePartitions {
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
	var ranges []partitions.Bounds
	latest := r.opts.Now().Add(maxCreateAhead)
	for _, i := range b.outside { // in the order of time
		at := audit.MicrosTime(b.rows[i].micros)
		if at.After(latest) {
			break
		}
		if n := len(ranges); n == 0 || !at.Before(ranges[n-1].To) {
			ranges = append(ranges, r.opts.Table.IntervalOf(at))
		}
	}
	if len(ranges) == 0 {
		return nil
	}
	r.creating.Lock()
	defer r.creating.Unlock()
	if r.opts.DryRun {
		r.pretend(ranges)
		return nil
	}
	var created []partitions.Partition
	err := postgres.Retry(ctx, r.retry(), func(ctx context.Context) (err error) { // what is there already is not made again
		_, created, err = r.opts.Creator.Ensure(ctx, r.opts.Table, ranges)
		return err
	})
	if err != nil {
		return fmt.Errorf("create partitions: %w", err)
	}
	r.mu.Lock()
	for _, p := range created {
		r.report.Created = append(r.report.Created, NewPartition{Name: p.Name, From: p.From, To: p.To})
	}
	r.mu.Unlock()
	return postgres.Retry(ctx, r.retry(), r.reload)
}

// pretend adds to the catalog what a real run would make.
func (r *run) pretend(ranges []partitions.Bounds) {
	now := r.catalog.Load()
	next := &catalog{leaves: slices.Clone(now.leaves)}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range ranges {
		for _, free := range now.free(audit.TimestampMicros(b.From), audit.TimestampMicros(b.To)) {
			l := &leaf{from: free[0], to: free[1]}
			next.leaves = append(next.leaves, l)
			bounds := partitions.Bounds{From: audit.MicrosTime(l.from), To: audit.MicrosTime(l.to)}
			r.report.Created = append(r.report.Created, NewPartition{Name: r.opts.Table.PartitionName(bounds), From: bounds.From, To: bounds.To})
		}
	}
	next.sort()
	r.catalog.Store(next)
}

// free returns what of [from, to) no partition takes.
func (c *catalog) free(from, to int64) [][2]int64 {
	var out [][2]int64
	for _, l := range c.leaves {
		if l.to <= from || l.from >= to {
			continue
		}
		if l.from > from {
			out = append(out, [2]int64{from, l.from})
		}
		from = l.to
	}
	if from < to {
		out = append(out, [2]int64{from, to})
	}
	return out
}

func (c *catalog) sort() {
	slices.SortFunc(c.leaves, func(a, b *leaf) int { return cmp.Compare(a.from, b.from) })
}
