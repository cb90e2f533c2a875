package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/tidwall/gjson"

	"auditdb/internal/embedded"
	"auditdb/internal/output"
	"auditdb/internal/pgtest"
)

// tests is what testscript.Main runs: the package's tests, between the start and the stop of the shared server.
type tests struct{ m *testing.M }

func (r tests) Run() int {
	if signal.Ignored(syscall.SIGHUP) { // under nohup, where the commands would inherit it and outlive the end of their terminal
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	return pgtest.Run(r.m)
}

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"auditdb": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script/*.txtar: the binary as a user would call it. Beside testscript's own commands there are
//
//	exits CODE PROGRAM ARG…   run the program and compare its exit code
//	database [empty]          set DATABASE_URL to a new database, migrated or empty
//	secured                   set DATABASE_URL to a server of its own that asks for a password, also given as PASSWORD; BARE_URL is without it
//	redis                     set REDIS_URL to a Redis of its own
//	sql SQL                   run statements on DATABASE_URL
//	query SQL TEXT            the first value of the query on DATABASE_URL, as text, is TEXT
//	document FILE NAME        FILE (or stdout, stderr) holds one JSON document that fits auditdb's schema NAME; of stderr the last line counts
//	json FILE PATH VALUE      the gjson PATH in FILE's last JSON document is VALUE
//	await FILE REGEXP         wait until FILE holds a match
//	signal FILE NAME          send the signal to the process whose number is in FILE
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PATH", os.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"database": func(ts *testscript.TestScript, _ bool, args []string) { database(t, ts, args) },
			"secured":  func(ts *testscript.TestScript, _ bool, _ []string) { secured(t, ts) },
			"redis":    func(ts *testscript.TestScript, _ bool, _ []string) { ts.Setenv("REDIS_URL", pgtest.Redis(t)) },
			"sql":      sqlOnly,
			"query":    firstValue,
			"document": fits,
			"json":     jsonIs,
			"await":    await,
			"signal":   send,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if exit.ExitCode() != want {
			ts.Fatalf("exit code %d, want %d", exit.ExitCode(), want)
		}
	case err != nil:
		ts.Fatalf("%v", err)
	case want != 0:
		ts.Fatalf("exit code 0, want %d", want)
	}
}

func database(t *testing.T, ts *testscript.TestScript, args []string) {
	t.Helper()
	if len(args) == 1 && args[0] == "empty" {
		ts.Setenv("DATABASE_URL", pgtest.Empty(t))
		return
	}
	ts.Setenv("DATABASE_URL", pgtest.DB(t))
}

func secured(t *testing.T, ts *testscript.TestScript) {
	t.Helper()
	const password = "Tr0ub4dor-and-3"
	pg := pgtest.Server(t, func(o *embedded.Options) { o.TCP, o.Password = true, password })
	ts.Setenv("DATABASE_URL", pg.TCPURL("postgres"))
	ts.Setenv("PASSWORD", password)
	ts.Setenv("BARE_URL", strings.Replace(pg.TCPURL("postgres"), ":"+password+"@", "@", 1))
}

func sqlOnly(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: sql SQL")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
	ts.Check(err)
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, args[0])
	ts.Check(err)
}

func firstValue(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: query SQL TEXT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
	ts.Check(err)
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, args[0], pgx.QueryExecModeSimpleProtocol)
	ts.Check(err)
	got, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (string, error) { return string(row.RawValues()[0]), nil })
	ts.Check(err)
	if (got == args[1]) == neg {
		ts.Fatalf("%s gives %s, want %s", args[0], got, args[1])
	}
}

// last gives the last JSON document of a file: all of it, or its last line.
func last(ts *testscript.TestScript, file string) string {
	text := strings.TrimSpace(ts.ReadFile(file))
	if json.Valid([]byte(text)) {
		return text
	}
	lines := strings.Split(text, "\n")
	line := lines[len(lines)-1]
	if !json.Valid([]byte(line)) {
		ts.Fatalf("%s ends with no JSON document: %s", file, text)
	}
	return line
}

func fits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: document FILE NAME")
	}
	doc, name := last(ts, args[0]), args[1]
	if err := checkDocument(name, doc); err != nil {
		ts.Fatalf("%s: %v\n%s", name, err, doc)
	}
}

// checkDocument compares a document that was really printed with its schema: nothing missing, of another type, or undeclared.
func checkDocument(name, doc string) error {
	zero, ok := documents()[name]
	if !ok {
		return fmt.Errorf("no document is called %s", name)
	}
	if !strings.HasPrefix(strings.TrimLeft(doc, "{ \n"), `"schema": "`+output.SchemaName(name)+`"`) &&
		!strings.HasPrefix(doc, `{"schema":"`+output.SchemaName(name)+`"`) {
		return errors.New("the first key is not its schema's name")
	}
	schema, err := documentSchema(name, zero)
	if err != nil {
		return err
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		return err
	}
	var instance any
	if err := json.Unmarshal([]byte(doc), &instance); err != nil {
		return err
	}
	return resolved.Validate(instance)
}

func jsonIs(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: json FILE PATH VALUE")
	}
	doc := last(ts, args[0])
	got := gjson.Get(doc, args[1])
	text := got.Raw
	if got.Type == gjson.String {
		text = got.Str
	}
	if (text == args[2]) == neg {
		ts.Fatalf("%s is %s, want %s in\n%s", args[1], text, args[2], doc)
	}
}

// patience is how long a script waits for what has to come.
const patience = time.Minute

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE REGEXP")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	path := ts.MkAbs(args[0])
	until := time.NewTimer(patience)
	defer until.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(path)
		if err == nil && re.Match(text) {
			return
		}
		select {
		case <-tick.C:
		case <-until.C:
			ts.Fatalf("%s never held %s: %s", args[0], args[1], text)
		}
	}
}

func send(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal FILE NAME")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	names := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP}
	sig, ok := names[args[1]]
	if !ok {
		ts.Fatalf("unknown signal %s", args[1])
	}
	ts.Check(syscall.Kill(pid, sig))
}
