// Package anchors keeps signed checkpoints of the integrity log outside the database: in an append-only file, a folder, a bucket of an
// object store, or with whoever listens behind a webhook.
package anchors

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
)

// maxNote bounds what is read as one checkpoint.
const maxNote = 64 << 10

// ErrWriteOnly says that an anchor takes checkpoints and does not give them back.
var ErrWriteOnly = errors.New("it cannot be read back")

// errOther says that an anchor has another checkpoint of the same size.
var errOther = errors.New("it has another checkpoint of that size: a second database writes to it under the same origin")

// Anchor is one place that keeps checkpoints.
type Anchor interface {
	// String names the anchor without secrets.
	String() string
	// Newest returns at most n notes, the largest checkpoint first; none while it is empty; ErrWriteOnly where nothing can be read.
	Newest(ctx context.Context, n int) ([]string, error)
	// Put keeps a checkpoint. One that is there already is left at that. beside says that those of the same or a larger size which the
	// anchor has are of records that are lost.
	Put(ctx context.Context, cp integrity.Checkpoint, beside bool) error
	// Close gives up connections.
	Close() error
}

// Open makes an anchor of its address: a path or file:// for a file or, when it ends with / or is one, a folder; s3://bucket/prefix with
// the parameters region and endpoint; https:// or http:// for a webhook. Nothing is connected to before the first use.
func Open(ctx context.Context, address string) (Anchor, error) {
	scheme, rest, isURL := strings.Cut(address, "://")
	switch {
	case address == "":
		return nil, fault.New(fault.Config, "", "an empty address is no anchor")
	case !isURL:
		return openPath(address, address), nil
	case scheme == "file":
		path, err := url.PathUnescape(rest)
		if err != nil || !strings.HasPrefix(path, "/") {
			return nil, fault.New(fault.Config, "write file:///absolute/path", "anchor %s names no file", postgres.RedactURL(address))
		}
		return openPath(address, path), nil
	case scheme == "s3":
		return openBucket(ctx, address)
	case scheme == "http" || scheme == "https":
		return &webhook{address: address}, nil
	}
	return nil, fault.New(fault.Config, "use file://, s3:// or https://", "anchor %s: unknown kind of address", postgres.RedactURL(address))
}

func openPath(name, path string) Anchor {
	if info, err := os.Stat(path); err == nil && info.IsDir() || strings.HasSuffix(path, "/") {
		return &objects{name: name, store: folder(path)}
	}
	return &file{name: name, path: path}
}

// Result is what became of a checkpoint at one anchor.
type Result struct {
	Anchor string `json:"anchor"`
	OK     bool   `json:"ok"`
	Lag    *int64 `json:"lag_records"` // records that the anchor does not cover; null: not known
	Error  string `json:"error"`
}

// Log is what Push has to know of the log beside its checkpoint.
type Log struct {
	RootAt func(ctx context.Context, size int64) (string, error) // the root of its tree at an earlier size, base64 as in a checkpoint
	Lost   func(size int64) bool                                 // a checkpoint of that size may be of records whose loss was accepted
	// Guard decides about bringing it to one anchor, as a circuit breaker does; nil: all are asked.
	Guard func(ctx context.Context, address string, call func(context.Context) error) error
}

// Push brings a checkpoint to all anchors. What fails at one does not keep it from the others. An anchor whose newest checkpoint the log
// does not extend is left as it is: it belongs to another log, or this database is a copy or an old state.
func Push(ctx context.Context, addresses []string, cp integrity.Checkpoint, log Log) []Result {
	out := make([]Result, 0, len(addresses))
	for _, address := range addresses {
		r := Result{Anchor: postgres.RedactURL(address)}
		covered := int64(-1)
		call := func(ctx context.Context) (err error) {
			covered, err = push(ctx, address, cp, log)
			return err
		}
		var err error
		if log.Guard != nil {
			err = log.Guard(ctx, address, call)
		} else {
			err = call(ctx)
		}
		if covered >= 0 {
			lag := max(cp.Size-covered, 0)
			r.Lag = &lag
		}
		if r.OK = err == nil; !r.OK {
			r.Error = err.Error()
		}
		out = append(out, r)
	}
	return out
}

// push brings a checkpoint to one anchor and returns how many records that covers then; -1: not known.
func push(ctx context.Context, address string, cp integrity.Checkpoint, log Log) (covered int64, err error) {
	a, err := Open(ctx, address)
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	covered = -1
	beside := false
	notes, err := a.Newest(ctx, 1)
	switch {
	case errors.Is(err, ErrWriteOnly):
	case err != nil:
		return -1, err
	case len(notes) == 0:
		covered = 0
	default:
		newest, _, err := integrity.ParseCheckpoint(notes[0])
		if err != nil {
			return -1, fmt.Errorf("its newest checkpoint: %w", err)
		}
		err = extends(ctx, newest, cp, log)
		if beside = err != nil && newest.Origin == cp.Origin && log.Lost(newest.Size); beside {
			err = nil
		}
		if err != nil {
			return -1, err
		}
		covered = min(newest.Size, cp.Size)
	}
	if err := a.Put(ctx, cp, beside); err != nil {
		return covered, err
	}
	return cp.Size, nil
}

// extends tells whether the log that cp is of goes on from another checkpoint.
func extends(ctx context.Context, newest, cp integrity.Checkpoint, log Log) error {
	if newest.Origin != cp.Origin {
		return fault.New(fault.Refused, "give each log anchors of its own", "it keeps checkpoints of %s, not of %s", newest.Origin, cp.Origin)
	}
	if newest.Size > cp.Size {
		return fault.New(fault.Refused, "auditdb verify-integrity", "its newest checkpoint covers %d records, the log has %d: this is an earlier state or a copy", newest.Size, cp.Size)
	}
	root := cp.Root
	if newest.Size < cp.Size {
		var err error
		if root, err = log.RootAt(ctx, newest.Size); err != nil {
			return err
		}
	}
	if root != newest.Root {
		return fault.New(fault.Refused, "auditdb verify-integrity", "the log does not go on from its newest checkpoint, of %d records: this is a copy or another log", newest.Size)
	}
	return nil
}
