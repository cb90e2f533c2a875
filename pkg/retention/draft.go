package retention

import (
	"fmt"
	"slices"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// Draft is what a run would do to a table.
type Draft struct {
	Table     partitions.Table
	Rules     Rules
	Create    *partitions.Draft
	Prune     *partitions.PruneDraft // nil: the table has no policy
	Decider   *Decider
	Expire    []partitions.Partition // with rows past a rule for rows, that stay
	integrity bool
	versions  map[uint32]version     // by oid, of the rows that were verified and go
	Archive   []partitions.Partition // without a verified archive that they are to have, where a store is configured
}

// expirable are the partitions that stay and have rows past a rule for rows.
func (d *Draft) expirable() (out []partitions.Partition) {
	for _, k := range d.Prune.Kept {
		if j, ok := d.Decider.Found[k.OID]; ok && len(j.Expired) > 0 && k.State == partitions.Attached && k.Reason != partitions.KeptFinding {
			out = append(out, k.Partition)
		}
	}
	return out
}

// Losses counts the partitions that would be removed, and those that would lose rows of shorter rules.
func (d *Draft) Losses() (removed, expired int) {
	if d.Prune == nil {
		return 0, 0
	}
	removed, expired = len(d.Prune.Goes), len(d.Expire)
	for _, p := range d.Archive {
		switch j := d.Decider.Found[p.OID]; {
		case !j.Loses:
		case j.Reason == partitions.KeptNotArchived:
			removed++
		default:
			expired++
		}
	}
	return removed, expired
}

// Names are those of the partitions that would lose rows; never nil.
func (d *Draft) Names() []string {
	names := []string{}
	if d == nil || d.Prune == nil {
		return names
	}
	for _, p := range slices.Concat(d.Prune.Goes, d.Expire) {
		names = append(names, p.String())
	}
	for _, p := range d.Archive {
		if d.Decider.Found[p.OID].Loses {
			names = append(names, p.String())
		}
	}
	return names
}

// Plans are the statements of a draft.
func (d *Draft) Plans() (p plan.Plan) {
	p.Steps = append(p.Steps, d.Create.Plan.Steps...)
	p.Skipped = append(p.Skipped, d.Create.Plan.Skipped...)
	if d.Prune == nil {
		return p
	}
	p.AsOf = d.Prune.Plan.AsOf
	p.Steps = append(p.Steps, d.Prune.Plan.Steps...)
	p.Skipped = append(p.Skipped, d.Prune.Plan.Skipped...)
	for _, part := range d.Archive {
		j := d.Decider.Found[part.OID]
		p.Steps = append(p.Steps, plan.Step{Name: part.String(), SQL: "COPY " + part.Ident() + " …", Reason: "archived and read back; " + j.Archive + "; locks: ACCESS SHARE", Destructive: j.Loses})
	}
	for _, part := range d.Expire {
		p.Steps = append(p.Steps, plan.Step{
			Name: part.String(), SQL: "DELETE FROM ONLY " + part.Ident() + " WHERE …", Destructive: true,
			Reason: fmt.Sprintf("%d rows are past a rule for rows, in batches of %d; locks: ROW EXCLUSIVE", d.Decider.Found[part.OID].expiring(), expireBatch),
		})
	}
	return p
}

func (j Judgement) expiring() (n int64) {
	for _, i := range j.Expired {
		n += j.Groups[i].Rows
	}
	return n
}

// Steps describes a draft that was not carried out.
func (d *Draft) Steps() (out []Step) {
	for _, p := range d.Create.Plan.Steps {
		out = append(out, Step{Step: StepCreate, Partition: &p.Name, State: StatePlanned, Detail: p.Reason})
	}
	if d.Prune == nil {
		return append(out, Step{Step: StepPrune, State: StateSkipped, Reason: string(partitions.KeptNoPolicy), Detail: "the table has no policy, so nothing is pruned"})
	}
	for _, p := range d.Prune.Goes {
		j := d.Decider.Found[p.OID]
		out = append(out, Step{Step: StepPrune, Partition: &p.Name, Rows: &j.Rows, Bytes: &p.SizeBytes, State: StatePlanned, Rule: j.Rule, Detail: j.Detail})
	}
	goes := map[string]bool{} // once it is archived
	for _, p := range d.Archive {
		out = append(out, d.archiving(p)...)
		goes[p.Name] = d.Decider.Found[p.OID].Reason == partitions.KeptNotArchived
	}
	for _, p := range d.Expire {
		out = append(out, expiring(p, d.Decider.Found[p.OID].expiring()))
	}
	for _, s := range d.kept() {
		if !goes[*s.Partition] {
			out = append(out, s)
		}
	}
	return out
}

// archiving is what becomes of a partition that is archived: it stays as it is, goes, or loses rows.
func (d *Draft) archiving(p partitions.Partition) []Step {
	j := d.Decider.Found[p.OID]
	steps := []Step{{Step: StepArchive, Partition: &p.Name, Rows: &j.Rows, Bytes: &p.SizeBytes, State: StatePlanned, Rule: j.Rule, Detail: j.Archive}}
	switch {
	case j.Reason == partitions.KeptNotArchived:
		steps = append(steps, Step{Step: StepPrune, Partition: &p.Name, Rows: &j.Rows, Bytes: &p.SizeBytes, State: StatePlanned, Rule: j.Rule, Detail: j.past + "; archived first"})
	case j.Loses:
		s := expiring(p, j.waiting)
		s.Detail += "; archived first"
		steps = append(steps, s)
	}
	return steps
}

func expiring(p partitions.Partition, rows int64) Step {
	return Step{Step: StepExpire, Partition: &p.Name, Rows: &rows, State: StatePlanned, Detail: "rows past a rule for rows, where no hold matches them"}
}

// kept says for each partition that stays why.
func (d *Draft) kept() (out []Step) {
	for _, k := range d.Prune.Kept {
		j := d.Decider.Found[k.OID]
		s := Step{Step: StepPrune, Partition: &k.Name, State: StateKept, Reason: string(k.Reason), Rule: j.Rule, Detail: j.Detail}
		if k.Reason == partitions.KeptFinding {
			s.State, s.Detail = StateFinding, "its verification found something wrong: auditdb verify-integrity shows it"
		}
		if k.Reason == partitions.KeptMinKeep || k.Reason == partitions.KeptMaxDrop {
			s.Detail += "; kept by " + string(k.Reason)
		}
		out = append(out, s)
	}
	return out
}

// findings is the error for partitions that were kept because something is wrong with them.
func (d *Draft) findings() error {
	n, first := 0, ""
	for _, k := range d.Prune.Kept {
		if k.Reason == partitions.KeptFinding {
			if n++; n == 1 {
				first = k.Name
			}
		}
	}
	if n == 0 {
		return nil
	}
	return fault.New(fault.Integrity, "auditdb verify-integrity --partition "+first, "retention of %s: %d partitions with integrity findings were kept, the first is %s", d.Table, n, first)
}
