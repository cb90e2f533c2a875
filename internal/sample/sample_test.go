package sample_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"auditdb/internal/sample"
)

func options(n int) sample.Options {
	return sample.Options{Seed: 1, Events: n, From: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func TestStreamIsDeterministicAscendingAndInRange(t *testing.T) {
	t.Parallel()
	var a, b bytes.Buffer
	o := options(5000)
	for _, w := range []*bytes.Buffer{&a, &b} {
		if err := sample.WriteNDJSON(w, o); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Fatal("two runs with the same seed differ")
	}
	sum := sha256.Sum256(a.Bytes())
	t.Logf("%d bytes an event, sha256 %s", a.Len()/o.Events, hex.EncodeToString(sum[:8]))
	last := o.From
	principals := map[string]int{}
	for line := range bytes.Lines(a.Bytes()) {
		var e struct {
			Timestamp   time.Time `json:"timestamp"`
			PrincipalID string    `json:"principal_id"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if e.Timestamp.Before(last) || !e.Timestamp.Before(o.To) {
			t.Fatalf("event at %s after one at %s, range ends %s", e.Timestamp, last, o.To)
		}
		last = e.Timestamp
		principals[e.PrincipalID]++
	}
	most := 0
	for _, n := range principals {
		most = max(most, n)
	}
	if len(principals) < 200 || most < 20*o.Events/len(principals) {
		t.Fatalf("principals are not skewed: %d distinct, busiest has %d of %d", len(principals), most, o.Events)
	}
}

func TestNothingToGenerateIsAnError(t *testing.T) {
	t.Parallel()
	o := options(1)
	o.To = o.From
	if err := sample.WriteNDJSON(&bytes.Buffer{}, o); err == nil {
		t.Fatal("an empty range was accepted")
	}
}
