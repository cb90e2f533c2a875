package ingest

import (
	"errors"
	"syscall"
)

// isNoSync tells that a file is of a kind that has no disk behind it (a pipe, a terminal).
func isNoSync(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP)
}
