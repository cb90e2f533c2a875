package health

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
)

func round(v float64) float64 { return math.Round(v*100) / 100 }

// saturated is how long all workers of autovacuum may be busy with one table each.
const saturated = 30 * minute

func lookAutovacuum(ctx context.Context, p *probe, _ *check) (finding, error) {
	var on, counts bool
	var most, busy int
	var shortest float64
	if err := p.q.QueryRow(ctx, autovacuumSQL).Scan(&on, &counts, &most, &busy, &shortest); err != nil {
		return finding{}, err
	}
	f := measured(float64(busy), "raise autovacuum_max_workers and autovacuum_vacuum_cost_limit", "%d of %s busy", busy, plural(most, "worker"))
	switch {
	case !on || !counts:
		off := "autovacuum"
		if on {
			off = "track_counts"
		}
		return finding{status: Critical, value: f.value, message: off + " is off: tables are neither vacuumed nor analyzed", hint: "ALTER SYSTEM SET " + off + " = on, then SELECT pg_reload_conf()"}, nil
	case busy >= most && shortest > saturated:
		f.message += ", each for more than " + seconds(saturated)
		return f.as(Warning), nil
	}
	return f, nil
}

// lookWorst asks for the worst table by some ratio.
func lookWorst(ctx context.Context, p *probe, sql, fine, hint, what string) (finding, error) {
	var ratio *float64
	var table *string
	var n int64
	if err := none(p.q.QueryRow(ctx, sql).Scan(&ratio, &table, &n)); err != nil || ratio == nil {
		return measured(0, "", "%s", fine), err
	}
	return measured(round(*ratio), fmt.Sprintf(hint, *table), what, *table, n, *ratio), nil
}

func lookDead(ctx context.Context, p *probe, _ *check) (finding, error) {
	return lookWorst(ctx, p, deadSQL, "no table has many dead rows", "VACUUM %s, and look whether autovacuum comes to it", "%s has %d dead rows, %.1f times what autovacuum begins at")
}

func lookInserted(ctx context.Context, p *probe, _ *check) (finding, error) {
	return lookWorst(ctx, p, insertedSQL, "no table waits for its pages to be marked visible", "VACUUM %s, and look whether autovacuum comes to it",
		"%s got %d rows since its last vacuum, %.1f times what autovacuum begins at")
}

func lookAnalyzed(ctx context.Context, p *probe, _ *check) (finding, error) {
	var age *float64
	var table *string
	var changed int64
	if err := none(p.q.QueryRow(ctx, analyzedSQL).Scan(&age, &table, &changed)); err != nil || age == nil {
		return measured(0, "", "statistics of all tables are recent"), err
	}
	return measured(*age, "ANALYZE "+*table, "%s was last analyzed %s ago, and %d rows changed since", *table, seconds(*age), changed), nil
}

func lookSequences(ctx context.Context, p *probe, _ *check) (finding, error) {
	var all, hidden int
	if err := p.q.QueryRow(ctx, sequenceCountSQL).Scan(&all, &hidden); err != nil {
		return finding{}, err
	}
	unseen := ""
	if hidden > 0 {
		unseen = fmt.Sprintf(" (%d of %d may not be read)", hidden, all)
	}
	var used *float64
	var name string
	var left int64
	if err := none(p.q.QueryRow(ctx, sequencesSQL).Scan(&used, &name, &left)); err != nil || used == nil {
		return measured(0, "", "no sequence has been used yet%s", unseen), err
	}
	return measured(round(*used), "make the column bigint, or the sequence longer, before it ends", "%s is the fullest: %.1f%% are used, %s are left%s", name, *used, humanize.Comma(left), unseen), nil
}

func lookInvalidIndexes(ctx context.Context, p *probe, _ *check) (finding, error) {
	var count, unique, partitioned int
	var example string
	if err := p.q.QueryRow(ctx, invalidSQL).Scan(&count, &unique, &example, &partitioned); err != nil {
		return finding{}, err
	}
	if count == 0 {
		return measured(0, "", "all indexes are valid"), nil
	}
	f := measured(float64(count), "auditdb index hygiene says what to do about them, index apply does it", "%s, among them %s: they cost writes and serve no query", plural(count, "invalid index"), example)
	if partitioned > 0 {
		f.message += fmt.Sprintf("; of %d of them only the partitioned parent, because partitions lack theirs", partitioned)
	}
	if unique > 0 {
		f.message += fmt.Sprintf("; %d should keep rows unique", unique)
		return f.as(Critical), nil
	}
	return f, nil
}

const freshStatistics = 30 * day

func lookUnused(ctx context.Context, p *probe, _ *check) (finding, error) {
	var count int
	var bytes, age float64
	if err := p.q.QueryRow(ctx, unusedSQL).Scan(&count, &bytes, &age); err != nil {
		return finding{}, err
	}
	if age < freshStatistics {
		return skip("scans have been counted for %s only, and 30 days are needed", seconds(age)), nil
	}
	return measured(float64(count), "", "%s of more than 10 MB without a scan on this server, %s in all; auditdb index hygiene asks the replicas as well", plural(count, "index"), size(bytes)), nil
}

func lookDuplicates(ctx context.Context, p *probe, _ *check) (finding, error) {
	var count int
	var example string
	if err := p.q.QueryRow(ctx, duplicateSQL).Scan(&count, &example); err != nil {
		return finding{}, err
	}
	return measured(float64(count), "", "%s that another one does the work of; auditdb index hygiene lists them", plural(count, "index")), nil
}

// lookDisk says how many days the disk lasts: by the growth that samples show, and what is free where the server's disk can be seen from here.
func lookDisk(ctx context.Context, p *probe, c *check) (finding, error) {
	var directory *string
	var bytes float64
	if err := p.q.QueryRow(ctx, diskSQL).Scan(&directory, &bytes); err != nil {
		return finding{}, err
	}
	p.samples.add(c.name, "", bytes)
	free, total, seen := 0.0, 0.0, false
	if p.server.local && directory != nil && filepath.IsAbs(*directory) {
		free, total, seen = diskRoom(*directory)
	}
	if !seen {
		f := skip("the databases take %s; the server's disk cannot be seen from here", size(bytes))
		f.hint = "call health on the server's own host, as a role with pg_monitor"
		return f, nil
	}
	used := percent(total-free, total)
	f := finding{message: fmt.Sprintf("the databases take %s, the disk is %.0f%% full with %s free", size(bytes), used, size(free)), hint: "auditdb retention plan shows what could go; add room"}
	if used >= 95 {
		f.status = Critical
	} else if used >= 85 {
		f.status = Warning
	}
	if !p.server.schema || !p.server.own {
		return f, nil
	}
	var slope, over float64
	var n int
	if err := p.q.QueryRow(ctx, growthSQL, p.o.Now().AddDate(0, 0, -30)).Scan(&slope, &n, &over); err != nil {
		return finding{}, err
	}
	if n < 3 || over < day || slope <= 0 {
		return f, nil
	}
	days := free / slope / day
	f.value = pointer(math.Round(days))
	f.message += fmt.Sprintf("; at %s a day it lasts for %.0f days", size(slope*day), days)
	return f, nil
}

func lookPartitionSize(ctx context.Context, p *probe, _ *check) (finding, error) {
	var bytes *float64
	var name string
	if err := none(p.q.QueryRow(ctx, partitionSizeSQL).Scan(&bytes, &name)); err != nil || bytes == nil {
		return skip("there are no partitions"), err
	}
	return measured(*bytes, "choose a finer interval for new partitions, or auditdb partition split", "the largest partition, %s, takes %s", name, size(*bytes)), nil
}

func lookChecksumFailures(ctx context.Context, p *probe, _ *check) (finding, error) {
	var on bool
	var failures int64
	var last, where string
	if err := p.q.QueryRow(ctx, checksumSQL).Scan(&on, &failures, &last, &where); err != nil {
		return finding{}, err
	}
	if !on {
		return skip("data checksums are off"), nil
	}
	return measured(float64(failures), "the disk has changed data: stop writing, take a copy, look at the server's log for the blocks, restore from a backup",
		"%s%s", plural(failures, "checksum failure"), map[bool]string{true: "", false: " in " + where + ", last at " + last}[failures == 0]), nil
}

func lookChecksums(ctx context.Context, p *probe, _ *check) (finding, error) {
	var on bool
	var ignored any
	if err := p.q.QueryRow(ctx, checksumSQL).Scan(&on, &ignored, &ignored, &ignored); err != nil {
		return finding{}, err
	}
	if on {
		return finding{message: "data checksums are on"}, nil
	}
	return finding{status: Warning, message: "data checksums are off: damage by the disk goes unnoticed", hint: "pg_checksums --enable, with the server stopped"}, nil
}

func lookUnlogged(ctx context.Context, p *probe, _ *check) (finding, error) {
	oids, err := p.auditOIDs(ctx)
	if err != nil || len(oids) == 0 {
		return skip("no table is managed"), err
	}
	var count int
	var example string
	if err := p.q.QueryRow(ctx, unloggedSQL, oids).Scan(&count, &example); err != nil {
		return finding{}, err
	}
	return measured(float64(count), "ALTER TABLE … SET LOGGED", "%s of audit tables unlogged%s: a crash empties them, standbys never have them", plural(count, "partition"), suffix(": ", example)), nil
}

func suffix(lead, s string) string {
	if s == "" {
		return ""
	}
	return lead + s
}

func lookCollation(ctx context.Context, p *probe, _ *check) (finding, error) {
	sql := collation14SQL
	if p.server.version >= 150000 {
		sql = collationSQL
	}
	var made, now *string
	var count int
	if err := p.q.QueryRow(ctx, sql).Scan(&made, &now, &count); err != nil {
		return finding{}, err
	}
	if made != nil && now != nil && *made != *now {
		count++
	}
	return measured(float64(count), "REINDEX what sorts by text, then ALTER DATABASE … REFRESH COLLATION VERSION", "%s of another version than indexes were made with", plural(count, "collation")), nil
}

// counters are read for checks that compare with an earlier run.
func (p *probe) counters(ctx context.Context) (deadlocks, temp, hit, read float64, err error) {
	var reset, start string
	err = p.q.QueryRow(ctx, deltaSQL).Scan(&deadlocks, &temp, &hit, &read, &reset, &start)
	return deadlocks, temp, hit, read, err
}

const leastReads = 10_000 // blocks, below which a hit ratio says nothing

func lookCacheHit(ctx context.Context, p *probe, c *check) (finding, error) {
	_, _, hit, read, err := p.counters(ctx)
	if err != nil {
		return finding{}, err
	}
	hits, _, ok, err := p.since(ctx, c.name, "hit", hit)
	if err != nil {
		return finding{}, err
	}
	reads, over, ok2, err := p.since(ctx, c.name, "read", read)
	switch {
	case err != nil:
		return finding{}, err
	case !ok || !ok2:
		return noSample(), nil
	case hits+reads < leastReads:
		return skip("only %.0f blocks were read since the last sample", hits+reads), nil
	}
	return measured(percent(hits, hits+reads), "give shared_buffers more memory, or look for scans: auditdb monitor slow-queries", "%.1f%% of block reads of the last %s were answered by the cache",
		percent(hits, hits+reads), seconds(over)), nil
}

func lookDeadlocks(ctx context.Context, p *probe, c *check) (finding, error) {
	now, _, _, _, err := p.counters(ctx)
	if err != nil {
		return finding{}, err
	}
	grown, over, ok, err := p.since(ctx, c.name, "", now)
	if err != nil || !ok {
		return noSample(), err
	}
	return measured(round(grown/over*minute), "the server's log names the statements; take locks in the same order everywhere", "%.0f deadlocks in the last %s", grown, seconds(over)), nil
}

func lookTempFiles(ctx context.Context, p *probe, c *check) (finding, error) {
	_, now, _, _, err := p.counters(ctx)
	if err != nil {
		return finding{}, err
	}
	grown, over, ok, err := p.since(ctx, c.name, "", now)
	if err != nil || !ok {
		return noSample(), err
	}
	return measured(math.Round(grown/over*hour), "auditdb monitor slow-queries shows what spills; raise work_mem for it", "%s of temporary files in the last %s", size(grown), seconds(over)), nil
}

func lookCheckpoints(ctx context.Context, p *probe, c *check) (finding, error) {
	sql := checkpointsSQL
	if p.server.version >= 170000 {
		sql = checkpoints17SQL
	}
	var timed, requested float64
	if err := p.q.QueryRow(ctx, sql).Scan(&timed, &requested); err != nil {
		return finding{}, err
	}
	t, _, ok, err := p.since(ctx, c.name, "timed", timed)
	if err != nil {
		return finding{}, err
	}
	r, over, ok2, err := p.since(ctx, c.name, "requested", requested)
	switch {
	case err != nil:
		return finding{}, err
	case !ok || !ok2 || t+r == 0:
		return noSample(), nil
	}
	return measured(percent(r, t+r), "raise max_wal_size", "%.0f of %.0f checkpoints of the last %s were forced", r, t+r, seconds(over)), nil
}

func lookDurability(ctx context.Context, p *probe, _ *check) (finding, error) {
	var fsync, images bool
	var commit, who string
	if err := p.q.QueryRow(ctx, durabilitySQL).Scan(&fsync, &images, &commit, &who); err != nil {
		return finding{}, err
	}
	switch {
	case !fsync:
		return finding{status: Critical, message: "fsync is off: a crash of the host destroys the database", hint: "ALTER SYSTEM SET fsync = on, then SELECT pg_reload_conf()"}, nil
	case !images:
		return finding{status: Critical, message: "full_page_writes is off: a crash of the host can destroy pages", hint: "ALTER SYSTEM SET full_page_writes = on, then SELECT pg_reload_conf()"}, nil
	case commit == "off" || who != "":
		return finding{status: Warning, message: "synchronous_commit is off" + suffix(" for ", who) + ": events that were accepted can be lost in a crash", hint: "set synchronous_commit = on"}, nil
	}
	return finding{message: "fsync, full_page_writes and synchronous_commit are on"}, nil
}

func lookPendingRestart(ctx context.Context, p *probe, _ *check) (finding, error) {
	var count int
	var names string
	if err := p.q.QueryRow(ctx, restartSQL).Scan(&count, &names); err != nil {
		return finding{}, err
	}
	f := measured(float64(count), "restart the server, or take the setting back", "%s to be applied by a restart%s", plural(count, "setting"), suffix(": ", names))
	var may bool
	if err := p.q.QueryRow(ctx, mayReadFilesSQL).Scan(&may); err != nil || !may {
		return f, err
	}
	var broken int
	var example string
	if err := p.q.QueryRow(ctx, filesSQL).Scan(&broken, &example); err != nil {
		return finding{}, err
	}
	if broken > 0 {
		f.message, f.hint = plural(broken, "error")+" in the configuration files: "+example, "mend the file, then SELECT pg_reload_conf()"
		f.value = pointer(float64(count + broken))
		f = f.as(Warning)
	}
	return f, nil
}

func lookStatements(ctx context.Context, p *probe, _ *check) (finding, error) {
	var made, loaded bool
	if err := p.q.QueryRow(ctx, statementsSQL).Scan(&made, &loaded); err != nil {
		return finding{}, err
	}
	switch {
	case !loaded && p.server.stat:
		return finding{status: Warning, message: "pg_stat_statements is not loaded: slow statements cannot be found", hint: "add it to shared_preload_libraries, restart, then CREATE EXTENSION pg_stat_statements"}, nil
	case !made:
		return finding{status: Warning, message: "pg_stat_statements is not made in this database", hint: "CREATE EXTENSION pg_stat_statements"}, nil
	}
	return finding{message: "pg_stat_statements is in use"}, nil
}

func lookTriggers(ctx context.Context, p *probe, _ *check) (finding, error) {
	oids, err := p.auditOIDs(ctx)
	if err != nil {
		return finding{}, err
	}
	var count, audit, loose int
	var example, constraint string
	if err := p.q.QueryRow(ctx, triggersSQL, oids).Scan(&count, &example, &audit); err != nil {
		return finding{}, err
	}
	if err := p.q.QueryRow(ctx, constraintsSQL).Scan(&loose, &constraint); err != nil {
		return finding{}, err
	}
	if count+loose == 0 {
		return measured(0, "", "all triggers are enabled, all constraints validated"), nil
	}
	var parts []string
	hint := ""
	if loose > 0 {
		parts, hint = append(parts, plural(loose, "constraint")+" not validated, e.g. "+constraint), "ALTER TABLE … VALIDATE CONSTRAINT …"
	}
	if count > 0 {
		parts, hint = append([]string{plural(count, "trigger") + " disabled, e.g. " + example}, parts...), "ALTER TABLE … ENABLE TRIGGER …; find out who disabled it, and run auditdb verify-integrity"
	}
	f := measured(float64(count+loose), hint, "%s", strings.Join(parts, "; "))
	if audit > 0 {
		f.message += fmt.Sprintf("; %d of them guard audit tables", audit)
		return f.as(Critical), nil
	}
	return f, nil
}

func lookGrants(ctx context.Context, p *probe, _ *check) (finding, error) {
	oids, err := p.auditOIDs(ctx)
	if err != nil || len(oids) == 0 {
		return skip("no table is managed"), err
	}
	var count int
	var example string
	if err := p.q.QueryRow(ctx, grantsSQL, oids).Scan(&count, &example); err != nil {
		return finding{}, err
	}
	return measured(float64(count), "REVOKE UPDATE, DELETE, TRUNCATE", "%s that let other roles change or delete audit rows%s", plural(count, "grant"), suffix(": ", example)), nil
}
