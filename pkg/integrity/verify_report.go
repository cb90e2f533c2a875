package integrity

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Report is the result of a verification.
type Report struct {
	OK             bool        `json:"ok"` // no finding of severity error, and the log was authenticated
	Assurance      string      `json:"assurance"`
	RowsChecked    int64       `json:"rows_checked"`
	BatchesChecked int64       `json:"batches_checked"` // leaf sets
	UnsealedRows   int64       `json:"unsealed_rows"`
	NotRead        int64       `json:"partitions_not_read"` // right before, and untouched by the log since
	Checkpoint     *Checkpoint `json:"checkpoint"`          // the newest one of the log that was right
	Findings       []Finding   `json:"findings"`
	FindingsTotal  int64       `json:"findings_total"`
	Incomplete     bool        `json:"incomplete"`
	ElapsedSeconds float64     `json:"elapsed_seconds"`
	RowsPerSecond  float64     `json:"rows_per_second"`

	// Errors counts the findings of severity error.
	Errors int64 `json:"-"`
	// Checked is what became of each partition that was read to its end, or could not be read because of what it is.
	Checked []CheckedPartition `json:"-"`
	// Broken says that an error ended the verification: the report has what was checked until then, and is never OK.
	Broken bool `json:"-"`
	// Unproven says why the log could not be authenticated: no key, or the wrong one. Findings apart, that is no success.
	Unproven string `json:"-"`
	// Emptied are anchors that hold nothing, although the log has a checkpoint. Findings apart, that is no success.
	Emptied []string `json:"-"`
	// WrongKey says that the key at hand is not the log's.
	WrongKey bool `json:"-"`
}

func (v *verifier) reportUnsealed() {
	for table, s := range v.sum {
		detail := fmt.Sprintf("%d rows of other writers are in no leaf set yet", s.rows)
		limit := v.opts.MaxUnsealedAge
		late := limit != nil && *limit == 0
		if s.oldest != math.MaxInt64 {
			oldest := time.UnixMicro(s.oldest + pgEpochMicros)
			detail += "; the oldest arrived " + formatTime(oldest)
			late = late || limit != nil && v.opts.Now().Sub(oldest) > *limit
		}
		f := newFinding(RowsUnsealed, "%s", detail).on(table)
		if late {
			f.Severity = SeverityError
			if *limit > 0 {
				f.Detail += fmt.Sprintf(", more than %s ago", *limit)
			}
		}
		v.found.add(f)
	}
}

func (v *verifier) report(elapsed time.Duration, incomplete bool) *Report {
	logBroken := v.logFound.errors() > 0
	all := newCollector(v.opts.MaxFindings)
	all.merge(v.logFound)
	all.merge(v.found)
	r := &Report{
		Errors: all.errors(), RowsChecked: v.rows, BatchesChecked: v.sets, Findings: all.list(), FindingsTotal: all.total(),
		Incomplete: incomplete, ElapsedSeconds: elapsed.Seconds(),
	}
	for _, s := range v.sum {
		r.UnsealedRows += s.rows
	}
	if v.walk.checkpoint.Note != "" {
		r.Checkpoint = &v.walk.checkpoint
	}
	if v.since != nil {
		r.NotRead = int64(v.since.left)
	}
	if elapsed > 0 {
		r.RowsPerSecond = float64(v.rows) / elapsed.Seconds()
	}
	switch {
	case v.walk.wrongKey:
		r.Unproven, r.WrongKey = "the key at hand is not the log's", true
	case v.opts.Keys == nil && v.opts.Public == nil:
		r.Unproven = "no key is configured"
	case v.walk.trust.missing() != "":
		r.Unproven = "the key file lacks " + v.walk.trust.missing()
	}
	if r.Checkpoint != nil {
		r.Emptied = v.opts.Empty
	}
	r.OK = r.Errors == 0 && r.Unproven == "" && len(r.Emptied) == 0
	r.Checked = v.verdicts.list(!logBroken && r.Unproven == "")
	r.Assurance = v.assurance(incomplete)
	return r
}

// describe says what an external checkpoint proves about a log of a size.
func (a anchor) describe(size int64, broken bool) string {
	kind := "anchor"
	if a.LastSeen {
		kind = "last seen"
	}
	switch {
	case a.bad:
		return fmt.Sprintf("%s: %s INVALID", kind, a.Source)
	case a.lost:
		return fmt.Sprintf("%s: %s NOT MET, its loss was accepted", kind, a.Source)
	}
	if !a.met && broken {
		return fmt.Sprintf("%s: %s not reached", kind, a.Source)
	}
	if !a.met || a.differs {
		return fmt.Sprintf("%s: %s NOT MET", kind, a.Source)
	}
	return fmt.Sprintf("%s: %s covers %d of %d records", kind, a.Source, a.size, size)
}

// assurance says in one line what was checked and what is not excluded.
func (v *verifier) assurance(incomplete bool) string {
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if incomplete {
		say("INCOMPLETE")
	}
	if v.opts.Partition != "" || !v.opts.From.IsZero() || !v.opts.To.IsZero() || len(v.opts.Tables) > 0 {
		say("only what was asked for")
	}
	if v.checked == 0 && !incomplete {
		say("NO TABLE: none has integrity on")
	}
	if text := v.since.describe(); text != "" {
		say("%s", text)
	}
	say("log: %d records", v.walk.next)
	switch {
	case v.walk.wrongKey:
		say("mac: NOT CHECKED (wrong key)")
	case v.opts.Keys == nil:
		say("mac: NOT CHECKED (no secret key)")
	case v.walk.trust.missing() != "":
		say("mac: NOT CHECKED for %s (not in the key file)", v.walk.trust.missing())
	default:
		say("mac: key %s", v.opts.Keys.ID())
	}
	if v.opts.Public == nil || v.walk.wrongKey {
		say("signature: NOT CHECKED")
	} else {
		say("signature: %s", v.opts.Public.Origin())
	}
	for _, l := range v.walk.state.control.losses {
		say("LOSS ACCEPTED by record %d: checkpoints of %d to %d records", l.seq, l.after+1, l.size)
	}
	for _, lastSeen := range []bool{false, true} {
		none := true
		for _, a := range v.walk.tellingAnchors(lastSeen) {
			none = none && (a.bad || a.lost || a.differs)
			say("%s", a.describe(v.walk.next, a.size > v.walk.next && incomplete))
		}
		switch {
		case none && lastSeen:
			say("last seen: %s", map[bool]string{true: "none yet", false: "not configured (integrity.state)"}[v.opts.KeepsLastSeen])
		case none:
			say("NO EXTERNAL ANCHOR: rollback not excluded")
		}
	}
	for _, name := range v.opts.Unread {
		say("anchor: %s NOT CHECKED", name)
	}
	return strings.Join(parts, "; ")
}
