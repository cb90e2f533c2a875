//go:build unix

package config

import (
	"os"
	"strconv"
	"syscall"
)

// foreignOwner tells whether a file belongs to a user other than this one, root, or the one who called sudo.
func foreignOwner(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	uid := int(stat.Uid)
	if uid == 0 || uid == os.Geteuid() {
		return false
	}
	return os.Geteuid() != 0 || os.Getenv("SUDO_UID") != strconv.Itoa(uid)
}
