package health

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"
)

type lookFunc = func(context.Context, *probe, *check) (finding, error)

func lookConnection(_ context.Context, p *probe, _ *check) (finding, error) {
	s := p.server
	how := "without TLS"
	if s.tls {
		how = "with TLS"
	} else if s.local {
		how = "on this host"
	}
	kind := "PostgreSQL"
	if s.standby {
		kind = "the standby, PostgreSQL"
	}
	ms := float64(s.latency) / float64(time.Millisecond)
	return measured(math.Round(ms*1000)/1000, "look at the load of the server and at the network", "%s %s answers in %.1f ms, %s, as %s", kind, s.versionText, ms, how, s.user), nil
}

// lookClock compares the clocks at the middle of the quickest of three round trips.
func lookClock(_ context.Context, p *probe, c *check) (finding, error) {
	s := p.server
	if c.warning != nil && s.trip.Seconds() > *c.warning {
		return skip("the server answers too slowly (%s) to compare clocks", span(s.trip)), nil
	}
	skew := math.Abs(s.skew.Seconds())
	word := "ahead of"
	if s.skew < 0 {
		word = "behind"
	}
	return measured(math.Round(skew*1000)/1000, "synchronize the clocks of both hosts (chrony, systemd-timesyncd): partitions and retention go by them",
		"the server's clock is %s %s this one's", span(s.skew.Abs()), word), nil
}

// endsOfLife are the community's dates.
func endOfLife(major int) (time.Time, bool) {
	dates := map[int]string{13: "2025-11-13", 14: "2026-11-12", 15: "2027-11-11", 16: "2028-11-09", 17: "2029-11-08", 18: "2030-11-14"}
	at, err := time.Parse(time.DateOnly, dates[major])
	return at, err == nil
}

func lookVersion(_ context.Context, p *probe, _ *check) (finding, error) {
	major := p.server.version / 10000
	end, known := endOfLife(major)
	f := finding{message: fmt.Sprintf("PostgreSQL %s", p.server.versionText), hint: "plan the upgrade to a newer major version: https://www.postgresql.org/support/versioning/"}
	switch {
	case major < 14:
		f.message += " is not supported by auditdb"
		return f.as(Critical), nil
	case known && p.o.Now().After(end):
		f.message += " gets no fixes any more since " + end.Format(time.DateOnly)
		return f.as(Warning), nil
	case known:
		f.message += " gets fixes until " + end.Format(time.DateOnly)
	}
	return f, nil
}

func lookTLS(_ context.Context, p *probe, _ *check) (finding, error) {
	if p.server.tls || p.server.local {
		return finding{message: "the connection is encrypted, or stays on this host"}, nil
	}
	return finding{status: Warning, message: "the connection is plain TCP: rows and the password's proof can be read on the way", hint: "set sslmode=verify-full in the URL"}, nil
}

func lookConnections(ctx context.Context, p *probe, _ *check) (finding, error) {
	if err := p.seesSessions(); err != nil {
		return finding{}, err
	}
	var used, most int
	if err := p.q.QueryRow(ctx, connectionsSQL).Scan(&used, &most); err != nil {
		return finding{}, err
	}
	return measured(percent(float64(used), float64(most)), "auditdb monitor connections shows whose they are; use a pooler, or raise max_connections",
		"%d of %d connections are used", used, most), nil
}

func percent(part, all float64) float64 {
	if all <= 0 {
		return 0
	}
	return math.Round(1000*part/all) / 10
}

func lookLockTable(ctx context.Context, p *probe, _ *check) (finding, error) {
	var used, most float64
	if err := p.q.QueryRow(ctx, lockTableSQL).Scan(&used, &most); err != nil {
		return finding{}, err
	}
	return measured(percent(used, most), "raise max_locks_per_transaction: a statement locks every partition that it cannot prune", "%.0f of about %.0f locks are taken", used, most), nil
}

func lookIdle(ctx context.Context, p *probe, _ *check) (finding, error) {
	if err := p.seesSessions(); err != nil {
		return finding{}, err
	}
	var count, own int
	var oldest float64
	var who string
	if err := p.q.QueryRow(ctx, idleSQL).Scan(&count, &oldest, &own, &who); err != nil {
		return finding{}, err
	}
	if count == 0 {
		return measured(0, "", "no session is idle in a transaction%s", ownSessions(own)), nil
	}
	return measured(oldest, "SELECT pg_terminate_backend("+pidOf(who)+") ends it; set idle_in_transaction_session_timeout",
		"%s idle in transaction, the longest for %s: %s%s", plural(count, "session"), seconds(oldest), who, ownSessions(own)), nil
}

// pidOf is the number in "pid 12 of somebody".
func pidOf(who string) string {
	pid, _, _ := strings.Cut(strings.TrimPrefix(who, "pid "), " ")
	return pid
}

func ownSessions(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s of auditdb not counted)", plural(n, "session"))
}

func lookLong(ctx context.Context, p *probe, _ *check) (finding, error) {
	if err := p.seesSessions(); err != nil {
		return finding{}, err
	}
	var count int
	var oldest float64
	var own, who string
	if err := p.q.QueryRow(ctx, longSQL).Scan(&count, &oldest, &own, &who); err != nil {
		return finding{}, err
	}
	if own != "" {
		own = " (not counted: " + own + ")"
	}
	if count == 0 {
		return measured(0, "", "no transaction is open%s", own), nil
	}
	return measured(oldest, "auditdb monitor top shows what it does; SELECT pg_terminate_backend("+pidOf(who)+") ends it",
		"the oldest of %s is open for %s: %s%s", plural(count, "transaction"), seconds(oldest), who, own), nil
}

func lookXmin(ctx context.Context, p *probe, _ *check) (finding, error) {
	if err := p.seesSessions(); err != nil {
		return finding{}, err
	}
	var age *float64
	var what *string
	err := none(p.q.QueryRow(ctx, xminSQL).Scan(&age, &what))
	if err != nil || age == nil {
		return measured(0, "", "nothing holds old row versions back"), err
	}
	return measured(*age, "end it, or drop the slot: VACUUM cannot remove what it may still see", "%s holds back row versions of the last %.0f transactions", *what, *age), nil
}

func lookPrepared(ctx context.Context, p *probe, _ *check) (finding, error) {
	var count int
	var oldest float64
	var gid string
	if err := p.q.QueryRow(ctx, preparedSQL).Scan(&count, &oldest, &gid); err != nil {
		return finding{}, err
	}
	if count == 0 {
		return measured(0, "", "no transaction is prepared"), nil
	}
	return measured(oldest, fmt.Sprintf("COMMIT PREPARED or ROLLBACK PREPARED '%s', when its coordinator has forgotten it", strings.ReplaceAll(gid, "'", "''")),
		"%s prepared, the oldest for %s: %s", plural(count, "transaction"), seconds(oldest), gid), nil
}

func lookBlocked(ctx context.Context, p *probe, _ *check) (finding, error) {
	var count int
	var longest float64
	var who string
	if err := p.q.QueryRow(ctx, blockedSQL).Scan(&count, &longest, &who); err != nil {
		return finding{}, err
	}
	if count == 0 {
		return measured(0, "", "no session waits for a lock"), nil
	}
	return measured(longest, "auditdb monitor locks shows who blocks whom", "%s for a lock, the longest for %s: %s", waits(count), seconds(longest), who), nil
}

func waits(n int) string {
	if n == 1 {
		return "1 session waits"
	}
	return fmt.Sprintf("%d sessions wait", n)
}

func lookStuckLock(ctx context.Context, p *probe, _ *check) (finding, error) {
	if err := p.seesSessions(); err != nil {
		return finding{}, err
	}
	var count int
	var oldest float64
	var who string
	if err := p.q.QueryRow(ctx, stuckLockSQL).Scan(&count, &oldest, &who); err != nil {
		return finding{}, err
	}
	if count == 0 {
		return measured(0, "", "no run of auditdb holds its lock"), nil
	}
	return measured(oldest, "look whether that run still works; SELECT pg_terminate_backend(PID) ends it, and the next run goes on", "a run of auditdb holds its lock for %s: %s", seconds(oldest), who), nil
}

func lookXIDs(ctx context.Context, p *probe, _ *check) (finding, error) {
	return lookAge(ctx, p, xidSQL, "transaction ids")
}

func lookMultixacts(ctx context.Context, p *probe, _ *check) (finding, error) {
	return lookAge(ctx, p, multixactSQL, "multixact ids")
}

func lookAge(ctx context.Context, p *probe, sql, what string) (finding, error) {
	var age float64
	var database string
	if err := p.q.QueryRow(ctx, sql).Scan(&age, &database); err != nil {
		return finding{}, err
	}
	return measured(age, "VACUUM (FREEZE) the oldest tables of that database, and look for what holds VACUUM back: auditdb health --only transactions,vacuum",
		"the oldest %s are %.1f million old, in database %s; writes stop at 2,147 million", what, age/1e6, database), nil
}

func lookFreeze(ctx context.Context, p *probe, _ *check) (finding, error) {
	var share *float64
	var table string
	if err := none(p.q.QueryRow(ctx, freezeSQL).Scan(&share, &table)); err != nil || share == nil {
		return measured(0, "", "there are no tables"), err
	}
	return measured(math.Round(*share*10)/10, "VACUUM (FREEZE) "+table, "%s is at %.0f%% of autovacuum_freeze_max_age", table, *share), nil
}
