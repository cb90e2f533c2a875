//go:build soak

package cache_test

import (
	"testing"

	"auditdb/internal/pgtest"
)

func TestSoakFailoverUnderSentinels(t *testing.T) {
	address, primary := pgtest.RedisSentinels(t)
	m := startModel(t, address)
	m.recovers(t)
	stop(t, primary)
	m.goesOn(t)
	m.recovers(t)
	if err := primary.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.goesOn(t)
	m.recovers(t)
}

func TestSoakClusterLosesNode(t *testing.T) {
	address, primaries := pgtest.RedisCluster(t)
	m := startModel(t, address)
	m.recovers(t)
	stop(t, primaries[0])
	m.goesOn(t)
	m.recovers(t)
	eventually(t, "a replica has taken over", func() bool { return m.caches[0].Stats(t.Context()).L2.Status == "ok" })
	s := m.caches[0].Stats(t.Context())
	if *s.L2.Keys == 0 || len(s.Biggest) == 0 {
		t.Errorf("%+v", s.L2)
	}
	m.recovers(t)
	if err := primaries[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.goesOn(t)
	m.recovers(t)
}
