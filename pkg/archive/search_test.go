package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
	"auditdb/pkg/integrity"
)

// shelf is an object of rows that were made up, in row groups of a few hundred, in a folder.
type shelf struct {
	store *Store
	dir   string
	m     *Manifest
	key   string
	all   []Found // in the order of the object
}

func newShelf(t *testing.T, r *rand.Rand, rows, group int) *shelf {
	t.Helper()
	ctx := t.Context()
	dir := t.TempDir()
	store, err := Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(dir, "o.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{hash: sha256.New(), out: file}
	if err := s.Begin(ctx, nil, integrity.StreamInfo{Format: audit.AuditLog(), Extra: []audit.Column{{Name: "note", Type: "text"}}}); err != nil {
		t.Fatal(err)
	}
	s.writer.groupRows = int64(group)
	from, to := "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"
	m := &Manifest{
		Format: manifestFormat, TableID: 1, Schema: "public", Table: "audit_log", Partition: "p", KeyColumn: "timestamp", From: &from, To: &to, Generation: 1, LeafFormat: 1,
		Columns: s.cols, Object: "o.parquet", Batches: []BatchRef{}, DDL: []string{},
	}
	h := newRowHasher(m)
	for i := range rows {
		row := madeUp(r, i, rows)
		var commit []byte
		if i%97 == 0 {
			commit = make([]byte, audit.HashSize)
		}
		var cut Row
		if err := h.cut(audit.AppendField(audit.AppendField(slices.Clone(row), commit), nil), &cut); err != nil {
			t.Fatal(err)
		}
		if err := s.Row(&integrity.StreamRow{ID: int64(i + 1), Leaf: cut.Leaf, Fields: row, Commit: commit}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	m.Rows, m.Erased, m.MinID, m.MaxID, m.Root, m.Bytes, m.SHA256 = s.rows, s.erased, s.first, s.last, hex.EncodeToString(s.root[:]), s.bytes, hex.EncodeToString(s.hash.Sum(nil))
	if err := store.readBack(ctx, m, "o.parquet"); err != nil {
		t.Fatal(err)
	}
	out := &shelf{store: store, dir: dir, m: m, key: "o.parquet"}
	x := &Search{in: &ranges{m: m}, key: 1, hash: h}
	if err := store.Scan(ctx, m, out.key, func(r *Row) error {
		out.all = append(out.all, x.found(&group0, 0, r))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

var group0 = group{}

// madeUp is a row whose time goes along with its id, roughly.
func madeUp(r *rand.Rand, i, rows int) (row []byte) {
	text := func(format string, args ...any) { row = audit.AppendText(row, fmt.Appendf(nil, format, args...)) }
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * 30 * 24 * time.Hour / time.Duration(rows)).Add(time.Duration(r.IntN(7200)) * time.Second)
	for _, c := range audit.AuditLog().Columns() {
		switch c.Name {
		case "id":
			row = audit.AppendInt64(row, int64(i+1))
		case "timestamp", "recorded_at":
			row = audit.AppendInt64(row, at.UnixMicro()-epochMicros)
		case "action":
			text("a%d", r.IntN(4))
		case "principal_id":
			switch n := r.IntN(40); {
			case i%97 == 0 || n == 0:
				row = audit.AppendNull(row)
			case n == 1:
				text("")
			default:
				text("u%d", r.IntN(rows/20))
			}
		case "correlation_id":
			text("c%x", r.Uint64())
		case "details":
			row = audit.AppendCanonicalJSONB(row, fmt.Appendf(nil, `{"n": %d, "s": "%x"}`, i, r.Uint64()))
		default:
			row = audit.AppendNull(row)
		}
	}
	text("n%d", r.IntN(3))
	return row
}

func (s *shelf) value(f *Found, column string) []byte {
	return f.Values(false)[slices.Index(s.m.Names(), column)]
}

// where is what a condition gives by looking at all rows, newest first.
func (s *shelf) where(c Condition, after *Position) []Found {
	var want []Found
	for _, f := range s.all {
		ok := after == nil || after.Before(f.Position)
		at := time.UnixMicro(f.Key + epochMicros)
		ok = ok && (c.From == nil || !at.Before(*c.From)) && (c.To == nil || at.Before(*c.To))
		for _, e := range c.Equal {
			v := s.value(&f, e.Column)
			ok = ok && v != nil && string(v) == e.Value
		}
		if ok {
			want = append(want, f)
		}
	}
	slices.SortFunc(want, func(a, b Found) int {
		if a.Before(b.Position) {
			return -1
		}
		return 1
	})
	return want
}

// random conditions, some of them on values that are there.
func (s *shelf) condition(r *rand.Rand) (c Condition) {
	some := func() *Found { return &s.all[r.IntN(len(s.all))] }
	for _, column := range []string{"principal_id", "action", "correlation_id", "note", "status"} {
		if r.IntN(4) > 0 {
			continue
		}
		e := Equal{Column: column, Value: "nobody"}
		if v := s.value(some(), column); v != nil {
			e.Value = string(v)
		}
		c.Equal = append(c.Equal, e)
	}
	if r.IntN(2) == 0 {
		from := time.UnixMicro(some().Key + epochMicros)
		c.From = &from
	}
	if r.IntN(2) == 0 {
		to := time.UnixMicro(some().Key + epochMicros).Add(time.Duration(r.IntN(20)) * time.Hour)
		c.To = &to
	}
	return c
}

func same(t *testing.T, got, want []Found) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Position != want[i].Position || !slices.EqualFunc(got[i].Values(false), want[i].Values(false), func(a, b []byte) bool { return string(a) == string(b) && (a == nil) == (b == nil) }) {
			t.Fatalf("row %d is %v, want %v", i, got[i].Position, want[i].Position)
		}
	}
}

// lenient takes out what a condition may let through: rows exactly at the end of its range.
func lenient(c Condition, found []Found) []Found {
	return slices.DeleteFunc(found, func(f Found) bool {
		return c.To != nil && !time.UnixMicro(f.Key+epochMicros).Before(*c.To)
	})
}

// A search gives what looking at all rows gives, page by page as well as all at once.
func TestSearchIsExact(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	s := newShelf(t, r, 3000, 1300)
	ctx := t.Context()
	for range 120 {
		c := s.condition(r)
		x, err := s.store.Search(ctx, s.m, s.key, c)
		if err != nil {
			t.Fatal(err)
		}
		var after *Position
		if r.IntN(3) == 0 {
			after = &s.all[r.IntN(len(s.all))].Position
		}
		want := s.where(c, after)
		var got []Found
		for at, more := after, true; more; {
			var page []Found
			if page, more, err = x.Newest(ctx, at, 1+r.IntN(1200)); err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			got, at = append(got, page...), &page[len(page)-1].Position
		}
		same(t, lenient(c, got), want)
		got = nil
		if x, err = s.store.Search(ctx, s.m, s.key, c); err != nil {
			t.Fatal(err)
		}
		if err := x.Each(ctx, func(f Found) error { got = append(got, f); return nil }); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got, func(a, b Found) int {
			if a.Before(b.Position) {
				return -1
			}
			return 1
		})
		same(t, lenient(c, got), s.where(c, nil))
	}
}

// What is not there costs the footer and bloom filters; a few rows cost little of the object.
func TestSearchReadsLittle(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	s := newShelf(t, r, 40_000, 10_000)
	for value, most := range map[string]int64{"nobody": s.m.Bytes / 12, string(s.value(&s.all[1234], "correlation_id")): s.m.Bytes / 4} {
		x, err := s.store.Search(t.Context(), s.m, s.key, Condition{Equal: []Equal{{"correlation_id", value}}})
		if err != nil {
			t.Fatal(err)
		}
		rows, _, err := x.Newest(t.Context(), nil, 10)
		if err != nil || value != "nobody" && len(rows) != 1 {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
		if c := x.Cost(); c.Bytes > most {
			t.Errorf("%s: %+v of %d bytes", value, c, s.m.Bytes)
		}
	}
}

// Whatever happens to the bytes of an object, a search says so or gives the right rows.
func TestSearchDamaged(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	s := newShelf(t, r, 2000, 800)
	path := filepath.Join(s.dir, s.key)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for range 300 {
		bad := slices.Clone(good)
		switch r.IntN(3) {
		case 0:
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		case 1:
			at := r.IntN(len(bad))
			for i := at; i < min(at+1+r.IntN(3000), len(bad)); i++ {
				bad[i] = byte(r.Uint32())
			}
		default:
			from, to := r.IntN(len(bad)), r.IntN(len(bad))
			copy(bad[to:], good[from:])
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		c := s.condition(r)
		rows, err := s.newest(t.Context(), c)
		if err != nil {
			if fault.ClassOf(err) != fault.Integrity {
				t.Fatal(err)
			}
			found++
			continue
		}
		want := s.where(c, nil)
		within := lenient(c, slices.Clone(rows))
		same(t, within, want[:min(len(want), 40-(len(rows)-len(within)))])
	}
	if found == 0 {
		t.Error("no damage was found")
	}
}

func (s *shelf) newest(ctx context.Context, c Condition) ([]Found, error) {
	x, err := s.store.Search(ctx, s.m, s.key, c)
	if err != nil {
		return nil, err
	}
	rows, _, err := x.Newest(ctx, nil, 40)
	return rows, err
}

// A size that is not the manifest's, and a manifest without a digest, are found before anything is read.
func TestSearchRefuses(t *testing.T) {
	t.Parallel()
	s := newShelf(t, rand.New(rand.NewPCG(7, 8)), 1000, 400)
	cut := *s.m
	cut.Bytes--
	if _, err := s.store.Search(t.Context(), &cut, s.key, Condition{}); fault.ClassOf(err) != fault.Integrity {
		t.Errorf("%v", err)
	}
	for name, change := range map[string]func(*Manifest){
		"no regions":  func(m *Manifest) { m.Regions = nil },
		"no stripes":  func(m *Manifest) { m.Stripes = nil },
		"fewer":       func(m *Manifest) { m.Regions = &Regions{Ends: m.Regions.Ends[1:], Digests: m.Regions.Digests} },
		"not in turn": func(m *Manifest) { m.Regions = &Regions{Ends: []int64{5, 1, m.Bytes}, Digests: m.Regions.Digests} },
	} {
		m := *s.m
		if change(&m); m.checkParts() == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
