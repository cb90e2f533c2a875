package startup

import (
	"os"
	"runtime"
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
}
