package indexes

import (
	"testing"

	"auditdb/internal/fault"
)

func TestRoom(t *testing.T) {
	t.Parallel()
	a := fresh(t).applier()
	if err := a.Room(t.Context(), 1<<20); err != nil {
		t.Error(err)
	}
	if err := a.Room(t.Context(), 1<<60); fault.ClassOf(err) != fault.Refused {
		t.Error(err)
	}
}
