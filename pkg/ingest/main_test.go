package ingest_test

import (
	"os"
	"testing"

	"auditdb/internal/pgtest"
)

// childEnv makes the test binary run one ingest and nothing else, to be killed by the test that started it.
const childEnv = "AUDITDB_TEST_INGEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	pgtest.Main(m)
}
