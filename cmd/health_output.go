package cmd

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"auditdb/internal/output"
	"auditdb/pkg/health"
)

func listHealth(app *App) error {
	doc := healthListDoc{}
	for _, c := range health.Known() {
		doc.Checks = append(doc.Checks, healthListEntry{Name: c.Name, Group: c.Group, Unit: c.Unit, Warning: c.Warning, Critical: c.Critical, Default: c.Message == ""})
	}
	return app.EmitList("health.list", doc, doc.Checks, func(t *output.Table) {
		t.Header("check", "group", "unit", "warning", "critical", "by default")
		for _, c := range doc.Checks {
			t.Row(c.Name, c.Group, orDash(c.Unit), limitText(c.Warning, c.Unit), limitText(c.Critical, c.Unit), c.Default)
		}
	})
}

// limitText is a limit for people; unit is that of its check.
func limitText(limit *float64, unit string) any {
	if limit == nil {
		return nil
	}
	switch n := *limit; unit {
	case "ms":
		return durationText(time.Duration(n * float64(time.Millisecond)))
	case "s":
		return durationText(time.Duration(n * float64(time.Second)))
	case "%":
		return numberText(n) + " %"
	case "bytes":
		return output.Cell(output.Size(n))
	case "bytes per hour":
		return output.Cell(output.Size(n)) + "/h"
	default:
		return numberText(n)
	}
}

// durationText is a duration without a second unit that is zero: 1d, not 1d 0h.
func durationText(d time.Duration) string {
	first, second, two := strings.Cut(output.HumanDuration(d), " ")
	if two && !strings.HasPrefix(second, "0") {
		return first + " " + second
	}
	return first
}

// numberText writes whole millions as such, and groups the rest by thousands.
func numberText(n float64) string {
	const million = 1e6
	switch {
	case math.Abs(n) >= million && math.Mod(n, million) == 0:
		return output.Cell(int64(n/million)) + " M"
	case n == math.Trunc(n) && math.Abs(n) < 1<<53:
		return output.Cell(int64(n))
	}
	return strconv.FormatFloat(n, 'g', 4, 64)
}

// manyOK is from how many checks on those that are ok take one line.
const manyOK = 8

func (d healthDoc) print(t *output.Table) {
	counts := map[health.Status]int{}
	for _, c := range d.Checks {
		counts[c.Status]++
	}
	var parts []string
	for _, s := range []health.Status{health.Critical, health.Warning, health.Unknown, health.OK, health.Skipped} {
		if counts[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[s], s))
		}
	}
	t.Line("%s: %s, in %s.", strings.ToUpper(string(d.Status)), strings.Join(parts, ", "), output.HumanDuration(time.Duration(d.ElapsedSeconds*float64(time.Second)).Round(time.Millisecond)))
	brief := counts[health.OK] >= manyOK && !d.whole
	t.Header("status", "check", "finding")
	for _, c := range d.Checks {
		if c.Status != health.Skipped && (c.Status != health.OK || !brief) {
			t.Row(statusCell(c.Status), c.Name, withHint(c))
		}
	}
	if brief {
		t.Line("%d checks are ok; --deep, --only NAME and -o json show what they found.", counts[health.OK])
	}
	d.printSkipped(t)
}

// printSkipped tells the checks that do not apply from those that something was in the way of.
func (d healthDoc) printSkipped(t *output.Table) {
	unasked := map[string]int{}
	var foreign []string
	for _, c := range d.Checks {
		if c.Unasked != "" {
			unasked[c.Unasked]++
		} else if c.Status == health.Skipped {
			foreign = append(foreign, c.Name)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(unasked)) {
		t.Line("%s not looked at: %s.", countOf(unasked[why], "check"), why)
	}
	if len(foreign) > 0 {
		slices.Sort(foreign)
		t.Line("Skipped, as they do not apply here: %s.", strings.Join(foreign, ", "))
	}
}

func withHint(c health.Result) string {
	if c.Hint == "" {
		return c.Message
	}
	return c.Message + " → " + c.Hint
}

func statusCell(s health.Status) any {
	switch s {
	case health.Critical:
		return output.Bad("CRITICAL")
	case health.Warning:
		return output.Warn("WARNING")
	case health.Unknown:
		return output.Warn("UNKNOWN")
	case health.OK, health.Skipped:
	}
	return output.Good(string(s))
}
