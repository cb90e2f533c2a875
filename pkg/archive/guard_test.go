package archive

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

// Every call of a store is the guard's to decide about, and its answer is the store's own otherwise.
func TestGuard(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "archives")
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if s.String() != Base(dir) || Base("s3://bucket/a/?region=x&secret=y") != "s3://bucket/a" || Base("file:///a%20b") != "file:///a b" {
		t.Error(s.String(), Base(dir), Base("s3://bucket/a/?region=x&secret=y"), Base("file:///a%20b"))
	}
	calls, broken := 0, error(nil)
	s.Guard(func(ctx context.Context, call func(context.Context) error) error {
		if calls++; broken != nil {
			return broken
		}
		return call(ctx)
	})
	if err := s.put(t.Context(), "a", []byte("text")); err != nil || calls != 3 { // it is not there, is written, and is given its name
		t.Fatalf("%d calls, %v", calls, err)
	}
	if text, err := s.read(t.Context(), "a", 10); err != nil || string(text) != "text" {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := s.size(t.Context(), "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, ok := s.unguarded().(folder); !ok {
		t.Error("it is no folder any more")
	}
	broken = errors.New("let alone")
	_, sized := s.size(t.Context(), "a")
	_, opened := s.open(t.Context(), "a", 0, -1)
	_, began := s.stage(t.Context())
	for _, err := range []error{sized, opened, began, s.put(t.Context(), "c", nil)} {
		if !errors.Is(err, broken) {
			t.Error(err)
		}
	}
}
