//go:build soak

package cmd

import (
	"testing"
	"time"
)

func TestSoakIndexApplyKilled(t *testing.T) {
	t.Parallel()
	want := indexKilled(t, 0, 1_000_000, 0)
	if got := indexKilled(t, 5, 1_000_000, 5*time.Second); got != want {
		t.Errorf("killed:\n%s\nundisturbed:\n%s", got, want)
	}
}
