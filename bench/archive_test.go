//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// archived is what one archive came to.
type archived struct {
	Bytes           int64   `json:"bytes"`
	ReadBackSeconds float64 `json:"read_back_seconds"`
	run             run
}

// archive copies a partition to a folder, in turn with psql and pg_dump; restores it, in turn with a binary COPY; and looks for rows in it.
func (b *bench) archive() []row {
	part := b.archivable()
	var made []archived
	var text, dump, restored, copied []run
	dumped := b.file("part.dump")
	for i := range b.rounds {
		text = append(text, b.measure(b.psqlCmd("archive", `\copy (SELECT * FROM `+part+`) TO '/dev/null'`)))
		dump = append(dump, b.measure(exec.Command(filepath.Join(filepath.Dir(b.psql), "pg_dump"), "-Fc", "-t", part, "-f", dumped, "-d", b.pg.URL("archive"))))
		made = append(made, b.makeArchive(part, fmt.Sprintf("store-%d", i)))
	}
	info, err := os.Stat(dumped)
	if err != nil {
		b.t.Fatal(err)
	}
	binary := b.file("part.binary")
	b.sql("archive", `\copy (SELECT * FROM `+part+`) TO '`+binary+`' BINARY`)
	for i := range b.rounds {
		into := fmt.Sprintf("copy_%d", i)
		b.sql("archive", "CREATE TABLE "+into+" (LIKE "+part+" INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE); CHECKPOINT")
		copied = append(copied, b.measure(b.psqlCmd("archive", `\copy `+into+` FROM '`+binary+`' BINARY`)))
		b.sql("archive", "DROP TABLE "+into+"; CHECKPOINT")
		restored = append(restored, b.measure(b.archiver(fmt.Sprintf("store-%d", b.rounds-1), "retention", "restore", part, "--as", into)))
		b.sql("archive", "DROP TABLE "+into)
	}
	whole, alone := make([]run, len(made)), make([]run, len(made))
	for i, m := range made {
		whole[i], alone[i] = m.run, m.run
		alone[i].wall -= time.Duration(m.ReadBackSeconds * float64(time.Second))
	}
	last := made[len(made)-1]
	rows := []row{
		{
			name: "archive / pg_dump -Fc: size", figure: megabytes(last.Bytes), baseline: megabytes(info.Size()),
			ratio: fmt.Sprintf("%.2fx", float64(last.Bytes)/float64(info.Size())), bar: "≤ 0.70x",
		},
		b.rate(`archive, read back / psql \copy`, whole, text, "≥ 0.45x", "≤ 128 MB"),
		b.rate(`archive, writing alone / psql \copy`, alone, text, "≥ 0.65x", "≤ 128 MB"),
		b.rate("archive, read back / pg_dump -Fc", whole, dump, "≥ 1.8x", "≤ 128 MB"),
		b.rate("archive, writing alone / pg_dump -Fc", alone, dump, "≥ 1.8x", "≤ 128 MB"),
		b.rate(`restore / psql \copy of binary`, restored, copied, "", "≤ 128 MB"),
	}
	return append(rows, b.searches(part, last)...)
}

// archivable makes a database with all events in one sealed partition.
func (b *bench) archivable() (partition string) {
	b.loaded()
	b.fresh("archive", "template_audit")
	b.must(b.cmd("archive", "partition", "create", "--interval", "yearly", "--from", "2024-01-01", "--to", "2025-01-01"))
	b.must(b.cmd("archive", "ingest", b.file("events.ndjson")))
	b.sql("archive", "VACUUM (FREEZE, ANALYZE)")
	return "audit_log_2024"
}

func (b *bench) archiver(store string, args ...string) *exec.Cmd {
	c := b.cmd("archive", args...)
	c.Env = append(c.Env, "AUDITDB_ARCHIVE_URL="+b.file(store))
	return c
}

func (b *bench) makeArchive(part, store string) archived {
	out := b.file(store + ".json")
	c := b.archiver(store, "retention", "archive", "create", part, "-o", "json")
	kept := exec.Command("sh", append([]string{"-c", `exec "$0" "$@" >` + out}, c.Args...)...)
	kept.Env = c.Env
	m := archived{run: b.measure(kept)}
	text, err := os.ReadFile(out)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		b.t.Fatal(err)
	}
	return m
}

// searches looks for a principal who is not there, and for one with about 30 rows.
func (b *bench) searches(part string, made archived) []row {
	few := b.ask("archive", "SELECT principal_id FROM "+part+" WHERE principal_id IS NOT NULL GROUP BY 1 ORDER BY abs(count(*) - 30), 1 LIMIT 1")
	n := b.ask("archive", "SELECT count(*) FROM "+part+" WHERE principal_id = '"+few+"'")
	store := fmt.Sprintf("store-%d", b.rounds-1)
	search := func(name, principal, want, bar string) row {
		args := []string{"retention", "archive", "search", "--all", "--principal", principal, "--limit", "10000"}
		var runs []run
		for range b.rounds {
			runs = append(runs, b.measure(b.archiver(store, args...)))
		}
		out, err := b.archiver(store, append(args, "-o", "json")...).Output()
		if err != nil {
			b.t.Fatal(err)
		}
		var doc struct {
			Rows     []json.RawMessage
			Archives []struct {
				BytesRead int64 `json:"bytes_read"`
				Requests  int
			}
		}
		if err := json.Unmarshal(out, &doc); err != nil {
			b.t.Fatal(err)
		}
		if got := fmt.Sprint(len(doc.Rows)); got != want {
			b.t.Fatalf("%s rows of %s, want %s", got, principal, want)
		}
		read := doc.Archives[0]
		return row{
			name: name, figure: fmt.Sprintf("%.0f kB in %d reads, %.0f ms, %.0f MB", float64(read.BytesRead)/1000, read.Requests, 1000*median(runs, wallSeconds), median(runs, peakMB)),
			baseline: megabytes(made.Bytes), ratio: fmt.Sprintf("%.2f %%", 100*float64(read.BytesRead)/float64(made.Bytes)), bar: bar,
		}
	}
	return []row{
		search("search for an absent principal: bytes", "nobody", "0", "≤ 1 %"),
		search("search for a principal of "+n+" rows: bytes", few, n, "≤ 5 %"),
	}
}
