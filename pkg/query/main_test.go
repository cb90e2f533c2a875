package query

import (
	"testing"

	"auditdb/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
