package archive

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"auditdb/internal/fault"
)

// stagePrefix begins the names of files that are being written.
const stagePrefix = ".auditdb-stage-"

// folder keeps objects as files. A file gets its name when it is whole and on disk.
type folder string

func openFolder(path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fault.New(fault.Config, "", "archive store %s: %w", path, err)
	}
	return &Store{backend: folder(path), base: "file://" + path}, nil
}

// blank says that no archive is in the folder.
func (f folder) blank() (bool, error) {
	entries, err := os.ReadDir(string(f))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, storeError(err, "read", string(f))
	}
	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), "schema=") }), nil
}

func (f folder) path(key string) string { return filepath.Join(string(f), filepath.FromSlash(key)) }

func (f folder) stage(context.Context) (staged, error) {
	if err := makeFolder(string(f)); err != nil {
		return nil, storeError(err, "write to", string(f))
	}
	f.sweep()
	out, err := os.CreateTemp(string(f), stagePrefix)
	if err != nil {
		return nil, storeError(err, "write to", string(f))
	}
	if err := unix.Flock(int(out.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = out.Close() // nothing is in it
		return nil, storeError(err, "lock", out.Name())
	}
	return &stagedFile{File: out, store: f}, nil
}

// sweep removes what killed runs were writing: nobody holds its lock any more.
func (f folder) sweep() {
	left, _ := filepath.Glob(filepath.Join(string(f), stagePrefix+"*")) // the pattern is well-formed
	for _, name := range left {
		in, err := os.Open(name)
		if err != nil {
			continue
		}
		if unix.Flock(int(in.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(name) // it costs space only
		}
		_ = in.Close() // nothing was written
	}
}

type stagedFile struct {
	*os.File
	store folder
	gone  bool
}

func (s *stagedFile) commit(_ context.Context, key string, replace bool) error {
	path := s.store.path(key)
	if err := errors.Join(s.Chmod(0o640), s.Sync(), makeFolder(filepath.Dir(path))); err != nil {
		return err
	}
	if replace {
		if err := os.Rename(s.Name(), path); err != nil {
			return err
		}
		s.gone = true
	} else if err := os.Link(s.Name(), path); err != nil {
		return err
	}
	return errors.Join(syncFolder(filepath.Dir(path)), s.Close())
}

func (s *stagedFile) discard() {
	if !s.gone {
		_ = os.Remove(s.Name()) // the next run sweeps it up
	}
	_ = s.Close() // after commit it is closed already
}

// makeFolder makes a folder with those above it, durably.
func makeFolder(path string) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
		}
		return nil
	}
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f folder) size(_ context.Context, key string) (int64, error) {
	info, err := os.Stat(f.path(key))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f folder) open(_ context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	in, err := os.Open(f.path(key))
	if err != nil {
		return nil, err
	}
	if _, err := in.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	if length < 0 {
		return in, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(in, length), in}, nil
}

func (f folder) close() error { return nil }
