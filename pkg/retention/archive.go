package retention

import (
	"context"
	"errors"
	"slices"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
)

// StepArchive copies a partition to the store.
const StepArchive = "archive"

// archive copies to the store what is to have a verified archive of all that is known of it, and has none. A partition with a finding stays and
// does not stop the others; a store that fails ends the step, and what has no archive stays.
func (r *Runner) archive(ctx context.Context, d *Draft, allowed []string, res *Result) error {
	if err := r.planPrune(ctx, d, nil); err != nil || d.Prune == nil {
		return err
	}
	var found []error
	for _, p := range d.Archive {
		if r.Stop() || ctx.Err() != nil {
			break
		}
		if allowed != nil && d.Decider.Found[p.OID].Loses && !slices.Contains(allowed, p.String()) {
			continue // it was not asked about
		}
		made, err := r.Archive(ctx, d.Table, p)
		switch {
		case err == nil:
			d.Decider.stored[p.OID] = nil // it was read back just now
			res.add(Step{Step: StepArchive, Partition: &p.Name, Rows: &made.Rows, Bytes: &made.Bytes, State: StateDone, Detail: "read back from " + made.URL})
		case fault.ClassOf(err) == fault.Integrity:
			res.add(Step{Step: StepArchive, Partition: &p.Name, State: StateFinding, Reason: string(partitions.KeptFinding), Detail: err.Error()})
			found = append(found, err)
		case fault.ClassOf(err) == fault.Refused || postgres.Class(err) == fault.Locked: // rows came meanwhile: the next run archives it
			res.add(Step{Step: StepArchive, Partition: &p.Name, State: StateSkipped, Reason: string(partitions.KeptNotArchived), Detail: err.Error()})
		default:
			return errors.Join(append(found, err)...)
		}
	}
	return errors.Join(found...)
}

// bringBack attaches again what an interrupted run has detached and has to stay: so that it is there, and can be archived.
func (r *Runner) bringBack(ctx context.Context, d *Draft, res *Result) error {
	if len(d.Prune.Back) == 0 {
		return nil
	}
	err := r.Worker.Locked(ctx, d.Table, func(ctx context.Context) error {
		for _, p := range d.Prune.Back {
			if err := r.Worker.AttachAgain(ctx, d.Prune, p); err != nil {
				return err
			}
			res.add(Step{Step: StepPrune, Partition: &p.Name, State: StateSkipped, Detail: "attached again, for an interrupted run had detached it"})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.planPrune(ctx, d, nil)
}
