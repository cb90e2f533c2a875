package anchors

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
)

// suffix ends the names of checkpoints: SIZE.checkpoint, or SIZE.DIGEST.checkpoint where the first name belongs to one of lost records.
const suffix = ".checkpoint"

// store is what keeps objects by name. create fails with fs.ErrExist for one that is there.
type store interface {
	list(ctx context.Context) ([]string, error)
	read(ctx context.Context, name string) ([]byte, error)
	create(ctx context.Context, name string, text []byte) error
	close() error
}

// objects are checkpoints in a folder or a bucket, an object each.
type objects struct {
	name  string
	store store
}

// String names the folder or bucket.
func (o *objects) String() string { return postgres.RedactURL(o.name) }

// Close ends connections.
func (o *objects) Close() error { return o.store.close() }

// Newest reads the checkpoints of the largest sizes.
func (o *objects) Newest(ctx context.Context, n int) ([]string, error) {
	names, err := o.store.list(ctx)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for _, name := range names {
		if stem, ok := strings.CutSuffix(name, suffix); ok {
			digits, _, _ := strings.Cut(stem, ".")
			if size, err := strconv.ParseInt(digits, 10, 64); err == nil {
				sizes[name] = size
			}
		}
	}
	largest := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int { return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b)) })
	var notes []string
	for _, name := range largest[:min(n, len(largest))] {
		text, err := o.store.read(ctx, name)
		if err != nil {
			return nil, err
		}
		notes = append(notes, string(text))
	}
	return notes, nil
}

func objectName(size int64) string { return strconv.FormatInt(size, 10) + suffix }

// Put keeps the checkpoint under its size.
func (o *objects) Put(ctx context.Context, cp integrity.Checkpoint, beside bool) error {
	err := o.store.create(ctx, objectName(cp.Size), []byte(cp.Note))
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	text, err := o.store.read(ctx, objectName(cp.Size))
	if err != nil {
		return err
	}
	there, _, err := integrity.ParseCheckpoint(string(text))
	switch {
	case err != nil || there.Root == cp.Root && there.Origin == cp.Origin:
		return err
	case !beside:
		return errOther
	}
	digest := sha256.Sum256([]byte(cp.Root))
	err = o.store.create(ctx, fmt.Sprintf("%d.%x%s", cp.Size, digest[:4], suffix), []byte(cp.Note))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// bucket is a prefix of a bucket.
type bucket struct{ b *blob.Bucket }

func openBucket(ctx context.Context, address string) (Anchor, error) {
	b, err := OpenS3(ctx, address)
	if err != nil {
		return nil, err
	}
	return &objects{name: address, store: bucket{b}}, nil
}

// OpenS3 opens s3://bucket/prefix with the parameters that gocloud knows, such as region, endpoint and use_path_style, which an endpoint
// of one's own implies.
func OpenS3(ctx context.Context, address string) (*blob.Bucket, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fault.New(fault.Config, "write s3://bucket/prefix?region=…", "%s names no bucket", postgres.RedactURL(address))
	}
	prefix := strings.Trim(u.Path, "/")
	q := u.Query()
	if q.Get("endpoint") != "" && q.Get("use_path_style") == "" {
		q.Set("use_path_style", "true")
	}
	if q.Get("response_checksum_validation") == "" { // what comes back is compared with hashes of ours; else the library complains on standard error
		q.Set("response_checksum_validation", "when_required")
	}
	u.Path, u.RawQuery = "", q.Encode()
	b, err := (&s3blob.URLOpener{}).OpenBucketURL(ctx, u)
	if err != nil {
		return nil, fault.New(fault.Config, "see the parameters of the address", "open %s: %w", postgres.RedactURL(address), err)
	}
	if prefix != "" {
		b = blob.PrefixedBucket(b, prefix+"/")
	}
	return b, nil
}

func (s bucket) list(ctx context.Context) ([]string, error) {
	var names []string
	for it := s.b.List(&blob.ListOptions{Delimiter: "/"}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the bucket: %w", err)
		}
		names = append(names, o.Key)
	}
}

func (s bucket) read(ctx context.Context, name string) ([]byte, error) {
	r, err := s.b.NewRangeReader(ctx, name, 0, maxNote, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // nothing was written
	return io.ReadAll(r)
}

// create writes only where nothing is; stores that do not know conditions are asked before.
func (s bucket) create(ctx context.Context, name string, text []byte) error {
	there, err := s.b.Exists(ctx, name)
	if err != nil {
		return err
	}
	if there {
		return fs.ErrExist
	}
	err = s.b.WriteAll(ctx, name, text, &blob.WriterOptions{ContentType: "text/plain; charset=utf-8", IfNotExist: true})
	if gcerrors.Code(err) == gcerrors.FailedPrecondition {
		return fs.ErrExist
	}
	return err
}

func (s bucket) close() error { return s.b.Close() }
