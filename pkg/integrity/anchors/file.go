package anchors

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
)

// tailBytes is how much of an append-only file is read: enough for many checkpoints.
const tailBytes = 256 << 10

// file is an append-only file of checkpoints, one after another with an empty line between.
type file struct{ name, path string }

// String names the file.
func (f *file) String() string { return postgres.RedactURL(f.name) }

// Close does nothing.
func (f *file) Close() error { return nil }

// Newest reads the end of the file.
func (f *file) Newest(_ context.Context, n int) ([]string, error) {
	in, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // nothing was written
	return newestOf(in, n)
}

func newestOf(in *os.File, n int) ([]string, error) {
	size, err := in.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	at := max(size-tailBytes, 0)
	text, err := io.ReadAll(io.NewSectionReader(in, at, size-at))
	if err != nil {
		return nil, err
	}
	return newestNotes(text, at > 0, n), nil
}

// newestNotes cuts the text of an append-only file, whose first checkpoint is left out when it is cut. A note is text, an empty line and
// signatures; the next one comes after another empty line.
func newestNotes(text []byte, cut bool, n int) []string {
	parts := strings.Split(strings.Trim(string(text), "\n"), "\n\n")
	var notes []string
	for i := 0; i+1 < len(parts); i += 2 {
		notes = append(notes, parts[i]+"\n\n"+parts[i+1]+"\n")
	}
	if len(parts)%2 == 1 && parts[0] != "" { // cut in a signature, or damaged
		notes = nil
		for i := len(parts) - 2; i >= 0; i -= 2 {
			notes = append([]string{parts[i] + "\n\n" + parts[i+1] + "\n"}, notes...)
		}
		if !cut {
			notes = append([]string{parts[0]}, notes...)
		}
	} else if cut && len(notes) > 0 {
		notes = notes[1:]
	}
	slices.Reverse(notes)
	return notes[:min(n, len(notes))]
}

// Put appends under a lock and waits for the disk.
func (f *file) Put(_ context.Context, cp integrity.Checkpoint, beside bool) (err error) {
	out, err := os.OpenFile(f.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644) //nolint:gosec // checkpoints are public
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := unix.Flock(int(out.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	notes, err := newestOf(out, 1)
	if err != nil {
		return err
	}
	if len(notes) == 1 {
		newest, _, err := integrity.ParseCheckpoint(notes[0])
		switch {
		case err != nil:
			return err
		case newest.Size == cp.Size && newest.Root == cp.Root:
			return nil
		case beside:
		case newest.Size == cp.Size:
			return errOther
		case newest.Size >= cp.Size:
			return nil
		}
	}
	var text bytes.Buffer
	if len(notes) == 1 {
		text.WriteByte('\n')
	}
	text.WriteString(cp.Note)
	if _, err := out.Write(text.Bytes()); err != nil {
		return err
	}
	return errors.Join(out.Sync(), syncFolder(filepath.Dir(f.path)))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// folder is a directory of objects.
type folder string

func (d folder) list(context.Context) ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d folder) read(_ context.Context, name string) ([]byte, error) {
	in, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // nothing was written
	return io.ReadAll(io.LimitReader(in, maxNote))
}

// create writes to a file of another name and links it, so that it is there whole or not at all.
func (d folder) create(_ context.Context, name string, text []byte) (err error) {
	if err := os.MkdirAll(string(d), 0o755); err != nil { //nolint:gosec // checkpoints are public
		return err
	}
	tmp, err := os.CreateTemp(string(d), ".new-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(tmp.Name())) }()
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err = os.Link(tmp.Name(), filepath.Join(string(d), name)); err != nil {
		return err
	}
	return syncFolder(string(d))
}

func (d folder) close() error { return nil }
