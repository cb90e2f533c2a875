package archive

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	rangeGap    = 1 << 10 // what lies between two parts that are wanted is read along with them up to this size
	rangeAtOnce = 4       // reads that wait for the store at the same time
)

// Cost is what a search has read of the store.
type Cost struct {
	Bytes    int64 `json:"bytes"`
	Requests int   `json:"requests"`
}

// ranges reads parts of an object and serves them to the decoder.
type ranges struct {
	store   *Store
	key     string
	m       *Manifest
	digests [][digestBytes]byte // of the regions
	cost    Cost
	held    []piece // in their order
}

// piece is a part of an object in memory.
type piece struct {
	at int64
	b  []byte
}

func (p piece) end() int64 { return p.at + int64(len(p.b)) }

func (x *ranges) name() string { return x.store.url(x.key) }

// covered are the bytes from off on that a piece holds.
func (x *ranges) covered(off int64) []byte {
	i, found := slices.BinarySearchFunc(x.held, off, func(p piece, off int64) int { return cmp.Compare(p.at, off) })
	if !found {
		i--
	}
	if i < 0 || off >= x.held[i].end() {
		return nil
	}
	return x.held[i].b[off-x.held[i].at:]
}

// ReadAt serves what has been read before.
func (x *ranges) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		b := x.covered(off + int64(n))
		if b == nil {
			return n, io.EOF
		}
		n += copy(p[n:], b)
	}
	return n, nil
}

// fetch reads parts that are not in memory yet, neighbours together.
func (x *ranges) fetch(ctx context.Context, spans []span) error {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var reads []span
	for _, s := range spans {
		switch last := len(reads) - 1; {
		case s.from < 0 || s.to > x.m.Bytes || s.to < s.from:
			return broken(x.name(), "a part of it lies where it cannot")
		case int64(len(x.covered(s.from))) >= s.to-s.from:
		case last >= 0 && s.from <= reads[last].to+rangeGap:
			reads[last].to = max(reads[last].to, s.to)
		default:
			reads = append(reads, s)
		}
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(rangeAtOnce)
	for _, s := range reads {
		g.Go(func() error {
			b, err := x.read(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			x.held = append(x.held, piece{s.from, b})
			x.cost.Bytes, x.cost.Requests = x.cost.Bytes+int64(len(b)), x.cost.Requests+1
			return err
		})
	}
	err := g.Wait()
	slices.SortFunc(x.held, func(a, b piece) int { return cmp.Compare(a.at, b.at) })
	return err
}

func (x *ranges) read(ctx context.Context, s span) ([]byte, error) {
	in, err := x.store.open(ctx, x.key, s.from, s.to-s.from)
	if err != nil {
		return nil, storeError(err, "read", x.name())
	}
	defer func() { _ = in.Close() }() // nothing was written
	b := make([]byte, s.to-s.from)
	if n, err := io.ReadFull(in, b); err != nil {
		return b[:n], storeError(fmt.Errorf("%d bytes at %d: %w", len(b), s.from, err), "read", x.name())
	}
	return b, nil
}

// whole is fetch for parts that begin and end with regions, and compares these with their digests.
func (x *ranges) whole(ctx context.Context, spans ...span) error {
	if err := x.fetch(ctx, spans); err != nil {
		return err
	}
	for _, s := range spans {
		if err := x.verify(s); err != nil {
			return err
		}
	}
	return nil
}

func (x *ranges) verify(s span) error {
	ends := x.m.Regions.Ends
	i, begins := slices.BinarySearch(ends, s.from)
	if begins {
		i++
	} else if s.from != 0 {
		return broken(x.name(), "a part of it lies where it cannot")
	}
	for at := s.from; at < s.to; i++ {
		if i >= len(ends) || ends[i] > s.to {
			return broken(x.name(), "a part of it ends where it cannot")
		}
		b := make([]byte, ends[i]-at)
		if n, _ := x.ReadAt(b, at); n < len(b) {
			return broken(x.name(), "a part of it is missing")
		}
		if sum := sha256.Sum256(b); [digestBytes]byte(sum[:]) != x.digests[i] {
			return broken(x.name(), "its bytes from %d to %d are not what they were", at, ends[i])
		}
		at = ends[i]
	}
	return nil
}

// last is the last region.
func (x *ranges) last() span {
	ends := x.m.Regions.Ends
	s := span{0, ends[len(ends)-1]}
	if len(ends) > 1 {
		s.from = ends[len(ends)-2]
	}
	return s
}

// drop forgets everything but the last region.
func (x *ranges) drop() {
	x.held = slices.DeleteFunc(x.held, func(p piece) bool { return p.at < x.last().from })
}
