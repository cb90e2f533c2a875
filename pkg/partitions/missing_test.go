package partitions

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"auditdb/internal/fault"
)

// ranges writes "2026-01-01/2026-02-01 2026-03-01/2026-04-01" as bounds; "" is an open end.
func ranges(t *testing.T, text string) []Bounds {
	t.Helper()
	var out []Bounds
	for _, f := range strings.Fields(text) {
		from, to, _ := strings.Cut(f, "/")
		b := Bounds{FromMin: from == "", ToMax: to == ""}
		if from != "" {
			b.From = at(t, from)
		}
		if to != "" {
			b.To = at(t, to)
		}
		out = append(out, b)
	}
	return out
}

func catalogOf(bounds []Bounds) *Catalog {
	parts := make([]Partition, len(bounds))
	for i, b := range bounds {
		parts[i] = Partition{OID: uint32(i + 1), Bounds: b, State: Attached, Kind: 'r'}
	}
	return NewCatalog(parts)
}

func short(bounds []Bounds) string {
	out := make([]string, len(bounds))
	for i, b := range bounds {
		out[i] = b.From.Format(time.DateOnly) + "/" + b.To.Format(time.DateOnly)
	}
	return strings.Join(out, " ")
}

func TestMissing(t *testing.T) {
	t.Parallel()
	const now = "2026-11-23 07:00"
	for name, c := range map[string]struct {
		existing string
		spec     Spec
		retained string
		want     string
	}{
		"empty table": {"", Spec{Interval: Monthly, Ahead: 2}, "", "2026-11-01/2026-12-01 2026-12-01/2027-01-01 2027-01-01/2027-02-01"},
		"behind":      {"", Spec{Interval: Monthly, Behind: 2}, "", "2026-09-01/2026-10-01 2026-10-01/2026-11-01 2026-11-01/2026-12-01"},
		"all there":   {"2026-11-01/2027-01-01", Spec{Interval: Monthly, Ahead: 1}, "", ""},
		"gap in the past": {
			"2026-08-01/2026-09-01 2026-11-01/2026-12-01", Spec{Interval: Monthly}, "", "2026-09-01/2026-10-01 2026-10-01/2026-11-01",
		},
		"gap before the retention": {
			"2026-05-01/2026-06-01 2026-08-01/2026-09-01 2026-11-01/2026-12-01", Spec{Interval: Monthly}, "2026-08-15", "2026-09-01/2026-10-01 2026-10-01/2026-11-01",
		},
		"pruned wholly before": {"2026-10-01/2026-11-01", Spec{Interval: Monthly}, "", "2026-11-01/2026-12-01"},
		"a row of 2097 steers nothing": {
			"2026-11-01/2026-12-01 2097-01-01/2097-02-01", Spec{Interval: Monthly, Ahead: 1}, "", "2026-12-01/2027-01-01",
		},
		"the newest data is old: from now": {
			"2024-01-01/2024-02-01", Spec{Interval: Yearly}, "2026-01-01", "2026-01-01/2027-01-01",
		},
		"monthly to weekly": {
			"2026-11-01/2026-12-01", Spec{Interval: Weekly, Ahead: 2}, "", "2026-12-01/2026-12-07 2026-12-07/2026-12-14",
		},
		"wide historic": {"/2026-12-01", Spec{Interval: Monthly, Ahead: 1}, "", "2026-12-01/2027-01-01"},
		"everything":    {"/", Spec{Interval: Monthly, Ahead: 1}, "", ""},
		"exactly, widened": {
			"2026-11-01/2026-12-01", Spec{Interval: Monthly, From: at(t, "2020-01-15"), To: at(t, "2020-03-01")}, "", "2020-01-01/2020-02-01 2020-02-01/2020-03-01",
		},
		"exactly, narrowed on both sides": {
			"2020-01-10/2020-01-20", Spec{Interval: Monthly, From: at(t, "2020-01-01"), To: at(t, "2020-02-01")}, "", "2020-01-01/2020-01-10 2020-01-20/2020-02-01",
		},
		"pruned ranges stay away": {
			"2026-08-01/2026-09-01 2026-11-01/2026-12-01", Spec{Interval: Monthly, Pruned: ranges(t, "2026-09-01/2026-10-01")}, "", "2026-10-01/2026-11-01",
		},
		"only what rows need": {
			"2026-11-01/2026-12-01",
			Spec{Interval: Daily, Ranges: ranges(t, "2026-12-24T10:00:00Z/2026-12-24T10:00:00.000001Z 2026-12-31/2027-01-02 2026-12-24/2026-12-25 2026-11-03/2026-11-04")},
			"", "2026-12-24/2026-12-25 2026-12-31/2027-01-01 2027-01-01/2027-01-02",
		},
		"rows before the retention": {
			"2026-11-01/2026-12-01", Spec{Interval: Monthly, Ranges: ranges(t, "2020-01-05/2020-01-06 2026-10-01/2026-10-02")}, "2026-01-01", "2026-10-01/2026-11-01",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.retained != "" {
				c.spec.Retained = at(t, c.retained)
			}
			got, err := Missing(catalogOf(ranges(t, c.existing)), c.spec, at(t, now))
			if err != nil || short(got) != c.want {
				t.Errorf("%s, %v\nwant %s", short(got), err, c.want)
			}
		})
	}
}

func TestMissingHasALimit(t *testing.T) {
	t.Parallel()
	_, err := Missing(catalogOf(nil), Spec{Interval: Hourly, From: at(t, "2000-01-01"), To: at(t, "2026-01-01")}, at(t, "2026-01-01"))
	if fault.ClassOf(err) != fault.Refused {
		t.Errorf("%v", err)
	}
}

// What is missing overlaps nothing, and with it the whole window is covered, in whole intervals where nothing is in the way.
func TestMissingFillsExactly(t *testing.T) {
	t.Parallel()
	paris := zone(t, "Europe/Paris")
	rapid.Check(t, func(t *rapid.T) {
		hour := func(label string) time.Time {
			return time.Date(2026, 1, 1, rapid.IntRange(0, 24*500).Draw(t, label), 0, 0, 0, time.UTC)
		}
		edges := rapid.SliceOfNDistinct(rapid.IntRange(0, 24*500), 0, 12, rapid.ID[int]).Draw(t, "edges")
		slices.Sort(edges)
		var existing []Bounds
		for i := 0; i+1 < len(edges); i += 2 {
			existing = append(existing, Bounds{From: time.Date(2026, 1, 1, edges[i], 0, 0, 0, time.UTC), To: time.Date(2026, 1, 1, edges[i+1], 0, 0, 0, time.UTC)})
		}
		c := catalogOf(existing)
		spec := Spec{Interval: rapid.SampledFrom(Intervals()[1:]).Draw(t, "interval"), Zone: paris, Ahead: rapid.IntRange(0, 5).Draw(t, "ahead")}
		now := hour("now")
		missing, err := Missing(c, spec, now)
		if err != nil {
			t.Fatal(err)
		}
		window := spec.Windows(c, now)[0]
		all := slices.Concat(existing, missing)
		slices.SortFunc(all, compareBounds)
		for i := 1; i < len(all); i++ {
			if all[i-1].Overlaps(all[i]) {
				t.Fatalf("%s overlaps %s", all[i-1].Text(), all[i].Text())
			}
		}
		if left := subtract(window, all); len(left) > 0 {
			t.Fatalf("%s is left", left[0].Text())
		}
		for _, b := range missing {
			from := spec.Interval.Floor(b.From, paris)
			whole := Bounds{From: from, To: spec.Interval.Next(from, paris)}
			if !whole.Covers(b) {
				t.Fatalf("%s goes over a boundary", b.Text())
			}
			if len(c.Overlaps(whole)) == 0 && whole.From.After(window.From) && !whole.Equal(b) {
				t.Fatalf("%s is cut without need", b.Text())
			}
		}
		again, err := Missing(catalogOf(all), spec, now)
		if err != nil || len(again) > 0 {
			t.Fatalf("a second run would make %s", short(again))
		}
	})
}

func TestExpired(t *testing.T) {
	t.Parallel()
	now := at(t, "2026-11-23 07:00")
	months := "2026-01-01/2026-02-01 2026-02-01/2026-03-01 2026-03-01/2026-04-01 2026-11-01/2026-12-01 2026-12-01/2027-01-01"
	for name, c := range map[string]struct {
		parts string
		rule  Rule
		goes  string
		kept  string
	}{
		"no policy": {months, Rule{}, "", "no_policy no_policy no_policy no_policy future"},
		"policy":    {months, Rule{Known: true, Cutoff: at(t, "2026-03-01"), MinKeep: 1}, "2026-01-01/2026-02-01 2026-02-01/2026-03-01", "not_expired not_expired future"},
		"upper bound, not lower": {
			months, Rule{Known: true, Cutoff: at(t, "2026-02-28")}, "2026-01-01/2026-02-01", "not_expired not_expired not_expired future",
		},
		"a wide historic one stays until its end has passed": {
			"/2026-10-01 2026-10-01/2026-11-01 2026-11-01/2026-12-01", Rule{Known: true, Cutoff: at(t, "2026-09-30")}, "", "not_expired not_expired not_expired",
		},
		"and then goes": {
			"/2026-10-01 2026-10-01/2026-11-01 2026-11-01/2026-12-01", Rule{Known: true, Cutoff: at(t, "2026-10-01")}, "0001-01-01/2026-10-01", "not_expired not_expired",
		},
		"never the future, whatever the cutoff": {
			months, Rule{Known: true, Cutoff: at(t, "2097-01-01")}, "2026-01-01/2026-02-01 2026-02-01/2026-03-01 2026-03-01/2026-04-01", "future future",
		},
		"open end": {"2026-01-01/", Rule{Known: true, Cutoff: at(t, "2097-01-01")}, "", "not_expired"},
		"min keep counts what is not future": {
			"2026-01-01/2026-02-01 2026-02-01/2026-03-01 2026-12-01/2027-01-01", Rule{Known: true, Cutoff: at(t, "2026-11-01"), MinKeep: 1}, "2026-01-01/2026-02-01", "min_keep future",
		},
		"min keep of more than there are": {
			"2026-01-01/2026-02-01 2026-02-01/2026-03-01", Rule{Known: true, Cutoff: at(t, "2026-11-01"), MinKeep: 9}, "", "min_keep min_keep",
		},
		"max drop takes the oldest": {
			months, Rule{Known: true, Cutoff: at(t, "2026-11-01"), MaxDrop: 2}, "2026-01-01/2026-02-01 2026-02-01/2026-03-01", "max_drop not_expired future",
		},
		"holds": {
			months,
			Rule{Known: true, Cutoff: at(t, "2026-11-01"), Holds: ranges(t, "2026-01-31T23:59:59.999999Z/2026-02-01 2026-04-01/2026-05-01")},
			"2026-02-01/2026-03-01 2026-03-01/2026-04-01", "hold not_expired future",
		},
		"hold without end": {months, Rule{Known: true, Cutoff: at(t, "2026-11-01"), Holds: ranges(t, "/")}, "", "hold hold hold not_expired future"},
		"archives": {
			months,
			Rule{Known: true, Cutoff: at(t, "2026-11-01"), ArchiveRequired: true, Archived: ranges(t, "2026-02-01/2026-03-01 2026-03-01/2026-03-15")},
			"2026-02-01/2026-03-01", "not_archived not_archived not_expired future",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parts := catalogOf(ranges(t, c.parts)).All()
			goes, kept := Expired(parts, c.rule, now)
			var bounds []Bounds
			for _, p := range goes {
				bounds = append(bounds, p.Bounds)
			}
			var reasons []string
			for _, k := range kept {
				reasons = append(reasons, string(k.Reason))
			}
			if short(bounds) != c.goes || strings.Join(reasons, " ") != c.kept {
				t.Errorf("goes %q, kept %q\nwant %q, %q", short(bounds), strings.Join(reasons, " "), c.goes, c.kept)
			}
		})
	}
}

// Whatever the rule: nothing goes that is default, held, reaches beyond the cutoff or beyond now; the guards hold; nothing is lost on the way.
func TestExpiredIsCareful(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		parts := drawCatalog(t)
		parts = append(parts, Partition{OID: 99, Default: true, State: Attached})
		r := Rule{
			Known: rapid.Bool().Draw(t, "known"), Cutoff: time.UnixMicro(rapid.Int64Range(-60, 60).Draw(t, "cutoff")),
			MinKeep: rapid.IntRange(0, 4).Draw(t, "min"), MaxDrop: rapid.IntRange(0, 4).Draw(t, "max"),
			Holds: []Bounds{fromMicros(rapid.Int64Range(-60, 60).Draw(t, "held"), 60)},
		}
		now := time.UnixMicro(rapid.Int64Range(-60, 60).Draw(t, "now"))
		goes, kept := Expired(shuffled(t, parts), r, now)
		if len(goes)+len(kept) != len(parts) || r.MaxDrop > 0 && len(goes) > r.MaxDrop {
			t.Fatalf("%d go, %d kept of %d", len(goes), len(kept), len(parts))
		}
		past := 0
		for _, p := range parts {
			if !p.Default && !p.From.After(now) || p.FromMin {
				past++
			}
		}
		if len(goes) > 0 && past-len(goes) < r.MinKeep {
			t.Fatalf("%d of %d go with min_keep %d", len(goes), past, r.MinKeep)
		}
		for _, p := range goes {
			if !r.Known || p.Default || p.ToMax || p.To.After(r.Cutoff) || p.To.After(now) || p.Overlaps(r.Holds[0]) {
				t.Fatalf("%s goes with cutoff %s at %s", p.Text(), r.Cutoff, now)
			}
			for _, k := range kept {
				if k.Reason == KeptMaxDrop && k.lower() < p.lower() {
					t.Fatalf("%s goes before the older %s", p.Text(), k.Text())
				}
			}
		}
	})
}

func TestMissingStaysWithinTheYearsThatCanBeLogged(t *testing.T) {
	t.Parallel()
	for _, r := range [][2]int{{-1, 1}, {0, 1}, {9999, 10000}} {
		spec := Spec{Interval: Yearly, From: time.Date(r[0], 1, 1, 0, 0, 0, 0, time.UTC), To: time.Date(r[1], 1, 1, 0, 0, 0, 0, time.UTC)}
		_, err := Missing(NewCatalog(nil), spec, time.Now())
		wantClass(t, err, fault.Usage)
	}
}
