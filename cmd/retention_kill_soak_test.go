//go:build soak

package cmd

import (
	"strconv"
	"testing"
)

func TestSoakRetentionKilled(t *testing.T) {
	t.Parallel()
	retentionKilled(t, 40)
}

// A run is killed before each single request that it makes of the database and of the store.
func TestSoakRetentionKilledAtEachRequest(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	total := 0
	if code, text := s.trial(t).run(func(string) bool { total++; return false }); code != 0 {
		t.Fatalf("exit %d: %s", code, text)
	}
	for at := 1; at <= total; at++ {
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			t.Parallel()
			x := s.trial(t)
			n := 0
			code, text := x.run(func(string) bool { n++; return n == at })
			if code != -1 && (code != 0 || n >= at) { // how often it looks for others varies
				t.Fatalf("exit %d: %s", code, text)
			}
			p := x.open()
			x.safe(p, "60")
			x.converges(p, "60")
		})
	}
}
