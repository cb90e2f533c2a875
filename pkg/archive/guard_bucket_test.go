package archive

import (
	"context"
	"errors"
	"testing"
)

// What goes to a bucket is staged on this host: that says nothing of the bucket, so the guard does not see it.
func TestGuardOfBucket(t *testing.T) {
	t.Parallel()
	calls, refused := 0, errors.New("refused")
	g := guarded{bucket{}, func(context.Context, func(context.Context) error) error { calls++; return refused }}
	s, err := g.stage(t.Context())
	if err != nil || calls != 0 {
		t.Fatal(calls, err)
	}
	defer s.discard()
	if err := s.commit(t.Context(), "x", false); !errors.Is(err, refused) || calls != 1 {
		t.Error(calls, err)
	}
}
