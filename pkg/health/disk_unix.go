//go:build unix

package health

import "syscall"

// diskRoom gives what is free for the server's use, and all, on the disk of a directory.
func diskRoom(directory string) (free, total float64, ok bool) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(directory, &s); err != nil {
		return 0, 0, false
	}
	return float64(s.Bavail) * float64(s.Bsize), float64(s.Blocks) * float64(s.Bsize), true
}
