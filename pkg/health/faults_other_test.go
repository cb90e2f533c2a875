package health

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
)

// place is a world of its own for faults that a shared server cannot have: a primary with a standby, or another server.
type place struct {
	*ward
	standby *embedded.Postgres
	asked   Options
}

// otherFault is made in a place of its own.
type otherFault struct {
	check   string
	status  Status
	message string
	also    []string
	limits  Limits
	place   func(t *testing.T) *place
	make    func(p *place)
}

func (p *place) there(sql string) {
	p.Helper()
	conn, err := pgx.Connect(p.Context(), p.standby.URL("postgres"))
	if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(p.Context())) }()
	if _, err := conn.Exec(p.Context(), sql); err != nil {
		p.Fatal(err)
	}
}

// pair is a primary with a standby, of which the primary is asked, or the standby.
func pair(askStandby bool) func(t *testing.T) *place {
	return func(t *testing.T) *place {
		t.Helper()
		w := newWard(t)
		standby, caughtUp := pgtest.Standby(t, w.pg, func(o *embedded.Options) { o.Settings["wal_receiver_status_interval"] = "1s" })
		caughtUp()
		p := &place{ward: w, standby: standby, asked: w.o}
		p.asked.Replicas = 1
		if askStandby {
			p.asked.Open, p.asked.Replicas = opener(standby.URL("postgres")), 0
		}
		w.until("count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
		return p
	}
}

// single is a server that is set up otherwise; nothing is migrated.
func single(change func(*embedded.Options)) func(t *testing.T) *place {
	return func(t *testing.T) *place {
		t.Helper()
		pg := pgtest.Server(t, func(o *embedded.Options) {
			for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
				o.Settings[name] = "on"
			}
			change(o)
		})
		w := &ward{T: t, pg: pg, url: pg.URL("postgres")}
		return &place{ward: w, asked: Options{Open: opener(w.url), Migrations: pending, Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
	}
}

func otherFaults() []otherFault {
	paused := func(p *place) {
		p.exec("CREATE TABLE before AS SELECT 1 AS a") // from the first transaction on the standby knows how old what it has is
		p.until("coalesce(max(replay_lsn) >= pg_current_wal_lsn(), false) FROM pg_stat_replication")
		p.there("SELECT pg_wal_replay_pause()")
		p.exec("CREATE TABLE behind AS SELECT 1 AS a")
	}
	return []otherFault{
		{check: Connection, status: Critical, message: "connect to", place: single(func(*embedded.Options) {}), make: func(p *place) {
			if err := p.pg.Shutdown(p.Context()); err != nil {
				p.Fatal(err)
			}
		}},
		{check: "replication_lag", status: Warning, message: "1 standby, the one furthest behind", limits: limit(0.5, 3600), place: pair(false), make: func(p *place) {
			paused(p)
			p.until("coalesce(max(replay_lag), '0') > '1s' FROM pg_stat_replication")
		}},
		{check: "standbys", status: Critical, message: "0 attached, 1 replica configured", place: pair(false), make: func(p *place) {
			if err := p.standby.Shutdown(p.Context()); err != nil {
				p.Fatal(err)
			}
			p.until("count(*) = 0 FROM pg_stat_replication")
		}},
		{check: "standbys", status: Critical, message: "none is synchronous", place: pair(false), make: func(p *place) {
			setting("synchronous_standby_names", "'nobody'")(p.ward)
		}},
		{check: "replay_delay", status: Warning, message: "replay is paused", place: pair(true), make: paused},
		{check: "replay_delay", status: Critical, message: "replay is paused", limits: limit(0.1, 0.5), place: pair(true), make: func(p *place) {
			paused(p)
			p.until("coalesce(max(replay_lag), '0') > '1s' FROM pg_stat_replication")
		}},
		// No transaction was replayed since the standby started, so it does not know how old what it has is: the size tells.
		{check: "replay_delay", status: Warning, message: "what is replayed is 0s and 286", place: pair(true), make: func(p *place) {
			p.there("ALTER SYSTEM SET recovery_min_apply_delay = '1d'")
			p.there("SELECT pg_reload_conf()")
			p.exec("CREATE TABLE late AS SELECT 1 AS a", "SELECT pg_logical_emit_message(false, 'x', repeat('x', 100000000)) FROM generate_series(1, 3)")
			p.until("coalesce(max(flush_lsn) >= pg_current_wal_lsn(), false) FROM pg_stat_replication")
		}},
		{check: "replay_delay", status: Warning, message: "no WAL receiver is streaming", place: pair(true), make: func(p *place) {
			if err := p.pg.Shutdown(p.Context()); err != nil {
				p.Fatal(err)
			}
		}},
		{check: "checksum_failures", status: Critical, message: "1 checksum failure in postgres", place: single(func(o *embedded.Options) { o.Initdb = []string{"--data-checksums"} }), make: flipBytes},
		{check: "tls", status: Warning, message: "plain TCP", place: single(func(o *embedded.Options) { o.TCP = true }), make: func(p *place) { p.fromOutside() }},
	}
}

// flipBytes changes a table's file behind the server's back, and reads it.
func flipBytes(p *place) {
	p.exec("CREATE TABLE flipped AS SELECT n FROM generate_series(1, 1000) n", "CHECKPOINT")
	var file string
	if err := p.connect().QueryRow(p.Context(), "SELECT pg_relation_filepath('flipped')").Scan(&file); err != nil {
		p.Fatal(err)
	}
	if err := p.pg.Shutdown(p.Context()); err != nil {
		p.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(p.pg.DataDir(), file), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("the disk has changed this"), 4000)
	}
	if err != nil {
		p.Fatal(err)
	}
	if err := f.Close(); err != nil {
		p.Fatal(err)
	}
	if err := p.pg.Start(p.Context()); err != nil {
		p.Fatal(err)
	}
	if _, err := p.connect().Exec(p.Context(), "SELECT count(*) FROM flipped"); err == nil {
		p.Fatal("the damage was not seen")
	}
	p.until("sum(checksum_failures) > 0 FROM pg_stat_database")
}

// fromOutside asks for the server by an address that is not this host's own loop.
func (p *place) fromOutside() {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		p.Fatal(err)
	}
	at := slices.IndexFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil
	})
	if at < 0 {
		p.Fatal("this host has no address in a network")
	}
	host, _, _ := strings.Cut(addrs[at].String(), "/")
	hba, err := os.OpenFile(filepath.Join(p.pg.DataDir(), "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(hba, "host all all %s/32 scram-sha-256\n", host)
	}
	if err != nil {
		p.Fatal(err)
	}
	_ = hba.Close() // it was written
	if err := p.pg.Configure(map[string]string{"listen_addresses": "127.0.0.1," + host}); err != nil {
		p.Fatal(err)
	}
	if err := p.pg.Restart(p.Context()); err != nil {
		p.Fatal(err)
	}
	p.asked.Open = opener(strings.Replace(p.pg.TCPURL("postgres"), "127.0.0.1", host, 1))
}

// Each fault is made in a place that is well otherwise: that check turns, and no unrelated one.
func TestOtherFaults(t *testing.T) {
	t.Parallel()
	for _, f := range otherFaults() {
		t.Run(f.check+" "+f.message, func(t *testing.T) {
			t.Parallel()
			p := f.place(t)
			p.asked.Limits = map[string]Limits{}
			p.asked.Deep = f.check == "tls"
			before := ill(p.run(p.asked))
			known := lacks(p.pg.Major())
			maps.DeleteFunc(before, func(name string, _ Result) bool { return slices.Contains(known, name) })
			if len(before) > 0 {
				t.Fatalf("a healthy place: %+v", before)
			}
			f.make(p)
			p.asked.Limits[f.check] = f.limits
			report := p.run(p.asked)
			sick := ill(report)
			maps.DeleteFunc(sick, func(name string, _ Result) bool { return name != f.check && slices.Contains(known, name) })
			if c := sick[f.check]; c.Status != f.status || !strings.Contains(c.Message, f.message) || c.Hint == "" || report.Status != f.status && !p.asked.Deep {
				t.Errorf("%s, %+v", report.Status, c)
			}
			for name, c := range sick {
				if name != f.check && !slices.Contains(f.also, name) {
					t.Errorf("an unrelated one turned as well: %+v", c)
				}
			}
		})
	}
}
