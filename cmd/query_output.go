package cmd

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"time"

	"auditdb/internal/output"
	"auditdb/pkg/query"
)

// emit prints the document; as CSV and NDJSON only groups come here.
func (d queryDoc) emit(app *App) error {
	if d.by != "" {
		return app.EmitList(d.name, d, d.Groups, d.print)
	}
	return app.Emit(d.name, d, d.print)
}

func (d queryDoc) print(t *output.Table) {
	switch {
	case d.explained:
		d.printExplain(t)
	case d.by != "":
		d.printGroups(t)
	case d.Count != nil:
		t.Line("%s.", countOf(*d.Count, "row"))
	default:
		d.printRows(t)
	}
	d.printArchives(t)
	t.Line("Partitions by source: %s. It took %s.", d.Sources, output.Cell(secondsCell(&d.ElapsedSeconds)))
	if d.Next != nil {
		t.Line("There are more:")
		t.Verbatim("--after " + *d.Next)
	}
}

// printArchives says what was read of archives, and which were not.
func (d queryDoc) printArchives(t *output.Table) {
	var searched, left int
	var bytes int64
	for _, a := range d.Archives {
		if !a.Searched {
			left++
			continue
		}
		searched, bytes = searched+1, bytes+a.BytesRead
	}
	if searched > 0 {
		t.Line("%s searched: %s read.", countOf(searched, "archive"), output.Cell(output.Size(bytes)))
	}
	if left > 0 {
		t.Line("%s not searched: their rows are in the table.", countOf(left, "archive"))
	}
}

func (d queryDoc) printGroups(t *output.Table) {
	t.Header(d.by, "rows")
	for _, g := range d.Groups {
		t.Row(orNothing(g.Key), g.Count)
	}
	if more := *d.GroupsTotal - len(d.Groups); more > 0 {
		t.Line("Left out: %s. --limit shows more.", countOf(more, "smaller group"))
	}
}

// printRows shows the columns that say most; JSON has all.
func (d queryDoc) printRows(t *output.Table) {
	if len(d.Rows) == 0 {
		t.Line("No rows.")
		return
	}
	shown := slices.DeleteFunc(d.Rows[0].Brief(), func(name string) bool { // what no row has takes no room
		return !slices.ContainsFunc(d.Rows, func(r query.Row) bool { return r.Text(name) != "" })
	})
	short := strings.NewReplacer("target_resource_type", "type", "target_resource_id", "resource", "principal_id", "principal")
	header := make([]string, len(shown))
	for i, name := range shown {
		header[i] = short.Replace(name)
	}
	t.Header(header...)
	for _, r := range d.Rows {
		cells := make([]any, len(shown))
		for i, name := range shown {
			cells[i] = rowCell(r.Text(name))
		}
		t.Row(cells...)
	}
}

// rowCell is a value of a row in one line that may be cut.
func rowCell(text string) any {
	if at, err := time.Parse(output.TimeLayout, text); err == nil && len(text) == len(output.TimeLayout) {
		return output.Moment(at)
	}
	if text == "" {
		return nil
	}
	return output.Cut(shorten(strings.Join(strings.Fields(text), " "), 48))
}

func (d queryDoc) printExplain(t *output.Table) {
	t.Header("partition", "from", "to", "rows", "source", "read by", "cache")
	for _, x := range d.Explain {
		var by []string
		for _, s := range x.Scans {
			how := s.Node
			if s.Index != nil {
				how = *s.Index
			}
			if !slices.Contains(by, how) {
				by = append(by, how)
			}
		}
		if x.Archive != nil {
			by = append(by, fmt.Sprintf("archive: %s in %s", output.Cell(output.Size(x.Archive.BytesRead)), countOf(x.Archive.Requests, "read")))
		}
		t.Row(x.Partition, orNothing(x.From), orNothing(x.To), x.Rows, string(x.Source), orDash(strings.Join(by, ", ")), orDash(x.Cache))
	}
}

// streamRows writes rows as they come, as NDJSON or CSV. A reader who has gone away ends it, which is no error.
func streamRows(ctx context.Context, app *App, engine *query.Engine, req query.Request) error {
	w := bufio.NewWriterSize(app.Out, 64<<10)
	write, finish, err := rowWriter(ctx, app, engine, req, w)
	if err != nil {
		return err
	}
	n := 0
	answer, next, err := engine.Stream(ctx, req, func(r query.Row) error { n++; return write(r) })
	if flushed := finish(); err == nil {
		err = flushed
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	if err != nil {
		return err
	}
	attrs := []slog.Attr{slog.Int("rows", n), slog.String("source", string(answer.Sources.Costliest())), slog.String("sources", answer.Sources.String())}
	if next != "" {
		attrs = append(attrs, slog.String("next", next))
	}
	app.Log.LogAttrs(ctx, slog.LevelInfo, "query answered", attrs...)
	return nil
}

// rowWriter writes in the chosen format to w.
func rowWriter(ctx context.Context, app *App, engine *query.Engine, req query.Request, w *bufio.Writer) (write func(query.Row) error, finish func() error, err error) {
	if app.Printer.Format == output.NDJSONFormat {
		line := []byte{}
		return func(r query.Row) error {
			line = append(r.AppendJSON(line[:0]), '\n')
			_, err := w.Write(line)
			return err
		}, w.Flush, nil
	}
	names, err := engine.Header(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	out := csv.NewWriter(w)
	if err := out.Write(names); err != nil {
		return nil, nil, err
	}
	return func(r query.Row) error { return out.Write(r.Cells()) }, func() error {
		out.Flush()
		return out.Error()
	}, nil
}
