package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"auditdb/internal/fault"
)

// maxBlockers is how many sessions an error names.
const maxBlockers = 3

// Blocked makes an error of class locked of one that says that a table lock was not to be had in time. It names the sessions that
// hold a lock on one of the relations which shuts readers out, or with writing also those that shut out writers only. Any other error
// is returned as it is.
func (db *DB) Blocked(ctx context.Context, relations []uint32, writing bool, err error) error {
	if !IsLockNotAvailable(err) || fault.ClassOf(err) != "" {
		return err
	}
	who := "the blocking session has ended or could not be seen"
	if list, lookErr := db.Blockers(ctx, relations); lookErr == nil {
		if names := blockerNames(list, writing); names != "" {
			who = "blocked by " + names
		}
	}
	return fault.New(fault.Locked, "end or wait for that transaction, or allow more time with --wait", "%w: %s", err, who)
}

func blockerNames(list []Blocker, writing bool) string {
	modes := []string{"AccessExclusiveLock"}
	if writing {
		modes = append(modes, "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock")
	}
	var names []string
	seen := map[int]bool{}
	for _, b := range list {
		if slices.Contains(modes, b.Mode) && !seen[b.PID] {
			seen[b.PID] = true
			names = append(names, b.String())
		}
	}
	if n := len(names); n > maxBlockers {
		names = append(names[:maxBlockers], fmt.Sprintf("and %d more", n-maxBlockers))
	}
	return strings.Join(names, "; ")
}
