package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// Store is where archives are: a folder, or a prefix of a bucket.
type Store struct {
	backend
	base string // its address without parameters and secrets
}

// backend keeps objects by name. A name that is not there gives fs.ErrNotExist, in stage's commit one that is there fs.ErrExist.
type backend interface {
	stage(ctx context.Context) (staged, error)
	size(ctx context.Context, key string) (int64, error)
	open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) // length -1: to the end
	close() error
}

// Guard lets do decide about every call of the store, as a circuit breaker does.
func (s *Store) Guard(do func(ctx context.Context, call func(context.Context) error) error) {
	s.backend = guarded{s.backend, do}
}

func (s *Store) unguarded() backend {
	if g, ok := s.backend.(guarded); ok {
		return g.backend
	}
	return s.backend
}

type guarded struct {
	backend
	do func(ctx context.Context, call func(context.Context) error) error
}

// stage asks a folder. What goes to a bucket is written to this host first, which shows nothing of the bucket.
func (g guarded) stage(ctx context.Context) (s staged, err error) {
	begin := func(ctx context.Context) (err error) {
		s, err = g.backend.stage(ctx)
		return err
	}
	if _, local := g.backend.(bucket); local {
		err = begin(ctx)
	} else {
		err = g.do(ctx, begin)
	}
	if err != nil {
		return nil, err
	}
	return guardedObject{s, g.do}, nil
}

func (g guarded) size(ctx context.Context, key string) (n int64, err error) {
	err = g.do(ctx, func(ctx context.Context) (err error) {
		n, err = g.backend.size(ctx, key)
		return err
	})
	return n, err
}

func (g guarded) open(ctx context.Context, key string, offset, length int64) (r io.ReadCloser, err error) {
	err = g.do(ctx, func(ctx context.Context) (err error) {
		r, err = g.backend.open(ctx, key, offset, length)
		return err
	})
	return r, err
}

type guardedObject struct {
	staged
	do func(ctx context.Context, call func(context.Context) error) error
}

func (o guardedObject) commit(ctx context.Context, key string, replace bool) error {
	return o.do(ctx, func(ctx context.Context) error { return o.staged.commit(ctx, key, replace) })
}

// staged is an object that is being written and is not there yet.
type staged interface {
	io.Writer
	// commit puts the object under its name, durably.
	commit(ctx context.Context, key string, replace bool) error
	// discard gives it up; after commit it does nothing.
	discard()
}

// Open opens the store of an address: a path or file:///path for a folder, which is made when it is not there, or s3://bucket/prefix with
// the parameters region and endpoint. Nothing is connected to before the first use. An address of another kind is a configuration error.
func Open(ctx context.Context, address string) (*Store, error) {
	scheme, rest, isURL := strings.Cut(address, "://")
	switch {
	case address == "":
		return nil, fault.New(fault.Config, "set archive.url (AUDITDB_ARCHIVE_URL) to file:///path or s3://bucket/prefix?region=…", "no archive store is configured")
	case !isURL:
		return openFolder(address)
	case scheme == "file":
		path, err := url.PathUnescape(rest)
		if err != nil || !strings.HasPrefix(path, "/") {
			return nil, fault.New(fault.Config, "write file:///absolute/path", "archive store %s names no folder", postgres.RedactURL(address))
		}
		return openFolder(path)
	case scheme == "s3":
		return openBucket(ctx, address)
	}
	return nil, fault.New(fault.Config, "use file:// or s3://", "archive store %s: unknown kind of address", postgres.RedactURL(address))
}

// Base is the address of a store without parameters and secrets.
func Base(address string) string {
	scheme, rest, isURL := strings.Cut(address, "://")
	if path, err := url.PathUnescape(rest); err == nil && scheme == "file" {
		address, isURL = path, false
	}
	if !isURL {
		if path, err := filepath.Abs(address); err == nil {
			address = path
		}
		return "file://" + address
	}
	if u, err := url.Parse(address); err == nil {
		return u.Scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/")
	}
	return postgres.RedactURL(address)
}

// String names the store without secrets.
func (s *Store) String() string { return s.base }

// Close gives up connections.
func (s *Store) Close() error { return s.close() }

// url is the address of an object, as it is recorded.
func (s *Store) url(key string) string { return s.base + "/" + key }

// key finds an object's name in its address, also where the store has moved since: names begin with their schema.
func (s *Store) key(address string) (string, error) {
	if key, ok := strings.CutPrefix(address, s.base+"/"); ok {
		return key, nil
	}
	if i := strings.Index(address, "/schema="); i >= 0 {
		return address[i+1:], nil
	}
	return "", fault.New(fault.Data, "", "%s is no address of an archive", address)
}

// put writes a small object unless it is there with the same content.
func (s *Store) put(ctx context.Context, key string, text []byte) error {
	there, err := s.read(ctx, key, int64(len(text))+1)
	if err == nil && string(there) == string(text) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	o, err := s.stage(ctx)
	if err != nil {
		return err
	}
	defer o.discard()
	if _, err := o.Write(text); err != nil {
		return storeError(err, "write", s.url(key))
	}
	return storeError(o.commit(ctx, key, true), "write", s.url(key))
}

// read reads at most limit bytes of an object.
func (s *Store) read(ctx context.Context, key string, limit int64) ([]byte, error) {
	r, err := s.open(ctx, key, 0, -1)
	if err != nil {
		return nil, storeError(err, "read", s.url(key))
	}
	defer func() { _ = r.Close() }() // nothing was written
	text, err := io.ReadAll(io.LimitReader(r, limit))
	return text, storeError(err, "read", s.url(key))
}

// storeError says which object failed. What is not there is unavailable too: it could not be looked at.
func storeError(err error, doing, name string) error {
	if err == nil || fault.ClassOf(err) != "" || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Unavailable, "look whether the store has lost it", "%s %s: it is not there: %w", doing, name, fs.ErrNotExist)
	}
	return fault.New(fault.Unavailable, "check archive.url, the store and its space", "%s %s: %w", doing, name, err)
}

// escape makes a part of an object's name of any text, as Hive does.
func escape(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
