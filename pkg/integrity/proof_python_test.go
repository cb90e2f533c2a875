package integrity

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"auditdb/pkg/audit"
)

const (
	checkerPath = "../../docs/check_proof.py"
	formatPath  = "../../docs/integrity-format.md"
)

// python runs docs/check_proof.py and returns its exit code.
func python(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	return run(t, "", "python3", append([]string{"-B", checkerPath}, args...)...)
}

func run(t *testing.T, dir, program string, args ...string) (code int, output string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

func needPython(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skipf("docs/check_proof.py was not tried, because python3 is not installed: %v", err)
	}
}

// The independent checker is small enough to be read.
func TestCheckerIsSmall(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(checkerPath)
	if err != nil || bytes.Count(text, []byte("\n")) > 200 {
		t.Error("lines:", bytes.Count(text, []byte("\n")), err)
	}
}

// The independent checker accepts the test vectors and no other text that was made of them.
func TestCheckerOnVectors(t *testing.T) {
	t.Parallel()
	needPython(t)
	key := "testdata/public.key"
	for _, args := range [][]string{
		{"event", "testdata/event.tlog-proof", key},
		{"event", "testdata/sealed.tlog-proof", key},
		{"event", "testdata/erased.tlog-proof", key},
		{"consistency", "testdata/consistency.proof", key},
		{"partition", "audit_log_2026_03", "testdata/partition.rows", "testdata/partition.log", "testdata/partition.sets", "testdata/checkpoint", key},
	} {
		if code, out := python(t, args...); code != 0 {
			t.Errorf("%v: %d %s", args, code, out)
		}
	}
	other := filepath.Join(t.TempDir(), "other.key")
	stranger, err := Generate(exampleKeys().Origin())
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Public().Save(other); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[int][][]string{
		2: {{}, {"event"}, {"event", "testdata/event.tlog-proof"}, {"event", "testdata/gone", key}, {"nothing", key, key}},
		4: {
			{"event", "testdata/event.tlog-proof", other},
			{"consistency", "testdata/consistency.proof", other},
			{"event", "testdata/consistency.proof", key},
			{"consistency", "testdata/event.tlog-proof", key},
			{"event", key, key},
			{"partition", "audit_log_2026_04", "testdata/partition.rows", "testdata/partition.log", "testdata/partition.sets", "testdata/checkpoint", key},
			{"partition", "audit_log_2026_03", "testdata/partition.rows", "testdata/partition.log", "testdata/partition.sets", "testdata/checkpoint", other},
		},
	} {
		for _, a := range args {
			if code, out := python(t, a...); code != want {
				t.Errorf("%v: %d, want %d: %s", a, code, want, out)
			}
		}
	}
}

// flips runs within Python: a change of one byte at every STEPth place, from another place on for each file.
const flips = `
import contextlib, importlib.util, io, sys
spec = importlib.util.spec_from_file_location("check_proof", sys.argv[1])
checker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checker)
step = int(sys.argv[2])
read = lambda name: open("testdata/" + name, "rb").read()
key = read("public.key")
def refused(check, *args):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check(*args)
    except (ValueError, LookupError, TypeError, StopIteration, checker.struct.error):
        return True
    return False
def flipped(text, start):
    for at in range(start % step, len(text), step):
        yield at, text[:at] + bytes([text[at] ^ 1 << at % 7]) + text[at + 1:]
        yield at, text[:at]
tried = 0
for start, name in enumerate(["event.tlog-proof", "sealed.tlog-proof", "erased.tlog-proof", "consistency.proof"]):
    check = checker.consistency if name.startswith("consistency") else checker.event
    assert not refused(check, read(name), key), name
    for at, bad in flipped(read(name), start):
        tried += 1
        assert refused(check, bad, key), f"{name}: a change at {at} is accepted"
parts = [read("partition." + x) for x in ("rows", "log", "sets")] + [read("checkpoint")]
assert not refused(checker.partition, b"audit_log_2026_03", *parts, key)
for i in (0, 1, 3):
    for at, bad in flipped(parts[i].rstrip(b"\n"), i):
        tried += 1
        assert refused(checker.partition, b"audit_log_2026_03", *parts[:i], bad, *parts[i + 1:], key), f"file {i}: a change at {at} is accepted"
for line in parts[2].split():
    assert refused(checker.partition, b"audit_log_2026_03", *parts[:2], parts[2].replace(line + b"\n", b""), parts[3], key), "a set may be left out"
print(tried, "changes refused")
`

func TestCheckerOnFlips(t *testing.T) {
	t.Parallel()
	needPython(t)
	code, out := run(t, "", "python3", "-B", "-c", flips, checkerPath, "29")
	if code != 0 || !strings.HasSuffix(out, "changes refused\n") {
		t.Error(code, out)
	}
}

// exportCommands are those of docs/integrity-format.md, for a partition of the fixture.
func exportCommands(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(formatPath)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)## Exported partitions\n.*?```sh\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("the documentation has no commands for exporting")
	}
	return "set -e\n" + strings.ReplaceAll(string(m[1]), "audit_log_2026_03", "audit_log_2024_01")
}

// A partition that is exported as documented holds; one that was tampered with, in the database or in the files, does not.
func TestCheckerOnPartition(t *testing.T) {
	t.Parallel()
	needPython(t)
	f := newFixture(t)
	first := f.batch(0, 60)
	f.batch(1, 5)
	f.insert(0, 6)
	f.exec("UPDATE public.audit_log SET salt = NULL WHERE id < 1099511627776") // as in adopted rows
	f.seal()
	f.insert(0, 2)
	dir := t.TempDir()
	if err := f.log.Keys().Public().Save(filepath.Join(dir, "key.pub")); err != nil {
		t.Fatal(err)
	}
	script := exportCommands(t)
	check := func() (int, string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "sh", "-c", script)
		c.Dir, c.Env = dir, append(os.Environ(), "DATABASE_URL="+f.db.Pool().Config().ConnString())
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		path, err := filepath.Abs(checkerPath)
		if err != nil {
			t.Fatal(err)
		}
		return run(t, dir, "python3", "-B", path, "partition", "audit_log_2024_01", "rows", "log", "sets", "checkpoint", "key.pub", "erased")
	}
	if code, out := check(); code != 0 || !strings.HasPrefix(out, "66 rows are what was logged, 2 are not sealed") {
		t.Fatal(code, out)
	}
	p, _, err := f.prove(first + 4)
	if err != nil {
		t.Fatal(err)
	}
	f.checkedByPython(dir, p)
	commit := audit.NewHasher(audit.AuditLog()).CommitOf(joinFields(p.Personal), p.Salt[:])
	f.exec(fmt.Sprintf(`INSERT INTO auditdb.redaction (table_id, id, seq, pers_commit) VALUES (1, %d, 1, '\x%x');
UPDATE public.audit_log SET principal_id = NULL, target_resource_id = NULL, outcome_description = NULL, details = NULL, salt = NULL WHERE id = %d`, first+4, commit, first+4))
	if code, out := check(); code != 0 {
		t.Error("with an erased row:", code, out)
	}
	for what, sql := range map[string]string{
		"changed":    "UPDATE public.audit_log SET action = 'x' WHERE id = %d",
		"other time": "UPDATE public.audit_log SET timestamp = timestamp + interval '1 microsecond' WHERE id = %d",
		"erased":     "UPDATE public.audit_log SET principal_id = NULL, target_resource_id = NULL, outcome_description = NULL, details = NULL, salt = NULL WHERE id = %d",
		"gone":       "DELETE FROM public.audit_log WHERE id = %d",
		"unlogged":   "INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (%d + 1000, '2024-01-05', 'a', 's')",
		"ids":        "UPDATE auditdb.leaf SET ids = ids || '\\x0101' WHERE min_id <= %d",
		"record":     "UPDATE auditdb.log SET record = replace(record, 'rows 60', 'rows 61') WHERE seq > %d - %[1]d",
		"cut":        "DELETE FROM auditdb.log WHERE seq = (SELECT max(seq) FROM auditdb.log) AND %d > 0",
		"checkpoint": "UPDATE auditdb.checkpoint SET note = replace(note, 'test', 'tost') WHERE size <= %d",
	} {
		f.exec("CREATE SCHEMA kept; CREATE TABLE kept.rows AS TABLE public.audit_log; CREATE TABLE kept.log AS TABLE auditdb.log; CREATE TABLE kept.leaf AS TABLE auditdb.leaf; CREATE TABLE kept.checkpoint AS TABLE auditdb.checkpoint")
		f.exec(fmt.Sprintf(sql, first+7))
		if code, out := check(); code != 4 {
			t.Errorf("%s: %d %s", what, code, out)
		}
		f.exec(`DELETE FROM public.audit_log; INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM kept.rows;
DELETE FROM auditdb.leaf; DELETE FROM auditdb.log; INSERT INTO auditdb.log SELECT * FROM kept.log; INSERT INTO auditdb.leaf SELECT * FROM kept.leaf;
DELETE FROM auditdb.checkpoint; INSERT INTO auditdb.checkpoint SELECT * FROM kept.checkpoint; DROP SCHEMA kept CASCADE`)
	}
	if code, out := check(); code != 0 {
		t.Error(code, out)
	}
}

// checkedByPython gives proofs from a database to the independent checker.
func (f *fixture) checkedByPython(dir string, p *EventProof) {
	t, ok := f.t.(*testing.T)
	if !ok {
		f.t.Fatal("not a test")
	}
	t.Helper()
	grown, _, _, err := ProveConsistency(t.Context(), f.db, f.notes()[0], ProveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for kind, text := range map[string][]byte{"event": mustEncode(t, p), "consistency": mustEncode(t, grown)} {
		file := filepath.Join(dir, kind)
		if err := SaveProof(file, text); err != nil {
			t.Fatal(err)
		}
		if code, out := python(t, kind, file, filepath.Join(dir, "key.pub")); code != 0 {
			t.Error(kind, code, out)
		}
	}
}
