//go:build soak

package ingest_test

import (
	"fmt"
	"testing"
)

// TestSoakFollowKilled kills a run that follows 25 times, with each way to rotate, a file and a folder.
func TestSoakFollowKilled(t *testing.T) {
	t.Parallel()
	for _, truncate := range []bool{false, true} {
		for _, folder := range []bool{false, true} {
			t.Run(fmt.Sprintf("truncate %t folder %t", truncate, folder), func(t *testing.T) {
				t.Parallel()
				killFollower(t, 25, truncate, folder)
			})
		}
	}
}
