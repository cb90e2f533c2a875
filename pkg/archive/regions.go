package archive

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"slices"

	"github.com/parquet-go/parquet-go"
)

// The digests in a manifest that parts of an object are checked with: the first bytes of a SHA-256, one after the other in base64.
const digestBytes = 16

// stripeRows is how many rows a stripe has: what is decoded and hashed to trust one row of it.
const stripeRows = 512

// Regions are the parts of an object that can be checked by themselves: each column of each row group, each bloom filter, and the footer with the
// page index, which is the last.
type Regions struct {
	Ends    []int64 `json:"ends"` // in bytes; each begins where the one before ends
	Digests string  `json:"digests"`
}

// Stripes are runs of rows, counted from the beginning of each row group, with a digest over their leaves and what no leaf covers.
type Stripes struct {
	Rows    int    `json:"rows"` // of each but the last of a row group
	Digests string `json:"digests"`
}

func encodeDigests(sums []byte) string { return base64.StdEncoding.EncodeToString(sums) }

// decodeDigests reads n digests; nil: they are not so many.
func decodeDigests(text string, n int) [][digestBytes]byte {
	sums, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(sums) != n*digestBytes {
		return nil
	}
	out := make([][digestBytes]byte, n)
	for i := range out {
		out[i] = [digestBytes]byte(sums[i*digestBytes:])
	}
	return out
}

// checkParts refuses digests of parts that could not be worked with. How many stripes there are is known with the footer.
func (m *Manifest) checkParts() error {
	switch {
	case m.Regions == nil || len(m.Regions.Ends) == 0 || m.Regions.Ends[0] < 0:
		return fmt.Errorf("%w: it has no digests of the object's parts", errManifest)
	case m.Stripes == nil || m.Stripes.Rows < 1 || m.Stripes.Rows > 1<<16:
		return fmt.Errorf("%w: it has no digests of stripes", errManifest)
	case !slices.IsSorted(m.Regions.Ends) || m.Regions.Ends[len(m.Regions.Ends)-1] != m.Bytes:
		return fmt.Errorf("%w: the parts are not those of an object of %d bytes", errManifest, m.Bytes)
	case decodeDigests(m.Regions.Digests, len(m.Regions.Ends)) == nil:
		return fmt.Errorf("%w: the digests of the object's parts are not as many as parts", errManifest)
	}
	return nil
}

// span is a part of an object, without its end.
type span struct{ from, to int64 }

// chunkSpan is where a column of a row group is.
func chunkSpan(f *parquet.File, group, column int) span {
	c := &f.Metadata().RowGroups[group].Columns[column].MetaData
	from := c.DataPageOffset
	if d := c.DictionaryPageOffset; d > 0 {
		from = min(from, d)
	}
	return span{from, from + c.TotalCompressedSize}
}

// bloomSpan is where the bloom filter of a column of a row group is; nothing: it has none.
func bloomSpan(f *parquet.File, group, column int) span {
	c := &f.Metadata().RowGroups[group].Columns[column].MetaData
	return span{c.BloomFilterOffset, c.BloomFilterOffset + int64(c.BloomFilterLength)}
}

// regionEnds are the ends of all parts of a file.
func regionEnds(f *parquet.File, size int64) []int64 {
	ends := []int64{size}
	add := func(s span) {
		if 0 < s.from && s.from < s.to && s.to <= size {
			ends = append(ends, s.from, s.to)
		}
	}
	for g := range f.Metadata().RowGroups {
		for c := range f.Metadata().RowGroups[g].Columns {
			add(chunkSpan(f, g, c))
			add(bloomSpan(f, g, c))
		}
	}
	slices.Sort(ends)
	return slices.Compact(ends)
}

// regionHasher takes an object from its beginning to its end and makes the digests of its regions.
type regionHasher struct {
	ends []int64
	hash hash.Hash
	at   int64
	n    int // regions that have ended
	sums []byte
}

func newRegionHasher(ends []int64) *regionHasher {
	return &regionHasher{ends: ends, hash: sha256.New()}
}

// Write never fails.
func (h *regionHasher) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && h.n < len(h.ends) {
		part := p[:min(int64(len(p)), h.ends[h.n]-h.at)]
		h.hash.Write(part)
		p, h.at = p[len(part):], h.at+int64(len(part))
		if h.at == h.ends[h.n] {
			h.sums = append(h.sums, h.hash.Sum(nil)[:digestBytes]...)
			h.hash.Reset()
			h.n++
		}
	}
	return n, nil
}
