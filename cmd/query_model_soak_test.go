//go:build soak

package cmd

import (
	"testing"
	"time"
)

func TestSoakNoReaderMissesWhatWasCommitted(t *testing.T) {
	modelTest(t, time.Minute)
}
