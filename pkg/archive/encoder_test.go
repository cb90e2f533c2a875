package archive

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/parquet-go/parquet-go"

	"auditdb/pkg/audit"
)

// ofAllKinds are columns in every way in which values are kept, and with and without dictionary, filter and bounds.
func ofAllKinds() (cols []Column) {
	for _, typ := range []string{"int8", "int2", "int4", "bool", "float4", "float8", "timestamptz", "timestamp", "date", "text", "json", "jsonb", "inet", "numeric"} {
		cols = append(cols, Column{Name: "c_" + typ, Type: typ, Role: roleCore, Encoding: encodingOf(typ)})
	}
	for _, name := range []string{"action", "principal_id", "correlation_id", "status"} {
		cols = append(cols, Column{Name: name, Type: "text", Role: rolePersonal, Encoding: asText})
	}
	return append(cols, Column{Name: "nothing", Type: "text", Role: roleCore, Encoding: asText}, Column{Name: "ttl", Type: "text", Role: roleCore, Encoding: asText})
}

func anyField(r *rand.Rand, row []byte, c Column) []byte {
	if c.Name == "nothing" || c.Name == "ttl" || r.IntN(5) == 0 && c.Name != "c_int8" {
		return audit.AppendNull(row)
	}
	n := sizeOf(c.Encoding)
	if n == 0 {
		if n = r.IntN(30); r.IntN(500) == 0 {
			n = r.IntN(300_000)
		}
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	switch {
	case c.Encoding == asBool:
		b[0] &= 1
	case c.Encoding == asJSONB:
		b = append([]byte{jsonbVersion}, b...)
	case c.Name == "status":
		b = []byte{'a' + byte(r.IntN(3))}
	case c.Name == "action":
		b = []byte("always")
	}
	return audit.AppendField(row, b)
}

// What is written is read back to the bit, whatever the values, and pages say the truth about it.
func TestEncoder(t *testing.T) {
	t.Parallel()
	cols := ofAllKinds()
	r := rand.New(rand.NewPCG(11, 12))
	for _, size := range []int{0, 1, stripeRows, 3*stripeRows + 7} {
		var out bytes.Buffer
		e, err := newEncoder(&out, cols)
		if err != nil {
			t.Fatal(err)
		}
		var rows [][]byte
		for i := range size {
			var row []byte
			for _, c := range cols {
				row = anyField(r, row, c)
			}
			rows = append(rows, row)
			if err := e.row(row); err != nil {
				t.Fatal(err)
			}
			if i == 2*stripeRows+5 {
				if err := e.flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := e.close(); err != nil {
			t.Fatal(err)
		}
		f, err := parquet.OpenFile(bytes.NewReader(out.Bytes()), int64(out.Len()))
		if err != nil {
			t.Fatal(err)
		}
		position, err := positions(f, cols)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		for i, g := range f.RowGroups() {
			got = append(got, readGroup(t, g, cols, position)...)
			checkBounds(t, f, i, position[0], rows[len(got)-int(g.NumRows()):len(got)])
		}
		if !slices.EqualFunc(got, rows, bytes.Equal) {
			t.Errorf("%d rows are not what was written", size)
		}
	}
}

func readGroup(t *testing.T, g parquet.RowGroup, cols []Column, position []int) [][]byte {
	t.Helper()
	rows := make([][]byte, g.NumRows())
	for k, p := range position {
		c := &cursor{pages: g.ColumnChunks()[p].Pages()}
		if err := c.fill(len(rows)); err != nil {
			t.Fatalf("%s: %v", cols[k].Name, err)
		}
		for i, v := range c.values {
			rows[i] = cols[k].appendField(rows[i], v)
		}
		c.close()
	}
	return rows
}

// checkBounds compares the page index of the first column, an int8, with its values.
func checkBounds(t *testing.T, f *parquet.File, group, column int, rows [][]byte) {
	t.Helper()
	chunk := f.RowGroups()[group].ColumnChunks()[column]
	bounds, err := chunk.ColumnIndex()
	if err != nil {
		t.Fatal(err)
	}
	offsets, err := chunk.OffsetIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i := range offsets.NumPages() {
		first, next := pageRowsOf(offsets, i, int64(len(rows)))
		var values []int64
		for _, row := range rows[first:next] {
			values = append(values, int64(binary.BigEndian.Uint64(row[4:])))
		}
		if least, most := slices.Min(values), slices.Max(values); bounds.MinValue(i).Int64() != least || bounds.MaxValue(i).Int64() != most {
			t.Errorf("page %d has bounds %v and %v, its values %d and %d", i, bounds.MinValue(i), bounds.MaxValue(i), least, most)
		}
	}
}

// A row that is not of the columns is refused.
func TestEncoderRefuses(t *testing.T) {
	t.Parallel()
	cols := []Column{{Name: "id", Type: "int8", Role: roleCore, Encoding: asInt64}, {Name: "details", Type: "jsonb", Role: rolePersonal, Encoding: asJSONB}}
	good := audit.AppendField(audit.AppendInt64(nil, 1), []byte{jsonbVersion, '1'})
	for name, row := range map[string][]byte{
		"cut": good[:len(good)-1], "longer": append(slices.Clone(good), 0), "another size": audit.AppendField(audit.AppendInt32(nil, 1), []byte{jsonbVersion}),
		"another jsonb": audit.AppendField(audit.AppendInt64(nil, 1), []byte{2, '1'}), "nothing": nil,
	} {
		e, err := newEncoder(&bytes.Buffer{}, cols)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.row(row); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
