package anchors

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"gocloud.dev/gcerrors"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// ReadState reads the checkpoint that a verifier has kept at a path or an address (file://, s3://, https://); "" where there is none yet.
func ReadState(ctx context.Context, address string) (string, error) {
	scheme, _, isURL := strings.Cut(address, "://")
	switch {
	case !isURL || scheme == "file":
		text, err := os.ReadFile(filePath(address))
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return string(text), err
	case scheme == "s3":
		folder, name, err := splitKey(address)
		if err != nil {
			return "", err
		}
		b, err := OpenS3(ctx, folder)
		if err != nil {
			return "", err
		}
		text, err := bucket{b}.read(ctx, name)
		if gcerrors.Code(err) == gcerrors.NotFound {
			err = nil
		}
		return string(text), errors.Join(err, b.Close())
	case scheme == "http" || scheme == "https":
		text, err := call(ctx, http.MethodGet, address, "", nil)
		if errors.Is(err, errNotThere) {
			err = nil
		}
		return string(text), err
	}
	return "", unknownState(address)
}

func unknownState(address string) error {
	return fault.New(fault.Config, "give a path, file://, s3:// or https://", "integrity.state: %s is none of them", postgres.RedactURL(address))
}

func filePath(address string) string {
	if rest, ok := strings.CutPrefix(address, "file://"); ok {
		if p, err := url.PathUnescape(rest); err == nil {
			return p
		}
	}
	return address
}

// splitKey takes the object's name off an s3 address.
func splitKey(address string) (folder, name string, err error) {
	u, err := url.Parse(address)
	if err != nil || strings.Trim(u.Path, "/") == "" {
		return "", "", unknownState(address)
	}
	name = path.Base(u.Path)
	u.Path = path.Dir(u.Path)
	return u.String(), name, nil
}

// WriteState keeps a checkpoint for the next run: whole or not at all.
func WriteState(ctx context.Context, address, note string) error {
	scheme, _, isURL := strings.Cut(address, "://")
	switch {
	case !isURL || scheme == "file":
		return replaceFile(filePath(address), note)
	case scheme == "s3":
		folder, name, err := splitKey(address)
		if err != nil {
			return err
		}
		b, err := OpenS3(ctx, folder)
		if err != nil {
			return err
		}
		return errors.Join(b.WriteAll(ctx, name, []byte(note), nil), b.Close())
	case scheme == "http" || scheme == "https":
		_, err := call(ctx, http.MethodPut, address, "text/plain; charset=utf-8", []byte(note))
		return err
	}
	return unknownState(address)
}

func replaceFile(name, text string) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return syncFolder(filepath.Dir(name))
}
