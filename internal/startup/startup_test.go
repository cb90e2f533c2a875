package startup

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func pace() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// The first collection comes late, those after it at the usual pace.
func TestFirstCollection(t *testing.T) {
	t.Parallel()
	if os.Getenv("GOGC") != "" {
		t.Fatal("this test wants GOGC unset")
	}
	if got := pace(); got != early {
		t.Fatalf("at first: %d", got)
	}
	runtime.GC()
	for deadline := time.Now().Add(10 * time.Second); pace() != 100; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("afterwards: %d", pace())
		}
	}
	// What a command sets for itself before the first collection, ingest say, stays.
	const own = 20
	debug.SetGCPercent(own)
	restore(100)
	if got := pace(); got != own {
		t.Errorf("of a command: %d", got)
	}
}
