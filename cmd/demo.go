package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/sample"
	"auditdb/pkg/ingest"
)

const (
	demoMonths = 24
	demoEvents = 200_000
)

type demoOptions struct {
	keep, stop     bool
	input, mapping string
	events         int
}

// demoDoc is the answer of demo.
type demoDoc struct {
	Postgres       int        `json:"postgres"` // major version of the server that was started
	Events         int        `json:"events"`   // generated; 0 with --input
	Steps          []demoStep `json:"steps"`
	Kept           string     `json:"kept"` // directory of the servers left running, else empty
	ElapsedSeconds float64    `json:"elapsed_seconds"`
}

// demoStep is one command that the demo ran.
type demoStep struct {
	Command        string  `json:"command"`
	ExitCode       int     `json:"exit_code"`
	ElapsedSeconds float64 `json:"elapsed_seconds"`
}

func demoDocuments() map[string]any { return map[string]any{"demo": demoDoc{}} }

func newDemoCmd(app *App) *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show everything on private servers that it starts itself",
		Long: `Starts a private PostgreSQL and Redis in a temporary directory, makes 24 months of partitions, ingests generated events, verifies
them, changes one row behind auditdb's back to show that it is found, and plans a prune. Each step is an ordinary command, printed
before it runs. It touches no other server, and leaves nothing behind unless --keep is given.`,
		Example: `  auditdb demo
  auditdb demo --keep                                  # leave the servers running, to go on by hand
  auditdb demo --stop                                  # end what --keep left running
  auditdb demo --input events.ndjson --mapping native  # your own events instead of generated ones`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.stop {
				return stopDemo(cmd.Context(), app)
			}
			return runDemo(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.keep, "keep", false, "leave the servers running and print the setting to go on by hand")
	f.BoolVar(&o.stop, "stop", false, "end the servers that an earlier --keep left running")
	f.StringVar(&o.input, "input", "", "ingest this `file` instead of generated events")
	f.StringVar(&o.mapping, "mapping", ingest.MappingNative, "mapping of --input: native or cloudtrail")
	f.IntVar(&o.events, "events", demoEvents, "how many events to generate")
	cmd.MarkFlagsMutuallyExclusive("keep", "stop")
	cmd.MarkFlagsMutuallyExclusive("input", "events")
	cmd.MarkFlagsMutuallyExclusive("mapping", "events")
	return cmd
}

// keptDemoDir is where --keep puts its files, so that --stop finds them.
func keptDemoDir() string {
	return filepath.Join(os.TempDir(), "auditdb-demo-"+strconv.Itoa(os.Getuid()))
}

func runDemo(ctx context.Context, app *App, o demoOptions) (err error) {
	d := &demo{app: app, o: o, began: app.Now(), text: app.Out}
	if app.Config.Output != "table" {
		d.text = app.Err
	}
	if o.input != "" {
		if _, err := ingest.ParseMapping(o.mapping, nil); err != nil {
			return err
		}
		if d.o.input, err = filepath.Abs(o.input); err != nil {
			return err
		}
		if _, err := os.Stat(d.o.input); err != nil {
			return fault.New(fault.Usage, "", "demo: read --input: %w", err)
		}
	} else if o.events < 1 {
		return fault.New(fault.Usage, "", "demo: --events %d: want at least 1", o.events)
	}
	if err := d.whole(ctx); err != nil {
		return err
	}
	d.doc.ElapsedSeconds = app.Now().Sub(d.began).Seconds()
	if app.Config.Output != "table" {
		return app.Emit("demo", d.doc, nil)
	}
	return nil
}

// whole runs the story between start and close.
func (d *demo) whole(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, d.close(ctx, err != nil)) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	return d.play(ctx)
}

// demo is one run: its servers, its directory and what it has done.
type demo struct {
	app   *App
	o     demoOptions
	began time.Time
	text  io.Writer // the story; standard output, or standard error beside a JSON document

	dir   string
	pg    *embedded.Postgres
	redis *embedded.Redis
	exe   string
	env   []string
	doc   demoDoc

	chapters int
}

func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.text, format+"\n", args...) // a reader who has gone away ends no demo
}

// start makes the directory, the servers and the configuration file that every step uses.
func (d *demo) start(ctx context.Context) error {
	var err error
	if d.exe, err = os.Executable(); err != nil {
		return err
	}
	if d.dir, err = d.makeDir(); err != nil {
		return err
	}
	if d.pg, err = embedded.StartPostgres(ctx, embedded.Options{Settings: map[string]string{"shared_buffers": "256MB"}}); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("demo: start PostgreSQL: %w", err)
	}
	d.doc.Postgres = d.pg.Major()
	if d.redis, err = embedded.StartRedis(ctx, embedded.RedisOptions{Installed: d.o.keep}); err != nil {
		if !d.o.keep {
			return fmt.Errorf("demo: start Redis: %w", err)
		}
		d.say("Redis is not installed: going on without it (it only saves waiting; PostgreSQL's locks decide).")
	}
	d.say("Started a private PostgreSQL %d%s on sockets in a temporary directory.", d.pg.Major(), d.redisName())
	return d.configure()
}

func (d *demo) redisName() string {
	switch {
	case d.redis == nil:
		return ""
	case d.redis.InProcess():
		return " and a Redis inside this process"
	}
	return " and a private Redis"
}

func (d *demo) makeDir() (string, error) {
	if !d.o.keep {
		return os.MkdirTemp("", "auditdb-demo-")
	}
	dir := keptDemoDir()
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return "", fault.New(fault.Refused, "auditdb demo --stop", "demo: an earlier --keep still stands in %s", dir)
	}
	return dir, err
}

// configure writes the configuration file and keeps the caller's own settings out of the steps' environment.
func (d *demo) configure() error {
	text := "database: { url: '" + d.pg.URL("postgres") + "' }\nintegrity: { key_file: '" + d.file("integrity.key") + "' }\n"
	if d.redis != nil {
		text += "redis: { url: '" + d.redis.URL() + "' }\n"
	}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PG") && !strings.HasPrefix(e, "AUDITDB_") && !strings.HasPrefix(e, "DATABASE_URL=") && !strings.HasPrefix(e, "REDIS_URL=") {
			d.env = append(d.env, e)
		}
	}
	d.env = append(d.env, "AUDITDB_CONFIG="+d.file("auditdb.yaml"))
	return os.WriteFile(d.file("auditdb.yaml"), []byte(text), 0o600)
}

func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }

// generate writes the sample events to a file that ends now.
func (d *demo) generate() (string, error) {
	name := d.file("events.ndjson")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	now := d.began.UTC()
	first := time.Date(now.Year(), now.Month()-demoMonths+1, 1, 0, 0, 0, 0, time.UTC)
	err = sample.WriteNDJSON(f, sample.Options{Seed: 1, Events: d.o.events, From: first, To: now})
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("generate events: %w", err)
	}
	d.doc.Events = d.o.events
	return name, nil
}

// close ends or detaches the servers, also when ctx has been cancelled.
func (d *demo) close(ctx context.Context, failed bool) error {
	ctx = context.WithoutCancel(ctx)
	if d.o.keep && !failed {
		return d.detach()
	}
	var errs []error
	if d.pg != nil {
		errs = append(errs, d.pg.Stop(ctx))
	}
	if d.redis != nil {
		errs = append(errs, d.redis.Stop(ctx))
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("demo: clean up: %w", err)
	}
	if !failed {
		d.say("\nDone in %.0f s. The servers are stopped and nothing is left behind.", d.app.Now().Sub(d.began).Seconds())
	}
	return nil
}

// detach leaves the servers running and writes down where they are, for --stop.
func (d *demo) detach() error {
	dirs := d.pg.Dir() + "\n"
	if d.redis != nil {
		dirs += d.redis.Dir() + "\n"
	}
	if err := os.WriteFile(d.file("servers"), []byte(dirs), 0o600); err != nil {
		return err
	}
	if err := d.pg.Detach(); err != nil {
		return err
	}
	if d.redis != nil {
		if err := d.redis.Detach(); err != nil {
			return err
		}
	}
	d.doc.Kept = d.dir
	d.say("\nThe servers go on running. To go on by hand:\n\n  export AUDITDB_CONFIG=%s\n  auditdb partition list\n  psql '%s'\n\nTo end them: auditdb demo --stop, and unset AUDITDB_CONFIG",
		d.file("auditdb.yaml"), d.pg.URL("postgres"))
	return nil
}

// stopDemo ends what --keep left running.
func stopDemo(ctx context.Context, app *App) error {
	dir := keptDemoDir()
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Usage, "", "demo: no servers were left running by --keep")
	} else if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() || !info.IsDir() {
		return fault.New(fault.Refused, "", "demo: %s is not yours", dir)
	}
	list, err := os.ReadFile(filepath.Join(dir, "servers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, server := range strings.Fields(string(list)) {
		if _, err := os.Stat(server); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := embedded.StopDetached(ctx, server); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return app.Emit("demo", demoDoc{Steps: []demoStep{}}, func(t *output.Table) { t.Line("The demo's servers are stopped and its files removed.") })
}
