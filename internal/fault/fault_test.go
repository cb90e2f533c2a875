package fault

import (
	"errors"
	"fmt"
	"testing"
)

func TestClassAndHint(t *testing.T) {
	t.Parallel()
	inner := New(Locked, "wait for pid 7", "lock x")
	tests := []struct {
		err   error
		class Class
		hint  string
	}{
		{nil, "", ""},
		{errors.New("plain"), "", ""},
		{inner, Locked, "wait for pid 7"},
		{fmt.Errorf("create: %w", inner), Locked, "wait for pid 7"},
		{New(Refused, "", "create: %w", inner), Refused, "wait for pid 7"},
		{New(Refused, "own", "create: %w", inner), Refused, "own"},
		{errors.Join(errors.New("a"), inner), Locked, "wait for pid 7"},
	}
	for _, test := range tests {
		if c, h := ClassOf(test.err), HintOf(test.err); c != test.class || h != test.hint {
			t.Errorf("%v: %s, %q", test.err, c, h)
		}
	}
	if err := New(Data, "", "read %s: %w", "f", inner); err.Error() != "read f: lock x" || !errors.Is(err, inner) {
		t.Errorf("%v", err)
	}
}
