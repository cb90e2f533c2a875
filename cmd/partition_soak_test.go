//go:build soak

package cmd

import "testing"

func TestSoakKilledPartitionRuns(t *testing.T) {
	t.Parallel()
	killRounds(t, 25)
}
