package cmd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/plan"
	"auditdb/pkg/retention"
)

// holdListDoc is auditdb.retention.hold.list.v1.
type holdListDoc struct {
	Holds      []retention.Hold `json:"holds"`
	PastReview int              `json:"past_review"`
}

// holdChangeDoc is auditdb.retention.hold.{add,release}.v1.
type holdChangeDoc struct {
	ID      *int64    `json:"id"`      // null in a dry run of add
	Changed bool      `json:"changed"` // false: it was released before
	DryRun  bool      `json:"dry_run"`
	Plan    plan.Plan `json:"plan"`
}

func newRetentionHoldCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hold",
		Short: "Add, list and release legal holds",
		Long: "A partition that could have a row which an active hold matches is kept, whatever the policies say; so are rows of it that rules for\n" +
			"rows would delete. Releasing a hold lets the next run do what it had deferred.",
		Example: "  auditdb retention hold add --principal u-17 --reason 'case 2024/118' --review-at 2027-01-01\n  auditdb retention hold release 3 --reason 'settled'",
	}
	cmd.AddCommand(newHoldAddCmd(app), newHoldListCmd(app), newHoldReleaseCmd(app))
	return cmd
}

type holdAddOptions struct {
	organization, principal, correlation string
	from, to, table, reason, reviewAt    string
	dryRun                               bool
}

func newHoldAddCmd(app *App) *cobra.Command {
	var o holdAddOptions
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Keep what matches, whatever the policies say",
		Long: "All that is named has to match; at least one of organization, principal, correlation id, time range and table is needed. The log keeps\n" +
			"that a hold was added, and a commitment to its text, not whom it is about.",
		Example: "  auditdb retention hold add --organization acme --from 2024-01 --to 2024-07 --reason 'case 2024/118'\n" +
			"  auditdb retention hold add --table public.audit_log --reason audit --review-at 2027-01-01",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.TrimSpace(o.reason) == "" {
				return usage(cmd.CommandPath(), "", "--reason is missing")
			}
			if o.organization+o.principal+o.correlation+o.from+o.to+o.table == "" {
				return usage(cmd.CommandPath(), "--table holds all of a table", "say what to hold")
			}
			return runHoldAdd(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.organization, "organization", "", "rows of this organization `ID`")
	f.StringVar(&o.principal, "principal", "", "rows of this principal `ID`")
	f.StringVar(&o.correlation, "correlation-id", "", "rows of this correlation `ID`")
	f.StringVar(&o.from, "from", "", "rows at or after this `TIME`")
	f.StringVar(&o.to, "to", "", "rows before this `TIME`")
	f.StringVar(&o.table, "table", "", "rows of this `TABLE` (default: every managed table)")
	f.StringVar(&o.reason, "reason", "", "why")
	f.StringVar(&o.reviewAt, "review-at", "", "a person looks at it again at this `TIME`")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would change and change nothing")
	return cmd
}

// hold reads the flags. Times are UTC.
func (o holdAddOptions) hold(app *App) (h retention.Hold, err error) {
	h = retention.Hold{Organization: orNull(o.organization), Principal: orNull(o.principal), Correlation: orNull(o.correlation), Reason: o.reason}
	for _, f := range []struct {
		name, text string
		into       **time.Time
	}{{"from", o.from, &h.From}, {"to", o.to, &h.To}, {"review-at", o.reviewAt, &h.ReviewAt}} {
		if f.text == "" {
			continue
		}
		at, err := ParseTime(f.text, app.Now(), time.UTC)
		if err != nil {
			return h, fmt.Errorf("--%s: %w", f.name, err)
		}
		*f.into = &at
	}
	if h.From != nil && h.To != nil && !h.From.Before(*h.To) {
		return h, usage("auditdb retention hold add", "--to is not included", "--from is not before --to")
	}
	return h, nil
}

func runHoldAdd(ctx context.Context, app *App, o holdAddOptions) error {
	h, err := o.hold(app)
	if err != nil {
		return err
	}
	db, store, err := retentionStore(ctx, app, "retention.hold.add")
	if err != nil {
		return err
	}
	if o.table != "" {
		t, err := managedTable(ctx, db, o.table)
		if err != nil {
			return err
		}
		h.TableID = t.ManagedID
	}
	doc := holdChangeDoc{DryRun: o.dryRun, Changed: true, Plan: holdPlan("add", "INSERT INTO auditdb.hold …", "what matches is kept")}
	if !o.dryRun {
		if _, err := app.StartJob(ctx, db, "retention.hold.add", h.TableID); err != nil {
			return err
		}
		id, err := store.AddHold(ctx, h)
		if err != nil {
			return err
		}
		doc.ID = &id
	}
	return app.Emit("retention.hold.add", doc, func(t *output.Table) {
		if o.dryRun {
			t.Line("Dry run: nothing was changed.")
			return
		}
		t.Line("Hold %d is active.", *doc.ID)
	})
}

func holdPlan(action, sql, reason string) plan.Plan {
	return plan.Plan{Action: "retention hold " + action, Steps: []plan.Step{{Name: "auditdb.hold", SQL: sql + ";\nINSERT INTO auditdb.log …", Reason: reason}}}
}

func newHoldListCmd(app *App) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List legal holds",
		Long:    "Lists the active holds; --all also those that were released. Those whose date of review has come are marked.",
		Example: "  auditdb retention hold list --all",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runHoldList(cmd.Context(), app, all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those that were released")
	return listOutput(cmd)
}

func runHoldList(ctx context.Context, app *App, all bool) error {
	db, err := retentionDB(ctx, app, "retention.hold.list")
	if err != nil {
		return err
	}
	holds, err := retention.LoadHolds(ctx, db.Pool(), all, nil)
	if err != nil {
		return err
	}
	due := retention.PastReview(holds, app.Now())
	doc := holdListDoc{Holds: holds, PastReview: len(due)}
	return app.EmitList("retention.hold.list", doc, doc.Holds, func(t *output.Table) {
		t.Header("hold", "what", "reason", "by", "review")
		for _, h := range holds {
			t.Row(h.ID, holdText(h), shortAddresses(h.Reason), h.AddedBy, holdReview(h, app.Now()))
		}
	})
}

func holdText(h retention.Hold) string {
	var parts []string
	for i, v := range []*string{h.Table, h.Organization, h.Principal, h.Correlation} {
		if v != nil {
			parts = append(parts, []string{"", "organization ", "principal ", "correlation "}[i]+*v)
		}
	}
	if h.From != nil {
		parts = append(parts, "from "+h.From.Format(time.DateOnly))
	}
	if h.To != nil {
		parts = append(parts, "to "+h.To.Format(time.DateOnly))
	}
	return strings.Join(parts, ", ")
}

func holdReview(h retention.Hold, now time.Time) string {
	switch {
	case h.ReleasedAt != nil:
		return "released " + h.ReleasedAt.Format(time.DateOnly)
	case h.ReviewAt == nil:
		return "no date"
	case !h.ReviewAt.After(now):
		return h.ReviewAt.Format(time.DateOnly) + ": overdue"
	}
	return h.ReviewAt.Format(time.DateOnly)
}

func newHoldReleaseCmd(app *App) *cobra.Command {
	var reason string
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "release ID",
		Short:   "End a legal hold",
		Long:    "The hold stays listed with --all. What it had deferred is done by the next retention run.",
		Example: "  auditdb retention hold release 3 --reason 'case settled' --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id < 1 {
				return usage(cmd.CommandPath(), "auditdb retention hold list shows the ids", "%q is no id of a hold", args[0])
			}
			if strings.TrimSpace(reason) == "" {
				return usage(cmd.CommandPath(), "", "--reason is missing")
			}
			return runHoldRelease(cmd.Context(), app, id, reason, dryRun)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would change and change nothing")
	return cmd
}

func runHoldRelease(ctx context.Context, app *App, id int64, reason string, dryRun bool) error {
	db, store, err := retentionStore(ctx, app, "retention.hold.release")
	if err != nil {
		return err
	}
	if err := retention.RequireHold(ctx, db.Pool(), id); err != nil {
		return err
	}
	doc := holdChangeDoc{ID: &id, DryRun: dryRun, Changed: true, Plan: holdPlan("release", "UPDATE auditdb.hold …", "the next run may remove what it has kept")}
	if !dryRun {
		if err := app.Confirm(ctx, fmt.Sprintf("release hold %d", id)); err != nil {
			return err
		}
		if _, err := app.StartJob(ctx, db, "retention.hold.release", nil); err != nil {
			return err
		}
		if doc.Changed, err = store.ReleaseHold(ctx, id, reason); err != nil {
			return err
		}
	}
	return app.Emit("retention.hold.release", doc, func(t *output.Table) {
		switch {
		case dryRun:
			t.Line("Dry run: nothing was changed.")
		case doc.Changed:
			t.Line("Hold %d is released; the next retention run does what it had deferred.", id)
		default:
			t.Line("Hold %d was released before.", id)
		}
	})
}
