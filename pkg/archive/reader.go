package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/parquet-go/parquet-go"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

// Row is an archived row. Its slices are valid only during the call.
type Row struct {
	ID       int64
	Leaf     [audit.HashSize]byte
	core     []byte // fields with their lengths
	personal []byte
	rest     []byte // salt and what no leaf covers
	hasSalt  bool
	erased   bool // before it was archived: personal columns are NULL
}

// AppendTuple appends the row as a tuple of COPY BINARY, in the order of Manifest.Names. With erase the personal columns and the salt are
// NULL: an erasure that is newer than the archive.
func (r *Row) AppendTuple(dst []byte, erase bool) []byte {
	at := len(dst)
	dst = audit.AppendTuple(dst, 0)
	n := countFields(r.core) + countFields(r.personal) + countFields(r.rest)
	binary.BigEndian.PutUint16(dst[at:], uint16(n)) //nolint:gosec // a table has at most 1,600 columns
	if !erase {
		return append(append(append(dst, r.core...), r.personal...), r.rest...)
	}
	dst = append(dst, r.core...)
	for range countFields(r.personal) {
		dst = audit.AppendNull(dst)
	}
	rest := r.rest
	if r.hasSalt {
		_, rest, _ = cutField(rest) // it was read as fields
		dst = audit.AppendNull(dst)
	}
	return append(dst, rest...)
}

func countFields(b []byte) (n int) {
	for len(b) > 0 {
		_, b, _ = cutField(b) // it was made of fields
		n++
	}
	return n
}

// broken is an object that is not what its manifest says.
func broken(name, format string, args ...any) error {
	return fault.New(fault.Integrity, "restore the object from a copy; while the partition is there, auditdb retention archive create makes it again",
		"archive %s: %s", name, fmt.Sprintf(format, args...))
}

// Scan reads the whole object from the store, in one pass and with constant memory, and gives its rows to fn in the order in which they
// were written, that of their ids. Size, digest, number of rows and root are compared with the manifest: only when Scan returns nil were the
// rows right. A difference is an integrity error, an object that cannot be read unavailable. fn may be nil.
func (s *Store) Scan(ctx context.Context, m *Manifest, key string, fn func(*Row) error) error {
	return s.scan(ctx, m, key, fn, nil)
}

// readBack is Scan, and makes the digests of the parts of what it has read.
func (s *Store) readBack(ctx context.Context, m *Manifest, key string) error {
	p := &parts{}
	if err := s.scan(ctx, m, key, nil, p); err != nil {
		return err
	}
	m.Regions, m.Stripes = &Regions{Ends: p.regions.ends, Digests: encodeDigests(p.regions.sums)}, &Stripes{Rows: stripeRows, Digests: encodeDigests(p.stripes)}
	return m.checkParts()
}

func (s *Store) scan(ctx context.Context, m *Manifest, key string, fn func(*Row) error, p *parts) error {
	name := s.url(key)
	size, err := s.size(ctx, key)
	if err != nil {
		return storeError(err, "read", name)
	}
	if size != m.Bytes {
		return broken(name, "it has %d bytes, its manifest says %d", size, m.Bytes)
	}
	x := &scan{m: m, name: name, hash: sha256.New(), size: size, fn: fn, parts: p}
	x.seen = x.hash
	defer func() { _ = x.stop() }() // run has said what it came to
	return x.run(ctx, s, key)
}

// scan is one pass over an object.
type scan struct {
	m    *Manifest
	name string
	hash hash.Hash
	size int64
	fn   func(*Row) error
	seen io.Writer // takes all of the object: hash, and what parts need
	*parts
	tail []byte // as it was read first: what is decoded with must be what is hashed

	window []byte // the row group at hand
	offset int64

	free, todo chan *batch
	result     chan error
	stopped    bool
}

// parts are the digests that a manifest has of an object's parts.
type parts struct {
	regions *regionHasher
	stripes []byte
}

const tailBytes = 128 << 10

func (x *scan) run(ctx context.Context, s *Store, key string) error {
	file, decodeErr := x.open(ctx, s, key)
	if decodeErr != nil && fault.ClassOf(decodeErr) == fault.Unavailable {
		return decodeErr
	}
	in, err := s.open(ctx, key, 0, -1)
	if err != nil {
		return storeError(err, "read", x.name)
	}
	defer func() { _ = in.Close() }() // nothing was written
	at := int64(0)
	if decodeErr == nil && x.parts != nil {
		x.regions = newRegionHasher(regionEnds(file, x.size))
		x.seen = io.MultiWriter(x.hash, x.regions)
	}
	if decodeErr == nil {
		at, decodeErr = x.groups(in, file)
	}
	if errors.Is(decodeErr, errStore) {
		return storeError(decodeErr, "read", x.name)
	}
	if err := x.rest(in, at); err != nil {
		return err
	}
	if got := hex.EncodeToString(x.hash.Sum(nil)); got != x.m.SHA256 {
		return broken(x.name, "its SHA-256 is %s, its manifest says %s", got, x.m.SHA256)
	}
	return decodeErr
}

// errStore marks errors of reading from the store.
var errStore = errors.New("the store failed")

// open reads the footer.
func (x *scan) open(ctx context.Context, s *Store, key string) (f *parquet.File, err error) {
	from := max(x.size-tailBytes, 0)
	for {
		in, err := s.open(ctx, key, from, x.size-from)
		if err != nil {
			return nil, storeError(err, "read", x.name)
		}
		x.tail, err = io.ReadAll(in)
		if err = errors.Join(err, in.Close()); err != nil {
			return nil, storeError(err, "read", x.name)
		}
		if int64(len(x.tail)) != x.size-from || len(x.tail) < 12 {
			return nil, broken(x.name, "it ends early")
		}
		need := int64(binary.LittleEndian.Uint32(x.tail[len(x.tail)-8:])) + 8
		if need <= int64(len(x.tail)) {
			break
		}
		if need > x.size {
			return nil, broken(x.name, "its footer is longer than it is")
		}
		from = x.size - need
	}
	defer guard(x.name, &err)
	f, err = parquet.OpenFile(readerAt(x.readAt), x.size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(16<<10))
	if err != nil {
		return nil, broken(x.name, "it is no Parquet file: %v", err)
	}
	return f, nil
}

// guard turns a panic of the decoder, which damaged bytes can cause, into a finding.
func guard(name string, err *error) {
	if p := recover(); p != nil {
		*err = broken(name, "it cannot be decoded: %v", p)
	}
}

// readerAt is a function that is an io.ReaderAt.
type readerAt func(p []byte, off int64) (int, error)

// ReadAt calls the function.
func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

var magic = []byte("PAR1")

// readAt serves the decoder from what is in memory.
func (x *scan) readAt(p []byte, off int64) (int, error) {
	if off == 0 && len(p) == len(magic) { // compared with the real one when it is hashed
		return copy(p, magic), nil
	}
	for _, part := range []struct {
		at int64
		b  []byte
	}{{x.offset, x.window}, {x.size - int64(len(x.tail)), x.tail}} {
		if off >= part.at && off < part.at+int64(len(part.b)) {
			n := copy(p, part.b[off-part.at:])
			if n < len(p) {
				return n, io.EOF
			}
			return n, nil
		}
	}
	return 0, io.ErrUnexpectedEOF
}

// take reads up to an offset and hashes it.
func (x *scan) take(in io.Reader, dst []byte) error {
	if _, err := io.ReadFull(in, dst); err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	_, err := x.seen.Write(dst)
	return err
}

// skip hashes what lies between row groups.
func (x *scan) skip(in io.Reader, n int64) error {
	if _, err := io.CopyN(x.seen, in, n); err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	return nil
}

// groups reads and decodes the row groups, and returns how far it came.
func (x *scan) groups(in io.Reader, f *parquet.File) (at int64, err error) {
	position, err := positions(f, x.m.Columns)
	if err != nil {
		return 0, broken(x.name, "%v", err)
	}
	x.start()
	for i, g := range f.RowGroups() {
		from, to := x.size, int64(0)
		for c := range f.Metadata().RowGroups[i].Columns {
			s := chunkSpan(f, i, c)
			from, to = min(from, s.from), max(to, s.to)
		}
		if from < at || to < from || to > x.size {
			return at, broken(x.name, "row group %d lies where it cannot", i)
		}
		if err := x.skip(in, from-at); err != nil {
			return at, err
		}
		at = from
		if need := int(to - from); cap(x.window) < need {
			x.window = make([]byte, need)
		}
		x.window, x.offset = x.window[:to-from], from
		if err := x.take(in, x.window); err != nil {
			return at, err
		}
		at = to
		if err := x.decode(g, position); err != nil {
			return at, err
		}
	}
	return at, x.stop()
}

// rest hashes what is left, and compares the footer with the one that was decoded with.
func (x *scan) rest(in io.Reader, at int64) error {
	tailAt := x.size - int64(len(x.tail))
	if at < tailAt {
		if err := x.skip(in, tailAt-at); err != nil {
			return storeError(err, "read", x.name)
		}
		at = tailAt
	}
	end := make([]byte, x.size-at)
	if err := x.take(in, end); err != nil {
		return storeError(err, "read", x.name)
	}
	if !bytes.HasSuffix(x.tail, end) {
		return broken(x.name, "it changed while it was being read")
	}
	if n, _ := in.Read(make([]byte, 1)); n > 0 {
		return broken(x.name, "it has more than the %d bytes of its manifest", x.size)
	}
	return nil
}

// positions finds the columns of a manifest in a file.
func positions(f *parquet.File, cols []Column) ([]int, error) {
	out := make([]int, len(cols))
	for i, c := range cols {
		leaf, ok := f.Schema().Lookup(c.Name)
		if !ok || leaf.MaxRepetitionLevel > 0 || leaf.MaxDefinitionLevel > 1 || leaf.Node.Type().Kind() != c.node().Type().Kind() {
			return nil, fmt.Errorf("column %q is not there, or of another type", c.Name)
		}
		out[i] = leaf.ColumnIndex
	}
	if n := len(f.Schema().Columns()); n != len(cols) {
		return nil, fmt.Errorf("it has %d columns, its manifest %d", n, len(cols))
	}
	return out, nil
}

// decode turns a row group into rows.
func (x *scan) decode(g parquet.RowGroup, position []int) (err error) {
	defer guard(x.name, &err)
	chunks := g.ColumnChunks()
	cursors := make([]*cursor, len(position))
	for i, p := range position {
		cursors[i] = &cursor{pages: chunks[p].Pages()}
		defer cursors[i].close()
	}
	for left := g.NumRows(); left > 0; {
		b := <-x.free
		n := int(min(left, stripeRows)) // a batch is a stripe
		for _, c := range cursors {
			if err := c.fill(n); err != nil {
				return broken(x.name, "it cannot be decoded: %v", err)
			}
		}
		for i := range n {
			for k, c := range cursors {
				b.arena = x.m.Columns[k].appendField(b.arena, c.values[i])
			}
			b.ends = append(b.ends, len(b.arena))
		}
		for _, c := range cursors {
			c.release()
		}
		left -= int64(n)
		x.todo <- b
	}
	return nil
}

// cursor reads the values of a column, which never repeat: one a row.
type cursor struct {
	pages  parquet.Pages
	page   parquet.Page
	reader parquet.ValueReader
	used   []parquet.Page // whose values are in use
	values []parquet.Value
}

func (c *cursor) fill(n int) error {
	if cap(c.values) < n {
		c.values = make([]parquet.Value, n)
	}
	c.values = c.values[:n]
	for have := 0; have < n; {
		if c.page == nil {
			page, err := c.pages.ReadPage()
			if err != nil {
				return err
			}
			c.page, c.reader = page, page.Values()
		}
		got, err := c.reader.ReadValues(c.values[have:])
		have += got
		if errors.Is(err, io.EOF) {
			c.used, c.page = append(c.used, c.page), nil
			continue
		}
		if err != nil {
			return err
		}
		if got == 0 {
			return io.ErrNoProgress
		}
	}
	return nil
}

// release gives back pages whose values were taken.
func (c *cursor) release() {
	for _, p := range c.used {
		parquet.Release(p)
	}
	c.used = c.used[:0]
}

func (c *cursor) close() {
	c.release()
	if c.page != nil {
		parquet.Release(c.page)
	}
	_ = c.pages.Close() // it is all in memory
}
