//go:build soak

package cmd

import "testing"

func TestSoakConvertKilled(t *testing.T) {
	t.Parallel()
	convertKilled(t, 25, 300_000)
}

func TestSoakAdoptKilled(t *testing.T) {
	t.Parallel()
	adoptKilled(t, 13, 2, 200_000)
}

// Millions of rows, killed on the way. The readers look through all of them all the time, so that a lock is hardly ever to be had at once.
func TestSoakAdoptMillions(t *testing.T) {
	t.Parallel()
	adoptKilled(t, 1, 3, 3_000_000, "--lock-timeout", "3s", "--wait", "5m")
}
