package integrity

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// sinceVerify verifies what is new and keeps the verdicts.
func (f *fixture) sinceVerify(sample float64, began time.Time) *Report {
	f.t.Helper()
	r := f.verify(func(o *VerifyOptions) { o.Sample = &sample })
	if err := SaveVerdicts(f.t.Context(), f.db, r.Checked, began); err != nil {
		f.t.Fatal(err)
	}
	return r
}

// Only what the log has touched since is read again, and a sample of the rest, which comes to every partition in turn.
func TestSinceCheckpoint(t *testing.T) {
	t.Parallel()
	f, first := filled(t) // three partitions
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	later := func() time.Time { at = at.Add(time.Hour); return at }
	all := f.verify().RowsChecked
	if r := f.sinceVerify(0, later()); r.NotRead != 0 || r.RowsChecked != all || !r.OK {
		t.Fatalf("first: %+v", r)
	}
	r := f.sinceVerify(0, later())
	if r.NotRead != 3 || r.RowsChecked != 0 || !r.OK || !strings.Contains(r.Assurance, "NOT READ: 3 partitions") || !strings.Contains(r.Assurance, "2026-01-01T01:00:00") {
		t.Fatalf("nothing new: %+v", r)
	}
	f.batch(0, 10) // in the first partition
	if r := f.sinceVerify(0, later()); r.NotRead != 2 || r.RowsChecked == 0 {
		t.Fatalf("one is new: %+v", r)
	}
	seen := int64(0)
	for range 3 { // 1% of three is one
		r := f.sinceVerify(1, later())
		if r.NotRead != 2 {
			t.Fatalf("a sample: %+v", r)
		}
		seen += r.RowsChecked
	}
	if seen != all+10 {
		t.Errorf("three samples read %d of %d rows", seen, all+10)
	}

	// What is wrong is read again until it is right, and prune can know of it.
	f.exec(fmt.Sprintf("UPDATE public.audit_log SET action = 'x' WHERE id = %d", first))
	if r = f.sinceVerify(100, later()); r.Errors != 1 || r.NotRead != 0 || r.Checked[0].OK {
		t.Fatalf("a change: %+v", r)
	}
	for range 2 {
		if r := f.sinceVerify(0, later()); r.Errors != 1 || r.NotRead != 2 {
			t.Errorf("a change again: %+v", r)
		}
	}
	// An earlier run that ends later does not take the word back; a partition that the log does not know is always read.
	early := r.Checked[:1]
	early[0].OK = true
	if err := SaveVerdicts(t.Context(), f.db, early, at.Add(-100*time.Hour)); err != nil {
		t.Fatal(err)
	}
	f.exec("CREATE TABLE public.audit_log_2031 PARTITION OF public.audit_log FOR VALUES FROM ('2031-01-01Z') TO ('2032-01-01Z')")
	if r := f.sinceVerify(0, later()); r.Errors != 1 || r.NotRead != 2 {
		t.Errorf("an unlogged partition: %+v", r)
	}
	// Verdicts about a longer log than there is prove nothing.
	f.exec("UPDATE auditdb.verdict SET log_size = 1000000, ok = true")
	if r := f.sinceVerify(0, later()); r.NotRead != 0 {
		t.Errorf("verdicts of another log: %+v", r)
	}
}

// However many partitions there are, each has its turn within 100/percent runs, and one more where that is not whole.
func TestSampleTakesTurns(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n, percent := rapid.IntRange(1, 50).Draw(t, "n"), rapid.Float64Range(1, 100).Draw(t, "percent")
		state := newLogState()
		table := state.table(1)
		s := &since{percent: percent, past: map[verdictKey]pastVerdict{}}
		var units []*unit
		check := &tableCheck{id: 1}
		for i := range n {
			k := rangeKey{from: int64(i), to: int64(i + 1)}
			table.parts[k] = &partState{changed: 1}
			s.past[verdictKey{1, k}] = pastVerdict{verdict{true, 5}, time.Unix(int64(i), 0)}
			units = append(units, &unit{table: check, after: 5, ranges: []rangeKey{k}, rels: []unitRelation{{rng: k}}})
		}
		read := map[*unit]bool{}
		runs := int(100/percent) + 1
		for run := range runs {
			for _, u := range s.choose(state, units) {
				read[u] = true
				s.past[verdictKey{1, u.ranges[0]}] = pastVerdict{verdict{true, 5}, time.Unix(int64(1000+run), 0)}
			}
		}
		if len(read) != n {
			t.Fatalf("%d of %d partitions were read in %d runs of %v%%", len(read), n, runs, percent)
		}
	})
}
