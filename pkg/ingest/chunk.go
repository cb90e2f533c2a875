package ingest

import (
	"crypto/sha256"
)

// chunk is a run of consecutive records of one source, as bytes.
type chunk struct {
	src     *source
	first   int64          // number of its first record, from 1
	limit   int            // bytes of raw after which it is full
	raw     []byte         // the records, each followed by a line end
	records []placed       // where they are
	stored  int            // bytes of the source, as it is stored, that were read for it
	notes   map[int][]byte // what later records say about some of these
	open    bool           // the input ended before the last record's terminator
}

// placed is a record's place.
type placed struct {
	end    int   // in chunk.raw, without the line end
	offset int64 // in the source's content
	over   *oversize
}

// rawSlack is room for the record that passes a chunk's limit; with it nearly no chunk grows, which would leave garbage.
const rawSlack = 128 << 10

func (c *chunk) reset(src *source, first int64) {
	c.src, c.first, c.open = src, first, false
	if want := c.limit + rawSlack; cap(c.raw) > 2*want || cap(c.raw) == 0 { // one huge record must not keep its memory
		c.raw = make([]byte, 0, want)
	}
	c.clear()
}

func (c *chunk) clear() {
	c.raw, c.records = c.raw[:0], c.records[:0]
	clear(c.notes)
}

// read appends the next record.
func (c *chunk) read(sp splitter) error {
	raw, rec, err := sp.next(c.raw)
	if err != nil {
		return err
	}
	if rec.oversize != nil {
		raw = append(raw, rec.oversize.standIn()...)
	}
	c.records = append(c.records, placed{end: len(raw), offset: rec.offset, over: rec.oversize})
	c.raw = append(raw, '\n')
	c.open = rec.open
	return nil
}

// record returns the bytes of record i.
func (c *chunk) record(i int) []byte {
	return c.raw[c.begin(i):c.records[i].end]
}

func (c *chunk) begin(i int) int {
	if i == 0 {
		return 0
	}
	return c.records[i-1].end + 1
}

// sum is the digest that a committed range keeps of its n records: of the source's header, where it has one, and each record, all
// followed by a line end. The stand-in of an oversize record is hashed in its place.
func (c *chunk) sum(n int) [sha256.Size]byte {
	raw := c.raw[:c.begin(n)]
	if c.src.header == nil {
		return sha256.Sum256(raw)
	}
	h := sha256.New()
	writeHeader(h, c.src.header)
	h.Write(raw)
	return [sha256.Size]byte(h.Sum(nil))
}

func writeHeader(h interface{ Write([]byte) (int, error) }, header []byte) {
	if header == nil {
		return
	}
	_, _ = h.Write(header) // a hash never fails
	_, _ = h.Write([]byte{'\n'})
}
