//go:build soak

package cmd

import "testing"

func TestSoakDrainKilled(t *testing.T) {
	t.Parallel()
	drainKilled(t, 25, 60_000)
}

func TestSoakSplitKilled(t *testing.T) {
	t.Parallel()
	splitKilled(t, 25, 60_000)
}
