package cmd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"auditdb/internal/config"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
)

// App is what commands share. Dependencies are opened on first use, so --help and completion never connect.
type App struct {
	In       io.Reader
	Out, Err io.Writer
	Now      func() time.Time // the only clock
	Config   *config.Config   // effective configuration; set before RunE
	Log      *slog.Logger     // to standard error
	Printer  *output.Printer  // data to standard output
}

// Postgres opens the configured database on first use; Main closes it. command is the command's path with dots, e.g. "partition.create".
func (a *App) Postgres(_ context.Context, _ string) (*postgres.DB, error) {
	return nil, errors.New("not written yet")
}

// Emit writes a command's answer in the chosen format. doc is a struct with JSON tags; the schema key is put before its own keys.
func (a *App) Emit(command string, doc any, table func(*output.Table)) error {
	return a.Printer.Emit(command, doc, table)
}

// EmitList is Emit for an answer that is one list (a slice of structs inside doc), which CSV can show as well.
// The command must also be marked with listOutput, so that -o csv is accepted.
func (a *App) EmitList(command string, doc, list any, table func(*output.Table)) error {
	return a.Printer.EmitList(command, doc, list, table)
}

// Confirm asks on the terminal whether to go on with what. It returns nil with --yes, and a refused error (6) without a terminal or on a no.
func (a *App) Confirm(_ context.Context, _ string) error { return nil }

// Progress shows how far work has come: a bar on a terminal, else a log line every 30 s. total 0 means not known.
func (a *App) Progress(_ string, _ int64, _ output.Unit) output.Progress { return nil }

// Warn writes one warning line to standard error.
func (a *App) Warn(_ string, _ ...any) {}
