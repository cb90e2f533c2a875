package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"auditdb/pkg/integrity/anchors"
)

// partBytes is the size of the parts of an upload: S3 takes at most 10,000 of them, so an object of up to 150 GB.
const partBytes = 16 << 20

// bucket keeps objects in an S3-compatible store.
type bucket struct{ *blob.Bucket }

func openBucket(ctx context.Context, address string) (*Store, error) {
	b, err := anchors.OpenS3(ctx, address)
	if err != nil {
		return nil, err
	}
	return &Store{backend: bucket{b}, base: Base(address)}, nil
}

// stage writes to a local file without a name: what the object is called follows from its content.
func (b bucket) stage(context.Context) (staged, error) {
	out, err := os.CreateTemp("", stagePrefix)
	if err != nil {
		return nil, fmt.Errorf("write an archive to a temporary file: %w", err)
	}
	if err := os.Remove(out.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("write an archive to a temporary file: %w", err), out.Close())
	}
	return &stagedUpload{File: out, b: b}, nil
}

type stagedUpload struct {
	*os.File
	b bucket
}

func (s *stagedUpload) commit(ctx context.Context, key string, replace bool) error {
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if !replace { // stores that do not know conditions are asked
		there, err := s.b.Exists(ctx, key)
		if err != nil {
			return err
		}
		if there {
			return fs.ErrExist
		}
	}
	err := s.b.Upload(ctx, key, s.File, &blob.WriterOptions{
		ContentType: "application/octet-stream", BufferSize: partBytes, MaxConcurrency: 1, IfNotExist: !replace,
	})
	if gcerrors.Code(err) == gcerrors.FailedPrecondition {
		return fs.ErrExist
	}
	return err
}

func (s *stagedUpload) discard() { _ = s.Close() } // it has no name: its space is free then

func missing(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

func (b bucket) size(ctx context.Context, key string) (int64, error) {
	a, err := b.Attributes(ctx, key)
	if err != nil {
		return 0, missing(err)
	}
	return a.Size, nil
}

func (b bucket) open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, err := b.NewRangeReader(ctx, key, offset, length, nil)
	if err != nil {
		return nil, missing(err)
	}
	return r, nil
}

func (b bucket) close() error { return b.Close() }
