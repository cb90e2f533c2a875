package monitor

import "testing"

// An index is advised for what looks for rows, not for what has to read all of them.
func TestStatementAdvice(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"SELECT * FROM t WHERE a = $1":      "reads 1,234,567 blocks for 1 row a call: an index may be missing (auditdb index analyze)",
		"/* app */ update t set a = $1":     "reads 1,234,567 blocks for 1 row a call: an index may be missing (auditdb index analyze)",
		"CREATE INDEX CONCURRENTLY ON t(a)": "", "ANALYZE t": "", "COPY t TO STDOUT": "", "VACUUM t": "",
	} {
		got := Statement{Query: query, Calls: 2, Rows: 2, BlocksRead: 2 * 1234567}.advice()
		if (got == nil) != (want == "") || got != nil && *got != want {
			t.Errorf("%s: %v, want %q", query, got, want)
		}
	}
	if !(Statement{Query: `SELECT count(*) FROM auditdb.log`}).Own() || (Statement{Query: "SELECT 1 FROM public.audit_log"}).Own() {
		t.Error("auditdb's own statements are not told from others")
	}
}
