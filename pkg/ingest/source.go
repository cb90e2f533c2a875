package ingest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// Source is something to read events from.
type Source struct {
	Name   string    // what the database knows it by: by default its absolute path
	Path   string    // of a file
	In     io.Reader // of a stream without a path
	stream bool      // can be read once only, and its path does not name its content
	found  bool      // in a folder: nobody has named it
	gone   string    // in a folder: why it cannot be read, "" where it can
}

// Stdin is the argument that stands for standard input.
const Stdin = "-"

// Expand makes sources of arguments: files, folders (all files in them, subfolders included, but no hidden ones) and "-" for in.
// Everything is looked at before anything is read; what is missing is a usage error. name overrides the name of a single source and must
// be given for "-".
func Expand(args []string, name string, in io.Reader) ([]Source, error) {
	var all []Source
	for _, arg := range args {
		if arg == Stdin {
			all = append(all, Source{In: in, stream: true})
			continue
		}
		found, err := expandPath(arg)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	if err := nameSources(all, name); err != nil {
		return nil, err
	}
	return all, nil
}

func nameSources(all []Source, name string) error {
	if name != "" && len(all) != 1 {
		return fault.New(fault.Usage, "leave --source out: each file is known by its path", "--source names one source, there are %d", len(all))
	}
	seen := map[string]bool{}
	for i := range all {
		if name != "" {
			all[i].Name = name
		}
		switch {
		case all[i].Name == "":
			return fault.New(fault.Usage, "--source NAME: events of the same name are taken once", "standard input and pipes need a name")
		case !utf8.ValidString(all[i].Name):
			return fault.New(fault.Usage, "--source NAME", "the source's name %q is not UTF-8, and cannot be stored", all[i].Name)
		case strings.ContainsRune(all[i].Name, 0) || len(all[i].Name) > 2000:
			return fault.New(fault.Usage, "", "the source's name is too long or has a NUL byte")
		case seen[all[i].Name]:
			return fault.New(fault.Usage, "", "%s is given twice", all[i].Name)
		}
		seen[all[i].Name] = true
	}
	return nil
}

// expandPath makes sources of one argument. A pattern that no shell has expanded is expanded here, unless a file has that very name.
func expandPath(arg string) ([]Source, error) {
	info, err := os.Stat(arg)
	if err != nil && strings.ContainsAny(arg, "*?[") {
		return expandPattern(arg)
	}
	if target := danglesTo(arg); target != "" {
		return nil, fault.New(fault.Usage, "", "look for the input: %s is a link to %s, which is not there", arg, target)
	}
	if err != nil {
		return nil, fault.New(fault.Usage, "", "look for the input: %w", err)
	}
	abs, err := filepath.Abs(arg)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "look for %s: %w", arg, err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return []Source{{Path: abs, stream: true}}, nil
	}
	if !info.IsDir() {
		if err := readable(abs); err != nil {
			return nil, err
		}
		return []Source{{Name: abs, Path: abs}}, nil
	}
	var found []Source
	err = filepath.WalkDir(abs, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(d.Name(), ".") && path != abs:
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.Type()&fs.ModeSymlink != 0 && danglesTo(path) != "":
			found = append(found, Source{Name: path, Path: path, found: true, gone: "it is a link to " + danglesTo(path) + ", which is not there"})
		case isFile(path, d):
			found = append(found, Source{Name: path, Path: path, found: true})
			return readable(path)
		}
		return nil
	})
	if err != nil {
		return nil, fault.New(fault.Usage, "", "list %s: %w", arg, err)
	}
	slices.SortFunc(found, func(a, b Source) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

// expandPattern makes sources of all that a pattern such as logs/*.json names.
func expandPattern(pattern string) ([]Source, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "look for %s: %w", pattern, err)
	}
	if len(paths) == 0 {
		return nil, fault.New(fault.Usage, "", "look for the input: nothing is called %s", pattern)
	}
	var all []Source
	for _, path := range paths {
		found, err := expandPath(path)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// danglesTo returns the target of a symbolic link that leads nowhere, "" for anything else.
func danglesTo(path string) string {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return target
}

// Size returns the bytes that the sources have together, as they are stored; 0 where it is not known of one.
func Size(sources []Source) int64 {
	var n int64
	for _, s := range sources {
		info, err := os.Stat(s.Path)
		if s.stream || err != nil && s.gone == "" {
			return 0
		}
		if err == nil {
			n += info.Size()
		}
	}
	return n
}

// isFile tells files and links to files.
func isFile(path string, d fs.DirEntry) bool {
	if d.Type()&fs.ModeSymlink == 0 {
		return d.Type().IsRegular()
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// readable opens a file once, so that a missing right is found before any other file is read.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fault.New(fault.Usage, "", "open the input: %w", err)
	}
	return f.Close()
}

// source is a Source in work.
type source struct {
	Source
	lockName string
	guard    *source // has the lock in its place; nil: it has its own
	header   []byte  // of CSV, as it stands there; nil for other formats
	mapper   mapper
	state    sourceState
	head     headSum // of a new source

	mu      sync.Mutex
	lock    *postgres.Lock
	refs    int // the reader, and each chunk on its way
	report  SourceReport
	whole   bool // read to the end, and everything in it committed
	failed  bool
	leftOut bool // in a folder, and not of events
	again   bool // read again in one run: what was committed before is counted already

	covered   int64  // records that are committed
	onRelease func() // told when nobody holds it any more; may be nil
	sum       []byte
	size      int64
}

// sourceState is what the database has about a source.
type sourceState struct {
	id         int64 // 0: not known yet
	format     string
	mapping    string
	mappingSum []byte
	head       headSum
	finished   bool
	sum        []byte
	size       int64
	ranges     []doneRange // ascending
}

// headSum is the digest of a source's first bytes.
type headSum struct {
	sum   []byte
	bytes int
}

// doneRange is a committed range of records.
type doneRange struct {
	first, last int64
	sum         []byte
}

func (s *sourceState) done() int64 {
	var n int64
	for _, r := range s.ranges {
		n += r.last - r.first + 1
	}
	return n
}

// maxHead is how much of a source's beginning identifies it.
const maxHead = 4096

func newHead(b []byte) headSum {
	sum := sha256.Sum256(b)
	return headSum{sum: sum[:], bytes: len(b)}
}

// errChanged says that what is committed of a source is not what the source has now.
func errChanged(name, what string) error {
	return fault.New(fault.Refused, "if it is another source now, give it a name of its own with --source", "%s has changed since it was read: %s", name, what)
}

// about says what was being done with the source, where the error does not: the system's errors name the file, and that a source has
// changed is said of it by name.
func (s *source) about(doing string, err error) error {
	var file *fs.PathError
	if errors.As(err, &file) && file.Path == s.Path && s.Path == s.Name || fault.ClassOf(err) == fault.Refused {
		return err
	}
	return fmt.Errorf("%s %s: %w", doing, s.Name, err)
}

// open opens the source's stored bytes. Reading ends with ctx.
func (s *source) open(ctx context.Context) (io.Reader, func(), error) {
	if s.Path == "" {
		return newStreamReader(ctx, s.In), func() {}, nil
	}
	f, err := os.Open(s.Path)
	if err != nil {
		return nil, nil, s.about("open", err)
	}
	if s.stream {
		return newStreamReader(ctx, f), func() { _ = f.Close() }, nil // read only
	}
	return &cancelReader{ctx, f}, func() { _ = f.Close() }, nil // read only
}

// unchanged tells whether a finished file is still the same, by size and digest, without parsing it.
func (s *source) unchanged(ctx context.Context) (bool, error) {
	if s.stream || !s.state.finished {
		return false, nil
	}
	f, err := os.Open(s.Path)
	if err != nil {
		return false, s.about("open", err)
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return false, s.about("look at", err)
	}
	if info.Size() != s.state.size {
		return false, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, &cancelReader{ctx, f}); err != nil {
		return false, s.about("read", err)
	}
	return string(h.Sum(nil)) == string(s.state.sum), nil
}

// cancelReader ends reading with its context.
type cancelReader struct {
	ctx context.Context //nolint:containedctx // a reader has no other way to see it
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// streamReader ends a wait for bytes that may never come with its context. The goroutine that waits ends with the stream.
type streamReader struct {
	ctx    context.Context //nolint:containedctx // a reader has no other way to see it
	pieces chan piece
	rest   []byte
	err    error
}

type piece struct {
	b   []byte
	err error
}

func newStreamReader(ctx context.Context, r io.Reader) *streamReader {
	s := &streamReader{ctx: ctx, pieces: make(chan piece, 1)}
	go func() {
		for {
			b := make([]byte, readSize)
			n, err := r.Read(b)
			select {
			case s.pieces <- piece{b[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *streamReader) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		select {
		case next := <-s.pieces:
			s.rest, s.err = next.b, next.err
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}
