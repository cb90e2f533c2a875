package query

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
	"auditdb/pkg/cache"
	"auditdb/pkg/partitions"
)

// CacheOptions say how answers are cached.
type CacheOptions struct {
	Cache *cache.Cache  // nil: not at all; it is never asked whether values are still right, that is in keys and values
	TTL   time.Duration // of partitions that rows still come to; bounds size, not correctness
	PHI   bool          // rows of health data too
	Fresh bool          // read everything anew, and store it
}

// job is what is asked of each partition.
type job struct {
	kind      string // the namespace of its fragments
	what      string // tells it from other jobs with the same filters
	columns   int    // of the statement
	statement func(partitions.Bounds) *statement
	phi       int // the column with the classification; -1: there is none that matters
}

// part is one segment's share while it is worked out.
type part struct {
	segment
	key      *cache.Key // nil: not to be cached
	note     string
	source   Source
	fragment *fragment
	scans    []Scan
}

// cached says whether answers of the table may be cached at all: where its changes are in the log.
func (e *Engine) cached(p *prepared, rows int) bool {
	t := p.req.Table
	return e.o.Cache.Cache != nil && p.req.Archives == NoArchives && t.ManagedID != nil && t.Integrity && t.Key.Kind == partitions.KeyTimestamptz && rows <= maxFragment
}

// fragments answers j for each segment of a chunk: from the cache where that is known to have all that was committed before now, else from
// the server, all in one snapshot that agrees with what came from the cache.
func (e *Engine) fragments(ctx context.Context, p *prepared, j job, chunk []segment) ([]part, error) {
	parts, again, err := e.fragmentsOnce(ctx, p, j, chunk, true)
	if again {
		parts, _, err = e.fragmentsOnce(ctx, p, j, chunk, false)
	}
	return parts, err
}

// fragmentsOnce is fragments. Where others are reading the same, and patient says so, it waits for them a little: then again is true, and all
// begins anew.
func (e *Engine) fragmentsOnce(ctx context.Context, p *prepared, j job, chunk []segment, patient bool) (parts []part, again bool, err error) {
	parts = make([]part, len(chunk))
	for i, s := range chunk {
		parts[i].segment = s
	}
	st, err := readState(ctx, e.o.DB.Pool(), p.req.Table, chunk)
	if postgres.SQLState(err) == postgres.InsufficientPrivilege { // of the log; rows may be readable all the same
		return parts, false, e.uncached(ctx, p, j, parts)
	}
	if err != nil {
		return nil, false, err
	}
	p.answer.CacheScope = CacheScope(st.system, st.database, p.req.Table.OID)
	e.lookUp(ctx, p, j, st, parts)
	if !slices.ContainsFunc(parts, func(x part) bool { return x.fragment == nil }) {
		e.tell(p, parts)
		return parts, false, nil
	}
	// The order counts: the sequence (in st), then who is writing, then the snapshot.
	writing, position, kept := true, "", false
	if first := slices.IndexFunc(parts, func(x part) bool { return x.fragment == nil && x.key != nil }); first >= 0 {
		if writing, position, err = e.writing(ctx, p.req.Table, chunk); err != nil {
			return nil, false, err
		}
		if patient && !writing && !e.o.Cache.Fresh {
			done, waited := e.o.Cache.Cache.Namespace(j.kind).Claim(ctx, *parts[first].key)
			if waited {
				return nil, true, nil
			}
			defer func() { done(kept) }()
		}
	}
	var missed []int
	err = e.readAfter(ctx, position, func(tx pgx.Tx, from Source, whole bool) error {
		now, err := readState(ctx, tx, p.req.Table, chunk)
		if err != nil {
			return err
		}
		if from == SourceReplica { // which has what the primary had when its sequence and writers were looked at, and its own partitions and log
			redaction := now.redaction
			now.server = st.server
			now.redaction = redaction
		}
		for _, i := range missed { // by a server that went away
			parts[i].fragment = nil
		}
		missed = missed[:0]
		for i := range parts {
			x := &parts[i]
			asked, key := x.key, e.key(p, j, now, i, x)
			if from == SourceReplica && key != nil && (!whole || asked == nil || *asked != *key) {
				key, x.note = nil, "the replica is not where the primary was"
			}
			if x.fragment != nil && (from == SourceReplica || key != nil && *asked == *key && now.last == st.last) {
				continue
			}
			x.key = key
			missed = append(missed, i)
			if err := e.readFragment(ctx, tx, from, p, j, x, st.last); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	var keep []cache.Item
	for _, i := range missed {
		if item, ok := e.keep(&parts[i], writing); ok {
			keep = append(keep, item)
		}
	}
	e.o.Cache.Cache.Namespace(j.kind).Put(ctx, keep...)
	kept = len(keep) > 0
	e.tell(p, parts)
	return parts, false, nil
}

// uncached reads all of the chunk from the server.
func (e *Engine) uncached(ctx context.Context, p *prepared, j job, parts []part) error {
	err := e.read(ctx, func(tx pgx.Tx, from Source) error {
		for i := range parts {
			parts[i].note = "the integrity log may not be read"
			if err := e.readFragment(ctx, tx, from, p, j, &parts[i], 0); err != nil {
				return err
			}
		}
		return nil
	})
	e.tell(p, parts)
	return err
}

// lookUp fills in what the cache has.
func (e *Engine) lookUp(ctx context.Context, p *prepared, j job, st *state, parts []part) {
	var keys []cache.Key
	var of []int
	for i := range parts {
		if parts[i].key = e.key(p, j, st, i, &parts[i]); parts[i].key != nil {
			keys, of = append(keys, *parts[i].key), append(of, i)
		}
	}
	if len(keys) == 0 || e.o.Cache.Fresh {
		return
	}
	now := p.req.Table.KeyTime(e.o.Now())
	for n, found := range e.o.Cache.Cache.Namespace(j.kind).GetMany(ctx, keys) {
		if found.Level == cache.Missing {
			continue
		}
		x := &parts[of[n]]
		f, ok := decode(found.Value, j.columns)
		switch {
		case !ok || f.sequence > st.last:
		case f.sequence == st.last, x.closed(now) && !e.newer(ctx, p.req.Table, x.segment, f.sequence, st.last):
			x.fragment, x.source, x.note = f, Source(found.Level.String()), "hit"
		}
	}
}

// key is under which the fragment is kept; it is nil, and x says why, where it is not.
func (e *Engine) key(p *prepared, j job, st *state, i int, x *part) *cache.Key {
	if x.note = st.why(p.req.Table, i, x.segment); x.note != "" {
		return nil
	}
	k := e.o.Cache.Cache.Namespace(j.kind).Key(CacheScope(st.system, st.database, p.req.Table.OID), st.dependsOn(p, j.what, i, x.segment)...)
	return &k
}

// readFragment reads a segment from the server.
func (e *Engine) readFragment(ctx context.Context, tx pgx.Tx, from Source, p *prepared, j job, x *part, sequence int64) error {
	x.source, x.fragment = from, &fragment{sequence: sequence}
	s := j.statement(x.Bounds)
	err := each(ctx, tx, s, func(values [][]byte) error {
		r := newRow(p.layout, values)
		x.fragment.rows = append(x.fragment.rows, r.values)
		if len(x.fragment.rows) > MaxGroups {
			return errTooManyGroups()
		}
		x.fragment.phi = x.fragment.phi || j.phi >= 0 && strings.EqualFold(string(r.values[j.phi]), "PHI")
		return nil
	})
	if err == nil && p.req.Explain {
		x.scans, err = scans(ctx, tx, s)
	}
	return err
}

// keep makes an item of a fragment that was read, where it can be told later whether it is still all.
func (e *Engine) keep(x *part, writing bool) (item cache.Item, ok bool) {
	switch {
	case x.key == nil:
		x.note = "not cached: " + x.note
		return item, false
	case writing:
		x.note = "not stored: another transaction is writing"
		return item, false
	case len(x.fragment.rows) > maxFragment:
		x.note = "not stored: too many rows"
		return item, false
	case x.fragment.phi && !e.o.Cache.PHI:
		x.note = "not stored: health data"
		return item, false
	}
	ttl := e.o.Cache.TTL
	if x.closed(e.o.Now()) {
		ttl = cache.LongestTTL(ttl)
	}
	x.note = "stored"
	return cache.Item{Key: *x.key, Value: x.fragment.encode(), TTL: ttl}, true
}

// tell counts the sources, and explains them where that was asked for.
func (e *Engine) tell(p *prepared, parts []part) {
	for _, x := range parts {
		p.answer.Sources[x.source]++
		if p.req.Explain {
			d := describe(x.segment, x.source, len(x.fragment.rows))
			d.Cache = x.note
			if x.scans != nil {
				d.Scans = x.scans
			}
			p.answer.Explain = append(p.answer.Explain, d)
		}
	}
	e.o.Log.Debug("fragments", slog.Int("partitions", len(parts)), slog.String("sources", p.answer.Sources.String()))
}

// cachedRows reads a page by fragments. Each has as many rows as a page can need, whatever newer partitions contribute, so that it serves
// again when those have changed.
func (e *Engine) cachedRows(ctx context.Context, p *prepared, limit int) ([]Row, error) {
	if err := p.load(ctx, e.o.DB.Pool()); err != nil {
		return nil, err
	}
	c := chunks{left: segments(p.catalog, p.walked()), now: p.req.Table.KeyTime(e.o.Now()), most: 64}
	j := job{
		kind: "rows", what: strconv.Itoa(limit), columns: len(p.layout.columns), phi: p.layout.find("data_classification"),
		statement: func(b partitions.Bounds) *statement { return p.rowsStatement(b, limit) },
	}
	rows := []Row{}
	for len(c.left) > 0 && len(rows) < limit {
		parts, err := e.fragments(ctx, p, j, c.next())
		if err != nil {
			return nil, err
		}
		for _, x := range parts {
			for _, values := range x.fragment.rows[:min(len(x.fragment.rows), limit-len(rows))] {
				rows = append(rows, Row{layout: p.layout, values: values})
			}
		}
	}
	return rows, nil
}
