package cmd

import (
	"io"
	"log/slog"
	"time"

	"auditdb/internal/config"
	"auditdb/internal/output"
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
