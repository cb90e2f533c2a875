package indexes

import (
	"context"
	"syscall"

	"auditdb/internal/fault"
)

const (
	roomSQL = `SELECT current_setting('data_directory'), coalesce(host(inet_server_addr()), '') IN ('', '127.0.0.1', '::1')
WHERE pg_has_role('pg_read_all_settings', 'USAGE')`
	entryBytes = 32 // of an index whose size nobody has estimated, for each row
	spare      = 1.2
)

// Room refuses a build of need bytes that the disk under the server's data has no room for. That can only be seen on the server's own machine,
// by a role that may read its settings; anywhere else it says nothing.
func (a *Applier) Room(ctx context.Context, need int64) error {
	var directory string
	var here bool
	var disk syscall.Statfs_t
	if err := a.o.DB.Pool().QueryRow(ctx, roomSQL).Scan(&directory, &here); err != nil || !here || syscall.Statfs(directory, &disk) != nil {
		return nil //nolint:nilerr // not to be seen from here
	}
	free := float64(disk.Bavail) * float64(disk.Bsize)
	if float64(need)*spare > free {
		return fault.New(fault.Refused, "make room, or build fewer indexes with --only", "the indexes take about %d MB, and %s has %d MB free", need>>20, directory, int64(free)>>20)
	}
	return nil
}
