package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	maxTails    = 64 // files read at once
	pollFiles   = 250 * time.Millisecond
	idleToEvict = time.Second
	settled     = 5 * time.Second // a compressed file that was written to since may not be whole yet
)

// Follow says which files a run follows, until its context ends.
type Follow struct {
	Roots []string      // files, which may not be there yet, and folders
	Flush time.Duration // how long a record waits for others at most; 0: 1 s
	Grace time.Duration // how long a file that was renamed is still read when nothing more comes; 0: 10 s
}

// root is a file or a folder that is followed. A file is known to the database by its path, and each file that later takes the place of
// a rotated one by path#2, path#3 and so on. Which one a file is, its first bytes tell: a rotated file is gone on with under whatever
// name it has now.
type root struct {
	path  string
	guard *source // has the lock
	known []*generation
}

// generation is a source of a root.
type generation struct {
	name    string
	head    headSum   // what the database has; bytes 0: nothing yet
	seen    time.Time // when the database got it; zero: in this run
	tail    *tail     // nil: nobody reads it
	src     *source   // its counts in this run
	size    int64     // of the file when it was read to its end, to skip it next time
	ignored bool      // no source of events, or one that has changed
}

// follower starts and ends the tails of a run.
type follower struct {
	run   *run
	o     Follow
	roots []*root
	start time.Time

	mu    sync.Mutex // guards tails and what the roots know
	tails []*tail
	group *errgroup.Group
}

// followAll reads the files of o until ctx ends. What was read is sent under pipe, which outlives ctx a little.
func (r *run) followAll(ctx, pipe context.Context, o Follow) error {
	if o.Flush <= 0 {
		o.Flush = time.Second
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	f := &follower{run: r, o: o, start: r.opts.Now()}
	wait, cancel := context.WithCancelCause(pipe)
	defer cancel(context.Canceled)
	defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
	for _, path := range o.Roots {
		if err := f.open(wait, path); err != nil {
			return err
		}
	}
	f.group, wait = errgroup.WithContext(wait)
	var err error
	for pause := time.Duration(0); err == nil && waited(wait, pause); {
		before := r.opts.Now()
		err = f.scan(wait, pipe)
		pause = max(pollFiles, 20*r.opts.Now().Sub(before)) // looking is a small share of the time however many files there are
	}
	if err != nil {
		cancel(err)
	}
	err = errors.Join(err, f.group.Wait())
	for _, one := range f.roots {
		one.guard.unlock()
	}
	return err
}

// waited waits for d; false when ctx has ended.
func waited(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// open locks a root and reads what the database knows of it.
func (f *follower) open(ctx context.Context, path string) error {
	one := &root{path: path, guard: &source{Source: Source{Name: path}, lockName: fmt.Sprintf("ingest:%d:%s", f.run.tableID, path)}}
	if err := one.guard.acquire(ctx, f.run); err != nil {
		return err
	}
	f.roots = append(f.roots, one)
	return postgres.Retry(ctx, f.run.retry(), func(ctx context.Context) (err error) {
		one.known, err = loadGenerations(ctx, f.run.db.Pool(), f.run.tableID, path)
		return err
	})
}

// candidate is a file that may be one to read.
type candidate struct {
	path string
	info os.FileInfo
	live bool // it has the name that is followed; another file beside it may be one that was rotated

	found bool // in a folder
}

// scan looks at the files as they are now, and starts tails for what nobody reads.
func (f *follower) scan(ctx, pipe context.Context) error {
	for _, one := range f.roots {
		files, err := candidates(one.path)
		if err != nil {
			return err
		}
		for _, c := range files {
			if err := ctx.Err(); err != nil {
				return nil //nolint:nilerr // the caller sees that it was told to stop
			}
			if err := f.consider(ctx, pipe, one, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// candidates lists the files of a root, older ones first, so that what was rotated comes before what took its place. Files that are gone
// the moment after are no error.
func candidates(path string) ([]candidate, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return walk(path), nil
	}
	var all []candidate
	if err == nil {
		all = append(all, candidate{path: path, info: info, live: true})
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fault.New(fault.Usage, "", "follow %s: %w", path, err)
	}
	for _, e := range entries {
		if e.Name() == filepath.Base(path) || !strings.HasPrefix(e.Name(), filepath.Base(path)) {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			all = append(all, candidate{path: filepath.Join(filepath.Dir(path), e.Name()), info: info})
		}
	}
	sortFiles(all)
	return all, nil
}

// walk lists the files of a folder that Expand would take.
func walk(dir string) []candidate {
	var all []candidate
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // gone again, or not ours to read
		case strings.HasPrefix(d.Name(), ".") && path != dir:
			if d.IsDir() {
				return filepath.SkipDir
			}
		case isFile(path, d):
			if info, err := os.Stat(path); err == nil {
				all = append(all, candidate{path: path, info: info, live: true, found: true})
			}
		}
		return nil
	})
	sortFiles(all)
	return all
}

func sortFiles(all []candidate) {
	slices.SortStableFunc(all, func(a, b candidate) int {
		switch {
		case a.live && !b.live:
			return 1
		case b.live && !a.live:
			return -1
		}
		return a.info.ModTime().Compare(b.info.ModTime())
	})
}

// consider starts a tail for a file that nobody reads and that has something new.
func (f *follower) consider(ctx, pipe context.Context, one *root, c candidate) error {
	if c.info.Size() == 0 || f.isOpen(c.info) || f.run.opts.Rejects.is(c.info) {
		return nil
	}
	head, compressed, err := readHead(ctx, c.path)
	if err != nil || len(head) == 0 {
		return nil // it has gone again, or is not whole yet: the next scan sees
	}
	fresh := f.run.opts.Now().Sub(c.info.ModTime()) < settled
	if fresh && (compressed || len(head) < maxHead && bytes.IndexByte(head, '\n') < 0) {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	g := one.find(head)
	switch {
	case g != nil && (g.tail != nil || g.ignored || g.size > 0 && g.size >= c.info.Size()):
		return nil
	case g == nil && !c.live && (len(one.known) == 0 || c.info.ModTime().Before(f.begun(one))):
		return nil // rotated before anybody followed
	case !f.room():
		return nil
	}
	if g == nil {
		g = &generation{name: one.newName(c.path)}
		one.known = append(one.known, g)
	}
	t, err := newTail(f, g, c, head, compressed)
	if err != nil {
		return nil // it has gone again
	}
	if g.src == nil {
		g.src = &source{Source: Source{Name: g.name, found: c.found}, guard: one.guard, report: SourceReport{Name: g.name}}
		f.run.mu.Lock()
		f.run.followed = append(f.run.followed, g.src)
		f.run.mu.Unlock()
	}
	g.tail = t
	f.tails = append(f.tails, t)
	f.group.Go(func() error { return t.run(ctx, pipe) })
	return nil
}

// begun is when the root was followed first.
func (f *follower) begun(one *root) time.Time {
	first := f.start
	for _, g := range one.known {
		if !g.seen.IsZero() && g.seen.Before(first) {
			first = g.seen
		}
	}
	return first
}

// isOpen tells whether a tail reads this very file.
func (f *follower) isOpen(info os.FileInfo) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.tails, func(t *tail) bool { return os.SameFile(t.info, info) })
}

// room tells whether one more file may be read; if not, it ends the tail that has waited longest for more.
func (f *follower) room() bool {
	if len(f.tails) < maxTails {
		return true
	}
	longest := slices.MaxFunc(f.tails, func(a, b *tail) int { return int(a.idle.Load() - b.idle.Load()) })
	if time.Duration(longest.idle.Load()) > idleToEvict {
		longest.evicted.Store(true)
	}
	return false
}

// ended takes a tail out; its generation is free for another file.
func (f *follower) ended(t *tail) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.gen.tail = nil
	f.tails = slices.DeleteFunc(f.tails, func(o *tail) bool { return o == t })
}

// find returns the generation that a file with this beginning is of; nil: a new one.
func (r *root) find(head []byte) *generation {
	var best *generation
	for _, g := range r.known {
		switch {
		case g.tail != nil && g.tail.begins(head):
			return g
		case g.head.bytes == 0 || g.head.bytes > len(head) || best != nil && best.head.bytes >= g.head.bytes:
		case string(newHead(head[:g.head.bytes]).sum) == string(g.head.sum):
			best = g
		}
	}
	return best
}

// newName returns a name that no source of the root has: the path, or the path with a number.
func (r *root) newName(path string) string {
	if !strings.HasPrefix(path, r.path+string(filepath.Separator)) {
		path = r.path // rotated files of a file are known by its name
	}
	name := path
	for n := 2; slices.ContainsFunc(r.known, func(g *generation) bool { return g.name == name }); n++ {
		name = fmt.Sprintf("%s#%d", path, n)
	}
	return name
}

// readHead reads the beginning of a file's content.
func readHead(ctx context.Context, path string) (head []byte, compressed bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = f.Close() }() // read only
	in, err := openInput(&cancelReader{ctx, f})
	if err != nil {
		return nil, false, err
	}
	defer in.close()
	w := newWindow(in)
	head = w.ahead(maxHead)
	return slices.Clone(head[:min(len(head), maxHead)]), in.name != "", w.err
}

// FollowRoots checks the arguments of a run that follows: no streams, and folders that are there.
func FollowRoots(args []string) ([]string, error) {
	var roots []string
	for _, arg := range args {
		if arg == Stdin {
			return nil, fault.New(fault.Usage, "name files or folders; standard input is read to its end without --follow as well", "--follow does not go with -")
		}
		path, err := filepath.Abs(arg)
		if err != nil {
			return nil, fault.New(fault.Usage, "", "look for %s: %w", arg, err)
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			_, err = os.Stat(filepath.Dir(path))
		case err == nil && info.Mode().IsRegular():
			err = readable(path)
		case err == nil && !info.IsDir():
			return nil, fault.New(fault.Usage, "", "--follow reads files and folders: %s is neither", arg)
		}
		if err != nil {
			return nil, fault.New(fault.Usage, "", "look for the input: %w", err)
		}
		if !slices.Contains(roots, path) {
			roots = append(roots, path)
		}
	}
	return roots, nil
}
