package cmd

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
)

// version is set by the linker for releases: -ldflags "-X auditdb/cmd.version=v1.2.3".
var version string

// versionDoc is auditdb.version.v1.
type versionDoc struct {
	Version  string    `json:"version"`
	Commit   *string   `json:"commit"`
	Time     time.Time `json:"commit_time"`
	Modified bool      `json:"modified"`
	Go       string    `json:"go"`
	Platform string    `json:"platform"`
}

func newVersionCmd(app *App) *cobra.Command {
	return lenient(&cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  auditdb version\n  auditdb version -o json",
		RunE: func(*cobra.Command, []string) error {
			doc := buildVersion()
			return app.Emit("version", doc, func(t *output.Table) {
				commit := "unknown commit"
				if doc.Commit != nil {
					commit = "commit " + (*doc.Commit)[:min(12, len(*doc.Commit))]
				}
				if doc.Modified {
					commit += " with changes"
				}
				t.Line("auditdb %s (%s, %s, %s)", doc.Version, commit, doc.Go, doc.Platform)
			})
		},
	})
}

// buildVersion says what this binary was built from.
func buildVersion() versionDoc {
	doc := versionDoc{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	if doc.Version == "" {
		doc.Version = info.Main.Version
	}
	if doc.Version == "" || doc.Version == "(devel)" {
		doc.Version = "devel"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			doc.Commit = &s.Value
		case "vcs.modified":
			doc.Modified = s.Value == "true"
		case "vcs.time":
			doc.Time, _ = time.Parse(time.RFC3339, s.Value) // the zero time is printed as not known
		}
	}
	return doc
}
