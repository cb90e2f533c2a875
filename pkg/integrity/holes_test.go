package integrity

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"auditdb/internal/fault"
)

// Rows that were sealed in a partition which another tool made where one had been pruned are expected to be there.
func TestRowsInARevivedRangeAreExpected(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	f.lifecycle("DROP TABLE public.audit_log_2024_01", &Prune{Table: 1, Partition: month(0), Rows: 120})
	f.exec("CREATE TABLE public.audit_log_2024_01 PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')")
	f.batch(0, 5)
	if r := f.verify(); r.OK || !slices.Contains(r.types(), "partition_unlogged/error") {
		t.Error(r.text())
	}
	f.exec("DROP TABLE public.audit_log_2024_01")
	if r := f.verify(); r.OK || !slices.Contains(r.types(), "partition_missing/error") {
		t.Error(r.text())
	}
}

func TestOddBoundsDoNotStopVerify(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	f.exec("CREATE TABLE public.old PARTITION OF public.audit_log FOR VALUES FROM ('0044-03-01 BC') TO ('0044-04-01 BC')")
	f.exec("CREATE TABLE public.late PARTITION OF public.audit_log FOR VALUES FROM ('9999-12-01') TO ('10000-01-01')")
	f.exec("UPDATE public.audit_log SET ttl = 'x' WHERE id = (SELECT min(id) FROM public.audit_log)")
	if r := f.verify(); r.OK || !slices.Contains(r.types(), "row_modified/error") {
		t.Error(r.text())
	}
}

func TestNegativeIDsAreNotPassedOver(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	f.exec(`INSERT INTO public.audit_log (id, "timestamp", action, status) OVERRIDING SYSTEM VALUE VALUES (-5, '2024-01-02', 'a', 's')`)
	if r := f.verify(); r.OK || !slices.Equal(r.types(), []string{"row_unexpected/error"}) {
		t.Error(r.text())
	}
}

// What a copy does to a text file is not tampering, and what is no checkpoint is not a bad one.
func TestCheckpointsAsPeopleCopyThem(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	note := f.clean().Checkpoint.Note
	with := func(text string) func(*VerifyOptions) {
		return func(o *VerifyOptions) { o.Anchors = []External{{Source: "copy", Note: text}} }
	}
	for _, text := range []string{note + "\n", strings.TrimSpace(note), "\n" + note, "\ufeff" + note, strings.ReplaceAll(note, "\n", "\r\n")} {
		f.clean(with(text))
	}
	for _, text := range []string{"", "no checkpoint", strings.Replace(note, "\u2014", "-", 1)} {
		o := VerifyOptions{Keys: f.log.keys, Now: time.Now}
		with(text)(&o)
		if _, err := Verify(context.Background(), f.db, o); fault.ClassOf(err) != fault.Unavailable {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAnotherOriginIsConfiguredWrongly(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	keys, err := f.log.keys.WithOrigin("elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(context.Background(), f.db, VerifyOptions{Keys: keys, Now: time.Now}); fault.ClassOf(err) != fault.Config {
		t.Error(err)
	}
}
