package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// process is auditdb as a process of its own, on a database with an integrity key.
type process struct {
	t    *testing.T
	url  string
	env  []string
	path string
}

func processes(t *testing.T, url string, env ...string) process {
	t.Helper()
	path, err := exec.LookPath("auditdb")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	p := process{t: t, url: url, path: path}
	p.must("integrity", "keygen", "-f", key)
	p.env = append(env, "AUDITDB_INTEGRITY_KEY_FILE="+key)
	return p
}

func (p process) command(ctx context.Context, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd = exec.CommandContext(ctx, p.path, args...)
	cmd.Env = append([]string{"HOME=" + p.t.TempDir(), "DATABASE_URL=" + p.url}, p.env...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

// run gives the exit code, -1 for a process that was killed, and what it has said.
func (p process) run(ctx context.Context, args ...string) (code int, text string) {
	cmd, stdout, stderr := p.command(ctx, args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		p.t.Errorf("auditdb %s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String() + stderr.String()
}

func (p process) must(args ...string) string {
	p.t.Helper()
	code, text := p.run(p.t.Context(), args...)
	if code != 0 {
		p.t.Fatalf("auditdb %s: exit %d: %s", strings.Join(args, " "), code, text)
	}
	return text
}

// scan reads one value as text.
func (p process) scan(sql string) string {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.url)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(p.t.Context())) }()
	results, err := conn.PgConn().Exec(p.t.Context(), sql).ReadAll()
	if err != nil || len(results) != 1 || len(results[0].Rows) != 1 {
		p.t.Fatalf("%s: %v", sql, err)
	}
	return string(results[0].Rows[0][0])
}

func (p process) exec(sql string) {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.url)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(p.t.Context())) }()
	if _, err := conn.PgConn().Exec(p.t.Context(), sql).ReadAll(); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

// clean checks that no run has left anything half done: no table beside the partitions, no mark, no pending detach, no check of ours.
func (p process) clean() {
	p.t.Helper()
	for what, sql := range map[string]string{
		"tables that are no partitions": `SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT relispartition`,
		"pending detaches":              `SELECT count(*) FROM pg_inherits WHERE inhdetachpending`,
		"marks":                         `SELECT count(*) FROM pg_description WHERE classoid = 'pg_class'::regclass AND description LIKE 'auditdb %FOR VALUES%'`,
		"checks":                        `SELECT count(*) FROM pg_constraint WHERE conname LIKE 'auditdb\_a%' AND connamespace = 'public'::regnamespace`,
		"partitions without a guard":    `SELECT count(*) FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = 'public.audit_log'::regclass AND pg_get_expr(c.relpartbound, 0) <> 'DEFAULT' AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = h.inhrelid AND t.tgtype & 32 <> 0)`,
		"locks":                         `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
	} {
		if n := p.scan(sql); n != "0" {
			p.t.Errorf("%s: %s are left", what, n)
		}
	}
}

// Forty processes make and prune partitions at once, and Redis stops in the middle: each partition is made once and each that has expired goes
// once, whoever does it.
func TestManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	const many = 40
	redis := pgtest.RedisServer(t)
	p := processes(t, pgtest.DB(t), "REDIS_URL="+redis.URL())
	p.must("partition", "create", "--from", "2024-01", "--to", "2025-01")
	p.exec(`INSERT INTO public.audit_log (timestamp, action, status) SELECT '2024-01-01Z'::timestamptz + i * interval '1 day', 'a', 'b' FROM generate_series(0, 365) i`)
	var wg sync.WaitGroup
	var ended atomic.Int32
	for i := range many {
		wg.Go(func() {
			args := []string{"partition", "create", "--ahead", "12", "--wait", "10m"}
			if i%2 == 1 {
				args = []string{"partition", "prune", "--older-than", "2024-07-01", "--yes", "--wait", "10m"}
			}
			if code, text := p.run(t.Context(), args...); code != 0 {
				t.Errorf("%v: exit %d: %s", args, code, text)
			}
			if ended.Add(1) == many/4 {
				if err := redis.Kill(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	p.clean()
	months := `SELECT (extract(year FROM age(date_trunc('month', now() AT TIME ZONE 'UTC'), '2024-07-01')) * 12 + extract(month FROM age(date_trunc('month', now() AT TIME ZONE 'UTC'), '2024-07-01')))::int + 13`
	if got, want := p.scan(`SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.audit_log'::regclass`), p.scan(months); got != want {
		t.Errorf("%s partitions, want %s", got, want)
	}
	for sql, want := range map[string]string{
		`SELECT count(*) FROM public.audit_log`:                                   "184",
		`SELECT count(*) FROM auditdb.log WHERE record LIKE 'auditdb/1 prune%'`:   "6",
		`SELECT count(*) FROM auditdb.log WHERE record LIKE 'auditdb/1 detach%'`:  "6",
		`SELECT count(*) FROM auditdb.job_run WHERE exit_code IS DISTINCT FROM 0`: "0",
		`SELECT count(*) - 6 = (SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.audit_log'::regclass) FROM auditdb.log WHERE record LIKE 'auditdb/1 partition%'`: "t",
	} {
		if got := p.scan(sql); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	p.must("verify-integrity")
}

// killRounds kills, at a random moment, a run that makes the partitions of a year and one that prunes them; the next run of each ends what was
// begun, and no other row is touched.
func killRounds(t *testing.T, rounds int) {
	t.Helper()
	p := processes(t, pgtest.DB(t))
	p.must("partition", "create", "--from", "2024-01", "--to", "2024-07")
	p.exec(`INSERT INTO public.audit_log (timestamp, action, status) SELECT '2024-01-01Z'::timestamptz + i * interval '1 day', 'a', 'b' FROM generate_series(0, 99) i`)
	killed := 0
	length := 2 * time.Second // of the run to be killed
	for i := range rounds {
		from, to := fmt.Sprint(1971+i), fmt.Sprint(1972+i)
		create := []string{"partition", "create", "--from", from + "-01", "--to", to + "-01"}
		prune := []string{"partition", "prune", "--older-than", to + "-01-01", "--yes"}
		for step, args := range [][]string{create, prune} {
			after := rand.N(length)
			ctx, cancel := context.WithTimeout(t.Context(), after)
			started := time.Now()
			if code, text := p.run(ctx, args...); code == -1 {
				killed++
			} else if code != 0 {
				t.Errorf("%v, killed after %s: exit %d: %s", args, after, code, text)
			} else {
				length = time.Since(started)
			}
			cancel()
			p.must(args...)
			of := fmt.Sprintf(` FROM pg_class c JOIN pg_inherits h ON h.inhrelid = c.oid WHERE h.inhparent = 'public.audit_log'::regclass AND c.relname LIKE 'audit\_log\_%s%%'`, from)
			recorded := map[string]string{
				`SELECT count(*)` + of:                  []string{"12", "0"}[step],
				`SELECT count(*) FROM public.audit_log`: "100",
				fmt.Sprintf(`SELECT count(*) FROM auditdb.log l JOIN auditdb.log_partition p USING (seq) WHERE l.record LIKE 'auditdb/1 %s%%' AND p.part_from >= '%s-01-01Z' AND p.part_to <= '%s-01-01Z'`,
					[]string{"partition", "prune"}[step], from, to): "12",
			}
			for sql, want := range recorded {
				if got := p.scan(sql); got != want {
					t.Errorf("%v, killed after %s: %s: %s, want %s", args, after, sql, got, want)
				}
			}
			if step == 0 {
				p.exec(fmt.Sprintf(`INSERT INTO public.audit_log (timestamp, action, status) SELECT make_timestamptz(%s, m, 5, 0, 0, 0, 'UTC'), 'a', 'b' FROM generate_series(1, 12) m`, from))
			}
		}
		p.clean()
	}
	t.Logf("%d of %d runs were killed", killed, 2*rounds)
	p.must("verify-integrity")
}

func TestKilledPartitionRuns(t *testing.T) {
	t.Parallel()
	killRounds(t, 2)
}
