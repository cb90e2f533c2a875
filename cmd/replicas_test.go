package cmd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// query reads from a real replica, goes on without it when it is killed, and monitor replicas says so.
func TestQueryFromReplica(t *testing.T) {
	t.Parallel()
	pg := pgtest.Server(t)
	url := pg.URL("postgres")
	pgtest.Migrate(t, url)
	standby, caughtUp := pgtest.Standby(t, pg)
	p := processes(t, url)
	p.env = append(p.env, "AUDITDB_DATABASE_REPLICAS="+standby.URL("postgres"), "AUDITDB_CACHE_ENABLED=false")
	p.must("partition", "create", "--from", "2024-01", "--to", "2024-03")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	caughtUp()
	fromReplica := 0
	for i := range 5 {
		if _, err := conn.Exec(t.Context(), `INSERT INTO public.audit_log ("timestamp", action, status) VALUES ('2024-02-01Z', 'a', 'b')`); err != nil {
			t.Fatal(err)
		}
		code, text := p.run(t.Context(), "query", "--from", "2024-01", "--to", "2024-03", "--count", "-o", "json")
		if code != 0 || !strings.Contains(text, fmt.Sprintf(`"count": %d`, i+1)) {
			t.Fatalf("exit %d: %s", code, text)
		}
		if strings.Contains(text, `"source": "replica"`) {
			fromReplica++
		}
	}
	if fromReplica == 0 {
		t.Error("the replica was never used")
	}
	if code, text := p.run(t.Context(), "monitor", "replicas", "-o", "json"); code != 0 || !strings.Contains(text, `"usable": true`) || !strings.Contains(text, `"breaker": "closed"`) {
		t.Errorf("exit %d: %s", code, text)
	}
	if err := standby.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, text := p.run(t.Context(), "query", "--from", "2024-01", "--to", "2024-03", "--count", "-o", "json"); code != 0 || !strings.Contains(text, `"count": 5`) || !strings.Contains(text, `"source": "primary"`) {
		t.Errorf("exit %d: %s", code, text)
	}
	if code, text := p.run(t.Context(), "monitor", "replicas", "-o", "json"); code != 0 || !strings.Contains(text, `"usable": false`) {
		t.Errorf("exit %d: %s", code, text)
	}
}
