package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// none makes no rows no error.
func none(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// standbyState is what the primary knows of its standbys.
type standbyState struct {
	streaming, sync int
	lag, behind     float64
	worst           string
	wantsSync       bool
}

func readStandbys(ctx context.Context, p *probe) (s standbyState, err error) {
	if err := p.seesSessions(); err != nil {
		return s, err
	}
	err = p.q.QueryRow(ctx, standbysSQL).Scan(&s.streaming, &s.sync, &s.lag, &s.behind, &s.worst, &s.wantsSync)
	return s, err
}

// Standbys that are this far behind are an alarm also where the lag in time is not known.
const (
	behindWarning  = 256 * megabyte
	behindCritical = 2 * gigabyte
)

func lookReplication(ctx context.Context, p *probe, _ *check) (finding, error) {
	s, err := readStandbys(ctx, p)
	if err != nil {
		return finding{}, err
	}
	if s.streaming == 0 {
		return skip("no standby is attached"), nil
	}
	f := measured(s.lag, "auditdb monitor replicas shows sent, flushed and replayed positions", "%s, the one furthest behind (%s) by %s and %s", plural(s.streaming, "standby"), s.worst, seconds(s.lag), size(s.behind))
	return f.behind(s.behind), nil
}

// behind judges how much is missing, where the time is not known or says little.
func (f finding) behind(bytes float64) finding {
	switch {
	case bytes >= behindCritical:
		return f.as(Critical)
	case bytes >= behindWarning:
		return f.as(Warning)
	}
	return f
}

func lookReplay(ctx context.Context, p *probe, _ *check) (finding, error) {
	if !p.server.standby {
		return skip("the server is a primary"), nil
	}
	var delay, behind float64
	var paused bool
	var streaming int
	if err := p.q.QueryRow(ctx, replaySQL).Scan(&delay, &behind, &paused, &streaming); err != nil {
		return finding{}, err
	}
	f := measured(delay, "look at the standby's disk, and at long queries on it", "what is replayed is %s and %s old", seconds(delay), size(behind)).behind(behind)
	switch {
	case paused:
		f.message, f.hint = "replay is paused, "+seconds(delay)+" and "+size(behind)+" behind", "SELECT pg_wal_replay_resume()"
		f = f.as(atLeast(Warning, f.status))
	case streaming == 0 && p.server.stat:
		f.message += ", and nothing is received: no WAL receiver is streaming"
		f.hint = "look at primary_conninfo and at the log of the standby"
		f = f.as(atLeast(Warning, f.status))
	}
	return f, nil
}

func atLeast(a, b Status) Status {
	if b.rank() > a.rank() {
		return b
	}
	return a
}

func lookStandbys(ctx context.Context, p *probe, _ *check) (finding, error) {
	s, err := readStandbys(ctx, p)
	if err != nil {
		return finding{}, err
	}
	if p.o.Replicas == 0 && !s.wantsSync {
		return skip("no replica is configured, and synchronous_standby_names is empty"), nil
	}
	f := measured(float64(s.streaming), "start the missing standby; auditdb monitor replicas shows those that are attached", "%d attached, %s configured", s.streaming, plural(p.o.Replicas, "replica"))
	switch {
	case s.wantsSync && s.sync == 0:
		f.message += "; none is synchronous although synchronous_standby_names is set: commits wait for it"
		return f.as(Critical), nil
	case s.streaming < p.o.Replicas:
		return f.as(Critical), nil
	}
	return f, nil
}

// slot is one replication slot.
type slot struct {
	name         string
	active       bool
	retained     float64
	status       string
	safe, idle   *float64
	reason       string
	keep, maxWAL float64
}

func readSlots(ctx context.Context, p *probe) ([]slot, error) {
	idle, why := idleNever, reasonNone
	switch {
	case p.server.version >= 170000:
		idle, why = idleSince, reason
	case p.server.version >= 160000:
		why = reason16
	}
	rows, err := p.q.Query(ctx, fmt.Sprintf(slotsSQL, idle, why))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s slot, err error) {
		err = row.Scan(&s.name, &s.active, &s.retained, &s.status, &s.safe, &s.idle, &s.reason, &s.keep, &s.maxWAL)
		return s, err
	})
}

const dropSlot = "start its consumer, or SELECT pg_drop_replication_slot('%s')"

func lookInactiveSlots(ctx context.Context, p *probe, _ *check) (finding, error) {
	all, err := readSlots(ctx, p)
	if err != nil {
		return finding{}, err
	}
	var worst *slot
	count := 0
	for i, s := range all {
		if s.active {
			continue
		}
		count++
		if worst == nil || s.idle != nil && worst.idle != nil && *s.idle > *worst.idle {
			worst = &all[i]
		}
	}
	switch {
	case len(all) == 0:
		return skip("there is no replication slot"), nil
	case worst == nil:
		return measured(0, "", "%s, all with a consumer", plural(len(all), "slot")), nil
	case worst.idle == nil: // since when is known from 17 on
		f := finding{status: Warning, message: fmt.Sprintf("%s without a consumer, %s holds back %s of WAL", plural(count, "slot"), worst.name, size(worst.retained)), hint: fmt.Sprintf(dropSlot, worst.name)}
		return f, nil
	}
	return measured(*worst.idle, fmt.Sprintf(dropSlot, worst.name), "%s without a consumer, %s for %s; it holds back %s of WAL", plural(count, "slot"), worst.name, seconds(*worst.idle), size(worst.retained)), nil
}

// lookSlotWAL scales its limits with max_wal_size: a server that writes much holds much back in a short time.
func lookSlotWAL(ctx context.Context, p *probe, c *check) (finding, error) {
	all, err := readSlots(ctx, p)
	if err != nil || len(all) == 0 {
		return skip("there is no replication slot"), err
	}
	worst := all[0]
	limits := *c
	if c.warning != nil && *c.warning == gigabyte {
		limits.warning = pointer(max(gigabyte, worst.maxWAL))
	}
	if c.critical != nil && *c.critical == 10*gigabyte {
		limits.critical = pointer(max(10*gigabyte, 4*worst.maxWAL))
	}
	f := measured(worst.retained, fmt.Sprintf(dropSlot, worst.name)+"; max_slot_wal_keep_size bounds what slots may hold back", "slot %s holds back %s of WAL", worst.name, size(worst.retained))
	f.status = limits.judge(worst.retained)
	*c = limits
	for _, s := range all {
		if s.safe != nil && s.keep > 0 && *s.safe < 0.25*s.keep {
			f.message = fmt.Sprintf("slot %s loses its WAL after another %s", s.name, size(*s.safe))
			return f.as(Critical), nil
		}
	}
	return f, nil
}

func lookInvalidSlots(ctx context.Context, p *probe, _ *check) (finding, error) {
	all, err := readSlots(ctx, p)
	if err != nil || len(all) == 0 {
		return skip("there is no replication slot"), err
	}
	f := measured(0, "its consumer has to be set up again: drop the slot and make a new one", "%s, all with their WAL", plural(len(all), "slot"))
	for _, s := range all {
		switch {
		case s.status == "lost" || s.reason != "":
			f.message = fmt.Sprintf("slot %s is invalid: %s", s.name, cmp.Or(s.reason, "the WAL that it needs is gone"))
			f.value = pointer(1)
			return f.as(Critical), nil
		case s.status == "unreserved":
			f.message = fmt.Sprintf("slot %s needs WAL that the next checkpoint may remove", s.name)
			f.hint = "start its consumer now, or raise max_slot_wal_keep_size"
			f.value = pointer(1)
			f = f.as(Warning)
		}
	}
	return f, nil
}

// archiverLate is how long archiving may fail before it is critical.
const archiverLate = 15 * minute

func lookArchiver(ctx context.Context, p *probe, _ *check) (finding, error) {
	var mode, wal string
	var failing, never bool
	var since float64
	var failed int64
	if err := p.q.QueryRow(ctx, archiverSQL).Scan(&mode, &failing, &since, &failed, &wal, &never); err != nil {
		return finding{}, err
	}
	switch {
	case mode == "off" || mode == "on" && p.server.standby:
		return skip("this server archives no WAL"), nil
	case !failing && never:
		return measured(0, "", "no WAL has been archived yet, and nothing failed"), nil
	case !failing:
		return measured(since, "", "WAL was last archived %s ago", seconds(since)), nil
	}
	f := measured(since, "look at the server's log for what archive_command or archive_library says; its disk fills with WAL until then",
		"archiving fails, at %s, %s in all; nothing was archived for %s", wal, plural(failed, "failure"), seconds(since))
	if since > archiverLate {
		return f.as(Critical), nil
	}
	return f.as(Warning), nil
}

func lookBacklog(ctx context.Context, p *probe, _ *check) (finding, error) {
	var waiting int
	if err := p.q.QueryRow(ctx, backlogSQL).Scan(&waiting); err != nil {
		return finding{}, err
	}
	return measured(float64(waiting), "auditdb health --only archiver says whether archiving fails", "%s of WAL to be archived", plural(waiting, "file")), nil
}

func lookWALSize(ctx context.Context, p *probe, _ *check) (finding, error) {
	var used, most float64
	if err := p.q.QueryRow(ctx, walSizeSQL).Scan(&used, &most); err != nil {
		return finding{}, err
	}
	return measured(round(used/most), "auditdb health --only archiving,replication shows what holds WAL back", "WAL takes %s; max_wal_size is %s", size(used), size(most)), nil
}
