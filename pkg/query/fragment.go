package query

import (
	"encoding/binary"
	"slices"
	"strings"
)

// fragment is what one partition contributes: rows, each with the values of all columns, or what was counted.
type fragment struct {
	sequence int64 // the last id that other writers had been given when it was read
	rows     [][][]byte
	phi      bool // some rows hold health data
}

// maxFragment is how many rows a fragment in a cache may have.
const maxFragment = 1000

// encode writes lengths before values; 0 is NULL.
func (f *fragment) encode() []byte {
	size := 0
	for _, r := range f.rows {
		for _, v := range r {
			size += len(v) + 2
		}
	}
	b := make([]byte, 0, size+32)
	b = append(b, fragmentVersion)
	b = binary.AppendVarint(b, f.sequence)
	b = binary.AppendUvarint(b, uint64(len(f.rows)))
	for _, r := range f.rows {
		for _, v := range r {
			if v == nil {
				b = append(b, 0)
				continue
			}
			b = binary.AppendUvarint(b, uint64(len(v))+1)
			b = append(b, v...)
		}
	}
	return b
}

// decode reads a fragment of rows with so many columns; anything else is none. The rows share b's memory.
func decode(b []byte, columns int) (*fragment, bool) {
	if len(b) == 0 || b[0] != fragmentVersion {
		return nil, false
	}
	f := &fragment{}
	var n int
	if f.sequence, n = binary.Varint(b[1:]); n <= 0 {
		return nil, false
	}
	b = b[1+n:]
	rows, n := binary.Uvarint(b)
	if n <= 0 || rows > maxFragment {
		return nil, false
	}
	b = b[n:]
	f.rows = make([][][]byte, rows)
	for i := range f.rows {
		f.rows[i] = make([][]byte, columns)
		for c := range columns {
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n)+1 { //nolint:gosec // n is at most its length
				return nil, false
			}
			if b = b[n:]; size > 0 {
				f.rows[i][c] = b[: size-1 : size-1]
				b = b[size-1:]
			}
		}
	}
	return f, len(b) == 0
}

func sortedFilters(list []Filter) []Filter {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Filter) int { return strings.Compare(a.Column, b.Column) })
	return list
}
