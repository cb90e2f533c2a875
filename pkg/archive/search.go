package archive

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/parquet-go/parquet-go"

	"auditdb/internal/fault"
)

// Condition is what rows are looked for by. It may let rows through that its maker does not want, but never keeps back one that he wants.
type Condition struct {
	Equal    []Equal // all of them
	From, To *time.Time
}

// Equal wants a text in a column.
type Equal struct{ Column, Value string }

// Position is where a row stands in the order of answers: newest first, by the partition key and then the id, both as PostgreSQL's binary form has
// them.
type Position struct{ Key, ID int64 }

// Before says whether p comes before q in an answer.
func (p Position) Before(q Position) bool {
	return p.Key > q.Key || p.Key == q.Key && p.ID > q.ID
}

// Found is a row of an archive.
type Found struct {
	Position
	row   Row
	group int
	at    int32 // in the row group
}

// Values are the fields of the row in the order of Manifest.Names, in the binary form of their types, nil for NULL. With erase the personal ones
// are: an erasure that is newer than the archive.
func (f *Found) Values(erase bool) [][]byte {
	tuple := f.row.AppendTuple(nil, erase || f.row.erased)
	var values [][]byte
	for rest := tuple[2:]; len(rest) > 0; {
		var v []byte
		v, rest, _ = cutField(rest) // it was made of fields
		values = append(values, v)
	}
	return values
}

// Search looks for rows in one archive. What it reads is checked: the parts that say which rows match by their digests in the manifest, the rows
// by the digest over the leaves of their stripe. It is not for use by several goroutines.
type Search struct {
	in        *ranges
	file      *parquet.File
	cond      Condition
	position  []int // of the manifest's columns in the file
	key, id   int   // in the manifest's columns
	from, to  int64 // of keys, without to
	stripes   [][digestBytes]byte
	groups    []*group // newest first
	narrowed  bool     // groups without a match have been taken out, as far as bloom filters can tell
	hash      *rowHasher
	batch     batch
	remembers int // rows that groups keep in mind
}

// group is a row group.
type group struct {
	n        int // its place in the file
	rg       parquet.RowGroup
	stripe   int   // its first
	min, max int64 // of keys
	matching []int32
	matched  bool // matching is filled in
}

// Search begins to look for rows in the object of a manifest, of which size and footer are read.
func (s *Store) Search(ctx context.Context, m *Manifest, key string, cond Condition) (*Search, error) {
	in := &ranges{store: s, key: key, m: m, digests: decodeDigests(m.Regions.Digests, len(m.Regions.Ends)), cost: Cost{Bytes: m.text, Requests: 1}}
	size, err := s.size(ctx, key)
	if err != nil {
		return nil, storeError(err, "read", in.name())
	}
	if size != m.Bytes {
		return nil, broken(in.name(), "it has %d bytes, its manifest says %d", size, m.Bytes)
	}
	x := &Search{in: in, cond: cond, from: math.MinInt64, to: math.MaxInt64, hash: newRowHasher(m)}
	if err := x.keys(); err != nil {
		return nil, err
	}
	if err := in.whole(ctx, in.last()); err != nil {
		return nil, err
	}
	return x, x.open(size)
}

// Cost is what was read so far.
func (x *Search) Cost() Cost { return x.in.cost }

// keys finds the columns that rows are ordered by.
func (x *Search) keys() error {
	m := x.in.m
	find := func(name string) int {
		return slices.IndexFunc(m.Columns, func(c Column) bool { return c.Name == name && c.Role == roleCore })
	}
	if x.key, x.id = find(m.KeyColumn), find(idColumn); x.key < 0 || x.id < 0 || !slices.Contains([]string{asInstant, asTimestamp, asDate}, m.Columns[x.key].Encoding) {
		return fault.New(fault.Usage, "auditdb retention restore puts it back", "archive %s: archives are searched by a key of type timestamptz, timestamp or date, not by %s", x.in.name(), m.KeyColumn)
	}
	date := m.Columns[x.key].Encoding == asDate
	if x.cond.From != nil {
		x.from = KeyAt(*x.cond.From, date)
	}
	if x.cond.To != nil {
		x.to = KeyAt(*x.cond.To, date) + 1 // it may lie between two values
	}
	return nil
}

// KeyAt is PostgreSQL's binary form of a time: microseconds since 2000, or days of a date.
func KeyAt(at time.Time, date bool) int64 {
	if !date {
		return at.UnixMicro() - epochMicros
	}
	days := at.Unix() / 86400
	if at.Unix()%86400 < 0 {
		days--
	}
	return days - epochDays
}

// open reads the footer, which has been checked.
func (x *Search) open(size int64) (err error) {
	m := x.in.m
	defer guard(x.in.name(), &err)
	x.file, err = parquet.OpenFile(x.in, size, parquet.SkipMagicBytes(true), parquet.SkipBloomFilters(true), parquet.SkipPageIndex(true), parquet.ReadBufferSize(16<<10))
	if err != nil {
		return broken(x.in.name(), "it is no Parquet file: %v", err)
	}
	if x.position, err = positions(x.file, m.Columns); err != nil {
		return broken(x.in.name(), "%v", err)
	}
	stripe := 0
	for i, rg := range x.file.RowGroups() {
		g := &group{n: i, rg: rg, stripe: stripe, min: math.MinInt64, max: math.MaxInt64}
		stripe += (int(rg.NumRows()) + m.Stripes.Rows - 1) / m.Stripes.Rows
		if err := x.bound(g); err != nil {
			return err
		}
		if g.max >= x.from && g.min < x.to {
			x.groups = append(x.groups, g)
		}
	}
	if x.stripes = decodeDigests(m.Stripes.Digests, stripe); x.stripes == nil {
		return broken(x.in.name(), "its manifest has not as many digests as there are stripes")
	}
	slices.SortStableFunc(x.groups, func(a, b *group) int { return cmp.Compare(b.max, a.max) })
	return nil
}

// finite says that every key is a time that does not wrap around in Parquet.
func (x *Search) finite() bool { return x.in.m.To != nil }

// keyOf is PostgreSQL's form of a value of the key.
func (x *Search) keyOf(v parquet.Value) int64 {
	if x.in.m.Columns[x.key].Encoding == asDate {
		return int64(v.Int32() - epochDays)
	}
	return v.Int64() - epochMicros
}

// bound finds the smallest and the largest key of a row group.
func (x *Search) bound(g *group) error {
	index, err := x.chunk(g, x.key).ColumnIndex()
	if err != nil {
		return broken(x.in.name(), "it has no page index: %v", err)
	}
	if !x.finite() || g.rg.NumRows() == 0 {
		return nil
	}
	g.min, g.max = math.MaxInt64, math.MinInt64
	for i := range index.NumPages() {
		if !index.NullPage(i) {
			g.min, g.max = min(g.min, x.keyOf(index.MinValue(i))), max(g.max, x.keyOf(index.MaxValue(i)))
		}
	}
	return nil
}

// chunk is a column of a row group, by its place in the manifest.
func (x *Search) chunk(g *group, column int) parquet.ColumnChunk {
	return g.rg.ColumnChunks()[x.position[column]]
}

// want says whether a key lies in the range.
func (x *Search) want(key int64) bool { return key >= x.from && key < x.to }

// fieldAt is the n-th of fields.
func fieldAt(b []byte, n int) (v []byte) {
	for range n + 1 {
		v, b, _ = cutField(b) // it was made of fields
	}
	return v
}

// found makes a row of its own of one that is only valid during a call.
func (x *Search) found(g *group, at int32, r *Row) Found {
	f := Found{Position: Position{Key: signed(fieldAt(r.core, x.key)), ID: r.ID}, group: g.n, at: at}
	all := slices.Concat(r.core, r.personal, r.rest)
	core, personal := len(r.core), len(r.core)+len(r.personal)
	f.row = Row{ID: r.ID, Leaf: r.Leaf, core: all[:core:core], personal: all[core:personal:personal], rest: all[personal:], hasSalt: r.hasSalt, erased: r.erased}
	return f
}
