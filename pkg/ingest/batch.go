package ingest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"time"

	"auditdb/pkg/audit"
	"auditdb/pkg/integrity"
)

// row is an event in its batch's memory: a COPY BINARY tuple, and what ordering and deduplication need.
type row struct {
	micros         int64
	start, end     int // the tuple in batch.arena
	core, personal int // ends of the core and of the personal fields
	uid, uidEnd    int // the event_uid; uidEnd 0: none
	record         int // index in the chunk
}

// batch is a chunk made into rows. It holds one block of ids.
type batch struct {
	before, turn *turn // of the batch before and of this one; nil where batches keep no order
	chunk        *chunk
	records      int      // of the chunk, those that the committed range covers
	sum          [32]byte // of these records
	arena        []byte
	rows         []row
	order        []int32 // the rows to insert, by time and then by place in the input
	bad          []badEvent
	dropped      int // duplicates within the batch and of events in the table

	unselected int // records that the mapping does not take
	block      int64
	leaves     []byte // 32 bytes for each of order
	shares     []share
	outside    []int32                   // rows that no partition takes
	whyNot     func(at time.Time) string // why none was made for a row of outside; nil: none was to be made
	hasUID     bool
	entries    []integrity.Entry // of the shares, when the table's integrity is on
	atLog      bool              // its transaction has come to the log
	salts      []byte
	seen       map[uint64]int32
}

// badEvent is a record that was rejected.
type badEvent struct {
	record int
	reason string
}

// share is what one partition gets of a batch: rows first … first+n-1 of order.
type share struct {
	leaf     *leaf
	first, n int
}

// preparer makes batches of chunks. It belongs to one goroutine.
type preparer struct {
	fixed  *fixed
	now    func() time.Time
	event  event
	hasher *audit.Hasher
	seed   maphash.Seed
}

// prepare maps every record of c into b.
func (p *preparer) prepare(ctx context.Context, b *batch, c *chunk) error {
	b.reset(c)
	if err := b.refillSalts(len(c.records)); err != nil {
		return err
	}
	now := audit.TimestampMicros(p.now())
	for i := range c.records {
		err := p.take(ctx, b, i, now)
		if err == nil {
			continue
		}
		if errors.Is(err, errUnselected) {
			b.unselected++
			continue
		}
		reason := err.Error()
		if i == len(c.records)-1 && c.open && c.records[i].over == nil {
			b.records--
			reason = "the source ends within the record: " + reason
		}
		b.bad = append(b.bad, badEvent{i, reason})
	}
	b.sum = c.sum(b.records)
	b.sort()
	b.dedupe(p.seed)
	return nil
}

// take maps record i; the error says why it cannot be taken.
func (p *preparer) take(ctx context.Context, b *batch, i int, now int64) error {
	c := b.chunk
	if over := c.records[i].over; over != nil {
		return badRecord(over.reason())
	}
	p.event.reset()
	p.event.note = c.notes[i]
	if err := c.src.mapper.mapRecord(ctx, &p.event, c.record(i)); err != nil {
		return err
	}
	if err := p.fixed.complete(&p.event, now); err != nil {
		return err
	}
	b.add(&p.event, i)
	return nil
}

func (b *batch) reset(c *chunk) {
	b.chunk, b.records = c, len(c.records)
	if want := len(c.raw)/4*5 + len(c.records)*64; cap(b.arena) < want || cap(b.arena) > 4*want+keepScratch {
		b.arena = make([]byte, 0, want)
	}
	b.arena, b.rows, b.order, b.bad = b.arena[:0], b.rows[:0], b.order[:0], b.bad[:0]
	b.leaves, b.shares, b.outside = b.leaves[:0], b.shares[:0], b.outside[:0]
	b.dropped, b.unselected, b.block, b.hasUID = 0, 0, 0, false
}

func (b *batch) refillSalts(n int) error {
	if cap(b.salts) < n*audit.SaltSize {
		b.salts = make([]byte, n*audit.SaltSize)
	}
	b.salts = b.salts[:n*audit.SaltSize]
	if _, err := rand.Read(b.salts); err != nil {
		return fmt.Errorf("make salts: %w", err)
	}
	return nil
}

// add writes an event as a row.
func (b *batch) add(e *event, record int) {
	salt := b.salts[len(b.rows)*audit.SaltSize:][:audit.SaltSize]
	r := row{micros: e.micros, start: len(b.arena), record: record}
	b.arena = e.appendTuple(b.arena, salt, &r)
	r.end = len(b.arena)
	b.hasUID = b.hasUID || r.uidEnd > 0
	b.rows = append(b.rows, r)
}

// sort puts the rows in the order of their times; equal times stay in the order of the input.
func (b *batch) sort() {
	sorted := true
	for i := range b.rows {
		b.order = append(b.order, int32(i)) // at most 65,536 rows
		if i > 0 && b.rows[i].micros < b.rows[i-1].micros {
			sorted = false
		}
	}
	if !sorted {
		slices.SortFunc(b.order, func(x, y int32) int {
			if c := cmp.Compare(b.rows[x].micros, b.rows[y].micros); c != 0 {
				return c
			}
			return int(x - y)
		})
	}
}

// dedupe drops the later ones of rows with equal event_uid and time.
func (b *batch) dedupe(seed maphash.Seed) {
	if !b.hasUID {
		return
	}
	kept := b.order[:0]
	for i := 0; i < len(b.order); {
		j := i + 1
		for j < len(b.order) && b.rows[b.order[j]].micros == b.rows[b.order[i]].micros {
			j++
		}
		if j-i == 1 {
			kept = append(kept, b.order[i])
		} else {
			kept = b.distinct(kept, b.order[i:j], seed)
		}
		i = j
	}
	b.dropped += len(b.order) - len(kept)
	b.order = kept
}

// distinct appends those of same, rows of one time, whose event_uid none before them has.
func (b *batch) distinct(kept, same []int32, seed maphash.Seed) []int32 {
	if b.seen == nil {
		b.seen = make(map[uint64]int32)
	}
	clear(b.seen)
	for _, i := range same {
		uid := b.uid(i)
		if uid == nil {
			kept = append(kept, i)
			continue
		}
		sum := maphash.Bytes(seed, uid)
		for ; ; sum++ { // the next place when another event_uid has this one
			first, ok := b.seen[sum]
			if !ok {
				b.seen[sum] = i
				kept = append(kept, i)
				break
			}
			if bytes.Equal(b.uid(first), uid) {
				break
			}
		}
	}
	return kept
}

// uid returns a row's event_uid, nil for none.
func (b *batch) uid(i int32) []byte {
	r := &b.rows[i]
	if r.uidEnd == 0 {
		return nil
	}
	return b.arena[r.uid:r.uidEnd]
}

// drop takes rows out of order: events that are in the table already. positions are indexes in order, ascending.
func (b *batch) drop(positions []int) {
	kept := b.order[:0]
	for i, r := range b.order {
		if len(positions) > 0 && positions[0] == i {
			positions = positions[1:]
			b.dropped++
			continue
		}
		kept = append(kept, r)
	}
	b.order = kept
}

var errTooMany = errors.New("more rows than a block holds")

// seal routes the rows to partitions, gives them their ids and computes the leaves. It may be called again after drop or with another
// catalog. Rows that no partition takes go to outside.
func (b *batch) seal(h *audit.Hasher, find func(micros int64) *leaf, recordedAt int64) error {
	b.leaves, b.shares = b.leaves[:0], b.shares[:0]
	b.order = append(b.order, b.outside...)
	if len(b.outside) > 0 {
		b.outside = b.outside[:0]
		slices.SortFunc(b.order, func(x, y int32) int {
			return cmp.Or(cmp.Compare(b.rows[x].micros, b.rows[y].micros), int(x-y))
		})
	}
	if len(b.order) > audit.MaxSet {
		return errTooMany
	}
	b.route(find)
	for k, i := range b.order {
		r := &b.rows[i]
		tuple := b.arena[r.start:r.end]
		binary.BigEndian.PutUint64(tuple[tupleIDAt:], uint64(b.id(k)))            //nolint:gosec // positive
		binary.BigEndian.PutUint64(tuple[tupleRecordedAtAt:], uint64(recordedAt)) //nolint:gosec // two's complement on the wire
		if h == nil {
			continue
		}
		leaf := h.LeafOf(b.arena[r.start+2:r.core], b.arena[r.core:r.personal], tuple[len(tuple)-audit.SaltSize:])
		b.leaves = append(b.leaves, leaf[:]...)
	}
	return nil
}

// id returns the id of row k of order.
func (b *batch) id(k int) int64 { return b.block<<16 | int64(k) }

// route walks the rows and the partitions in the order of time, and takes rows without a partition out of order.
func (b *batch) route(find func(micros int64) *leaf) {
	var cur *leaf
	kept := b.order[:0]
	for _, i := range b.order {
		micros := b.rows[i].micros
		if cur == nil || micros < cur.from || micros >= cur.to {
			if cur = find(micros); cur != nil {
				b.shares = append(b.shares, share{leaf: cur, first: len(kept)})
			}
		}
		if cur == nil {
			b.outside = append(b.outside, i)
			continue
		}
		b.shares[len(b.shares)-1].n++
		kept = append(kept, i)
	}
	b.order = kept
}

// span returns the first and the last time of the rows to insert.
func (b *batch) span() (first, last int64) {
	if len(b.order) == 0 {
		return math.MaxInt64, math.MinInt64
	}
	return b.rows[b.order[0]].micros, b.rows[b.order[len(b.order)-1]].micros
}

// rejects lists the records that were not taken, in the order of the input.
func (b *batch) rejects() []Reject {
	if len(b.bad)+len(b.outside) == 0 {
		return nil
	}
	all := slices.Clone(b.bad)
	for _, i := range b.outside {
		all = append(all, badEvent{b.rows[i].record, b.reasonOutside(b.rows[i].micros)})
	}
	slices.SortFunc(all, func(x, y badEvent) int { return x.record - y.record })
	out := make([]Reject, len(all))
	for i, e := range all {
		p := b.chunk.records[e.record]
		raw := b.chunk.record(e.record)
		if p.over != nil {
			raw = p.over.start
		}
		out[i] = Reject{
			Source: b.chunk.src.Name, Record: b.chunk.first + int64(e.record), Offset: p.offset, Reason: e.reason, Raw: raw,
			Cut: p.over != nil, Skipped: e.record >= b.records,
		}
	}
	return out
}

const reasonOutside = "no partition for its timestamp"

func (b *batch) reasonOutside(micros int64) string {
	at := audit.MicrosTime(micros)
	reason := reasonOutside + " " + at.Format(time.RFC3339Nano)
	if b.whyNot == nil {
		return reason + ": --create-partitions makes it"
	}
	if why := b.whyNot(at); why != "" {
		return reason + ": " + why
	}
	return reason
}

// shareReader is the COPY BINARY stream of a share.
type shareReader struct {
	batch *batch
	rest  []int32
	cur   []byte
	ended bool
}

func (b *batch) reader(s share) *shareReader {
	return &shareReader{batch: b, rest: b.order[s.first : s.first+s.n], cur: audit.CopyHeader()}
}

// Read fills p with as many tuples as fit.
func (s *shareReader) Read(p []byte) (n int, err error) {
	for {
		k := copy(p[n:], s.cur)
		n += k
		s.cur = s.cur[k:]
		if len(s.cur) > 0 {
			return n, nil
		}
		switch {
		case len(s.rest) > 0:
			r := &s.batch.rows[s.rest[0]]
			s.cur = s.batch.arena[r.start:r.end]
			s.rest = s.rest[1:]
		case !s.ended:
			s.ended = true
			s.cur = audit.CopyTrailer()
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
