package cmd

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/pkg/integrity"
)

// logDoc is auditdb.integrity.log.v1.
type logDoc struct {
	Size    int64                  `json:"size"` // records of the whole log
	Records []integrity.ListedItem `json:"records"`
	More    bool                   `json:"more"` // --limit left some out
}

type logOptions struct {
	from, to, kind, table string
	limit                 int64
}

func newLogCmd(app *App) *cobra.Command {
	var o logOptions
	cmd := &cobra.Command{
		Use:   "log",
		Short: "List the records of the integrity log",
		Long: "Shows what was logged, oldest first. --from and --to take record numbers or times; --to is not included. Without --from the\n" +
			"newest records are shown. Each record is checked with the key at hand; verify-integrity checks the log as a whole.",
		Example: "  auditdb integrity log\n  auditdb integrity log --kind partition,detach,prune --limit 0\n  auditdb integrity log --from 2024-01 --to 2024-02 -o ndjson\n  auditdb integrity log --from 0 --to 10 -o json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runLog(cmd.Context(), app, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "only records from this number or `TIME` on")
	f.StringVar(&o.to, "to", "", "only records before this number or `TIME`")
	f.StringVar(&o.kind, "kind", "", "only records of these `KINDS`, e.g. key,recovery,revoke")
	f.StringVar(&o.table, "table", "", "only records about this `TABLE`")
	f.Int64Var(&o.limit, "limit", 100, "at most this many records (0: all)")
	return listOutput(cmd)
}

func runLog(ctx context.Context, app *App, o logOptions) error {
	opts := integrity.ListOptions{Limit: o.limit, Kinds: strings.FieldsFunc(o.kind, func(r rune) bool { return r == ',' || r == ' ' })}
	var err error
	if opts.From, opts.FromTime, err = recordOrTime("--from", o.from, app.Now()); err != nil {
		return err
	}
	if opts.To, opts.ToTime, err = recordOrTime("--to", o.to, app.Now()); err != nil {
		return err
	}
	opts.Newest = o.from == ""
	if opts.Keys, err = loadKeys(app); err != nil {
		return err
	}
	db, err := app.Postgres(ctx, "integrity.log")
	if err != nil {
		return err
	}
	if err := requireSchema(ctx, db); err != nil {
		return err
	}
	if o.table != "" {
		all, err := integrity.ManagedTables(ctx, db.Pool())
		if err != nil {
			return err
		}
		m, err := integrity.MatchTable(ctx, db, all, o.table)
		if err != nil {
			return err
		}
		opts.Table = m.Table.ID
	}
	var doc logDoc
	if doc.Records, doc.Size, doc.More, err = integrity.List(ctx, db, opts); err != nil {
		return err
	}
	return app.EmitList("integrity.log", doc, doc.Records, doc.draw)
}

// recordOrTime reads a record's number, or a time.
func recordOrTime(flag, text string, now time.Time) (*int64, *time.Time, error) {
	if text == "" {
		return nil, nil, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		return &n, nil, nil
	}
	at, err := ParseTime(text, now, time.UTC)
	if err != nil {
		return nil, nil, fault.New(fault.Usage, "give a record's number, or a time", "%s: %w", flag, err)
	}
	return nil, &at, nil
}

func (d logDoc) draw(t *output.Table) {
	t.Header("record", "time", "kind", "key", "genuine", "about")
	for _, r := range d.Records {
		genuine := "not checked"
		if r.Genuine != nil {
			genuine = map[bool]string{true: "yes", false: "NO"}[*r.Genuine]
		}
		t.Row(strconv.FormatInt(r.Seq, 10), r.Time, string(r.Kind), r.KeyID, genuine, r.About)
	}
	t.Line("")
	if d.More {
		t.Line("%d of %s shown; --limit 0 shows all.", len(d.Records), countOf(d.Size, "record"))
		return
	}
	t.Line("The log has %s.", countOf(d.Size, "record"))
}
