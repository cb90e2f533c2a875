package integrity

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
)

// A byte changed in the table's file, behind the server's back: the row is named, or, where the server keeps checksums, it is said that the
// table could not be read.
func TestBytesFlippedOnDisk(t *testing.T) {
	t.Parallel()
	pg := pgtest.Server(t)
	conn, err := pgx.Connect(t.Context(), pg.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	var checksums string
	if err := conn.QueryRow(t.Context(), "SHOW data_checksums").Scan(&checksums); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE audit"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Migrate(t, pg.URL("audit"))
	f := fixtureAt(t, pg.URL("audit"))
	first := f.batch(0, 60)
	f.clean()
	file := filepath.Join(pg.DataDir(), f.text("SELECT pg_relation_filepath('public.audit_log_2024_01')"))
	f.db.Close()
	flip(t, pg, file, "corr-7")
	f = f.on(pg.URL("audit"))
	if checksums == "on" {
		if r, err := Verify(t.Context(), f.db, VerifyOptions{Keys: f.log.keys, Now: time.Now}); err == nil || r != nil && r.OK {
			t.Fatalf("%+v, %v", r, err)
		}
		return
	}
	r := f.verify()
	if !slices.Equal(r.types(), []string{"row_modified/error"}) || *r.Findings[0].RowID != first+7 {
		t.Error(r.text())
	}
}

// flip changes the last byte of a text in a file of a server, which is stopped meanwhile.
func flip(t *testing.T, pg *embedded.Postgres, file, text string) {
	t.Helper()
	if err := pg.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, append([]byte{byte(len(text)+1)<<1 | 1}, text...)) // a short varlena
	if at < 0 {
		t.Fatal(fmt.Errorf("%s is not in %s", text, file))
	}
	data[at+len(text)] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
