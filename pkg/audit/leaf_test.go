package audit_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"auditdb/pkg/audit"
)

// plainLeaf is the definition of the leaf, word for word.
func plainLeaf(core, personal [][]byte, salt []byte) [32]byte {
	group := func(prefix byte, fields [][]byte) []byte {
		b := []byte{prefix, 1}
		b = binary.BigEndian.AppendUint16(b, uint16(len(fields)))
		for _, f := range fields {
			if f == nil {
				b = append(b, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
			b = append(b, f...)
		}
		return b
	}
	commit := sha256.Sum256(append(group(2, personal), salt...))
	return sha256.Sum256(append(group(0, core), commit[:]...))
}

func randomRow(t *rapid.T, f audit.Format) (fields [][]byte) {
	for i := range len(f.Core) + len(f.Personal) {
		switch {
		case i < 2:
			fields = append(fields, rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "fixed"))
		case rapid.Bool().Draw(t, "null"):
			fields = append(fields, nil)
		default:
			fields = append(fields, append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "field")...))
		}
	}
	return fields
}

func TestLeafIsItsDefinition(t *testing.T) {
	t.Parallel()
	f := audit.AuditLog()
	h := audit.NewHasher(f)
	rapid.Check(t, func(t *rapid.T) {
		fields := randomRow(t, f)
		salt := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "salt")
		want := plainLeaf(fields[:len(f.Core)], fields[len(f.Core):], salt)
		got, err := h.Leaf(fields, salt)
		if err != nil || got != want {
			t.Fatalf("leaf %x, %v, want %x", got, err, want)
		}
		tuple := audit.AppendTuple(nil, len(fields)+1)
		for _, v := range append(fields, salt) {
			tuple = audit.AppendField(tuple, v)
		}
		row, n, err := audit.NewLayout(f).Parse(tuple)
		if err != nil || n != len(tuple) {
			t.Fatalf("parse: %d of %d bytes, %v", n, len(tuple), err)
		}
		if got := h.LeafOf(row.Core, row.Personal, row.Salt); got != want {
			t.Fatalf("leaf of the tuple %x, want %x", got, want)
		}
		if row.ID != int64(binary.BigEndian.Uint64(fields[0])) || row.Timestamp != int64(binary.BigEndian.Uint64(fields[1])) {
			t.Fatalf("id %d and time %d are not those of the tuple", row.ID, row.Timestamp)
		}
		for cut := range tuple {
			if _, n, err := audit.NewLayout(f).Parse(tuple[:cut]); n != 0 || err != nil {
				t.Fatalf("a tuple cut at %d gave %d, %v", cut, n, err)
			}
		}
	})
}

func TestLeafVector(t *testing.T) {
	t.Parallel()
	f := audit.AuditLog()
	fields := make([][]byte, len(f.Core)+len(f.Personal))
	fields[0] = binary.BigEndian.AppendUint64(nil, 1<<40)
	fields[1] = binary.BigEndian.AppendUint64(nil, 0)
	fields[4] = []byte("login")
	fields[5] = []byte{}
	fields[len(fields)-1] = []byte("\x01{}")
	got, err := audit.NewHasher(f).Leaf(fields, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	if want := "dec60e8145934520efff4d9590382afdd8e8686d43142c703dbeab103b1d3bce"; hex.EncodeToString(got[:]) != want {
		t.Errorf("leaf %x, want %s", got, want)
	}
}

func TestLeafRefusesWrongInput(t *testing.T) {
	t.Parallel()
	f := audit.AuditLog()
	h := audit.NewHasher(f)
	fields := make([][]byte, len(f.Core)+len(f.Personal))
	if _, err := h.Leaf(fields[1:], make([]byte, 16)); err == nil {
		t.Error("a missing field was accepted")
	}
	if _, err := h.Leaf(fields, nil); err == nil {
		t.Error("a missing salt was accepted")
	}
}

func TestRootOfIsTlogs(t *testing.T) {
	t.Parallel()
	var hashes []tlog.Hash
	var leaves []byte
	read := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, k := range idx {
			out[i] = hashes[k]
		}
		return out, nil
	})
	if got := audit.RootOf(nil); got != sha256.Sum256(nil) {
		t.Errorf("empty root %x", got)
	}
	for n := range int64(300) {
		data := make([]byte, 8)
		_, _ = rand.Read(data)
		h := tlog.RecordHash(data)
		more, err := tlog.StoredHashesForRecordHash(n, h, read)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, more...)
		leaves = append(leaves, h[:]...)
		want, err := tlog.TreeHash(n+1, read)
		if err != nil {
			t.Fatal(err)
		}
		if got := audit.RootOf(leaves); got != want {
			t.Fatalf("root of %d leaves %x, want %x", n+1, got, want)
		}
	}
}

func TestTupleScannerAtAnySplit(t *testing.T) {
	t.Parallel()
	f := audit.AuditLog()
	stream := audit.CopyHeader()
	for i := range 5 {
		stream = audit.AppendTuple(stream, len(f.Columns()))
		stream = audit.AppendInt64(stream, int64(i))
		stream = audit.AppendTimestamp(stream, int64(i)*10)
		for range len(f.Columns()) - 3 {
			stream = audit.AppendText(stream, "ab"[:i%3])
		}
		if i == 3 {
			stream = audit.AppendNull(stream)
		} else {
			stream = audit.AppendUUID(stream, [16]byte{byte(i)})
		}
	}
	stream = append(stream, audit.CopyTrailer()...)
	for size := 1; size < 400; size += 7 {
		var ids []int64
		s := audit.NewTupleScanner(f, func(r audit.Row) error {
			if (r.Salt == nil) != (r.ID == 3) {
				t.Errorf("row %d: salt %x", r.ID, r.Salt)
			}
			ids = append(ids, r.ID)
			return nil
		})
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := s.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := s.Close(); err != nil || len(ids) != 5 {
			t.Fatalf("pieces of %d: ids %v, %v", size, ids, err)
		}
	}
	s := audit.NewTupleScanner(f, func(audit.Row) error { return nil })
	if _, err := s.Write(stream[:len(stream)-2]); err != nil {
		t.Fatal(err)
	}
	if s.Close() == nil {
		t.Error("a stream without its end was accepted")
	}
}

func FuzzTupleScanner(f *testing.F) {
	f.Add(append(audit.CopyHeader(), 0xff, 0xff))
	f.Fuzz(func(_ *testing.T, b []byte) {
		s := audit.NewTupleScanner(audit.AuditLog(), func(audit.Row) error { return nil })
		_, _ = s.Write(append(audit.CopyHeader(), b...))
		_ = s.Close()
	})
}

func TestTimestampMicros(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 2, 29, 12, 30, 15, 123456789, time.UTC)
	us := audit.TimestampMicros(at)
	if want := at.Truncate(time.Microsecond); !audit.MicrosTime(us).Equal(want) {
		t.Errorf("%v came back as %v", at, audit.MicrosTime(us))
	}
	if audit.TimestampMicros(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) != 0 {
		t.Error("the epoch is not 0")
	}
	if !audit.MicrosTime(math.MaxInt64).IsZero() {
		t.Error("infinity became a time")
	}
}

func TestIDSet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Int64Range(0, 1<<40).Draw(t, "first")
		ids := []int64{id}
		for range rapid.IntRange(0, 50).Draw(t, "n") {
			id += rapid.SampledFrom([]int64{1, 1, 1, 2, 300, 70000}).Draw(t, "step")
			ids = append(ids, id)
		}
		s, err := audit.NewIDSet(ids)
		if err != nil {
			t.Fatal(err)
		}
		d, err := audit.DecodeIDSet(ids[0], s.Encode())
		if err != nil || d.Len() != len(ids) || d.Min() != ids[0] || d.Max() != id {
			t.Fatalf("decoded %d ids %d to %d, %v", d.Len(), d.Min(), d.Max(), err)
		}
		for i, v := range d.All() {
			k, ok := d.Index(v)
			if v != ids[i] || !ok || k != i || d.At(i) != v {
				t.Fatalf("id %d at %d: index %d %v, At %d", v, i, k, ok, d.At(i))
			}
			if has := d.Contains(v + 1); has != (i+1 < len(ids) && ids[i+1] == v+1) {
				t.Fatalf("Contains(%d) = %v", v+1, has)
			}
		}
		if d.Contains(ids[0] - 1) {
			t.Fatal("contains the id before its first")
		}
	})
}

func FuzzDecodeIDSet(f *testing.F) {
	f.Add(int64(5), []byte{0, 3, 1, 1})
	f.Fuzz(func(t *testing.T, first int64, enc []byte) {
		s, err := audit.DecodeIDSet(first, enc)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Encode(), enc) || s.Min() != first {
			t.Fatalf("%x from %d became %x from %d", enc, first, s.Encode(), s.Min())
		}
	})
}

func BenchmarkLeafOf(b *testing.B) {
	f := audit.AuditLog()
	h := audit.NewHasher(f)
	core, personal, salt := make([]byte, 230), make([]byte, 180), make([]byte, 16)
	b.ReportAllocs()
	for b.Loop() {
		h.LeafOf(core, personal, salt)
	}
}
