package health

import "slices"

// Connection is the check that says when the server is down.
const Connection = "connection"

// Groups of checks.
const (
	connectivity = "connectivity"
	capacity     = "capacity"
	transactions = "transactions"
	locks        = "locks"
	wraparound   = "wraparound"
	replication  = "replication"
	archiving    = "archiving"
	vacuum       = "vacuum"
	storage      = "storage"
	settings     = "settings"
	security     = "security"
	partitioning = "partitions"
	retaining    = "retention"
	evidence     = "integrity"
	redisGroup   = "redis"
	jobs         = "jobs"
)

// Units of values.
const (
	inMillis   = "ms"
	inSeconds  = "s"
	inPercent  = "%"
	inBytes    = "bytes"
	inXIDs     = "transactions"
	inCount    = "count"
	inRatio    = "ratio"
	inRecords  = "records"
	perMinute  = "per minute"
	bytesHour  = "bytes per hour"
	inPeriods  = "intervals"
	inDays     = "days"
	minute     = 60
	hour       = 60 * minute
	day        = 24 * hour
	megabyte   = 1 << 20
	gigabyte   = 1 << 30
	anyAtAll   = 1
	neverReach = -1
)

// checks are all that there are, in the order of their groups.
func checks() []check {
	return slices.Concat(serverChecks(), maintenanceChecks(), ownChecks(), redisChecks())
}

// standard is a check of the default run; limits below 0 are none.
func standard(name, group, unit string, warning, critical float64, look lookFunc) check {
	c := check{name: name, group: group, unit: unit, look: look}
	if warning != neverReach {
		c.warning = &warning
	}
	if critical != neverReach {
		c.critical = &critical
	}
	return c
}

// deeper makes it one of --deep.
func (c check) deeper() check {
	c.deep = true
	return c
}

func (c check) primary() check {
	c.on = onPrimary
	return c
}

func (c check) byItself() check {
	c.on = onPool
	return c
}

// lower makes small values the bad ones.
func (c check) lower() check {
	c.below = true
	return c
}

func serverChecks() []check {
	return []check{
		standard(Connection, connectivity, inMillis, 100, 1000, lookConnection),
		standard("clock_skew", connectivity, inSeconds, 1, 5, lookClock),
		standard("server_version", connectivity, "", neverReach, neverReach, lookVersion).deeper(),
		standard("tls", security, "", neverReach, neverReach, lookTLS).deeper(),
		standard("connections", capacity, inPercent, 80, 95, lookConnections),
		standard("lock_table", capacity, inPercent, 50, 80, lookLockTable).deeper(),
		standard("idle_in_transaction", transactions, inSeconds, 5*minute, 30*minute, lookIdle),
		standard("long_transaction", transactions, inSeconds, 10*minute, hour, lookLong),
		standard("xmin_horizon", transactions, inXIDs, 10e6, 100e6, lookXmin),
		standard("prepared_transactions", transactions, inSeconds, 5*minute, hour, lookPrepared),
		standard("blocked_locks", locks, inSeconds, 30, 2*minute, lookBlocked),
		standard("stuck_lock", locks, inSeconds, day, 3*day, lookStuckLock).deeper(),
		standard("xid_age", wraparound, inXIDs, 1.0e9, 1.4e9, lookXIDs),
		standard("multixact_age", wraparound, inXIDs, 1.0e9, 1.4e9, lookMultixacts),
		standard("freeze_lag", wraparound, inPercent, 100, 200, lookFreeze).deeper(),
		standard("replication_lag", replication, inSeconds, 30, 5*minute, lookReplication).primary(),
		standard("replay_delay", replication, inSeconds, 30, 5*minute, lookReplay),
		standard("standbys", replication, inCount, neverReach, neverReach, lookStandbys).primary(),
		standard("slot_inactive", replication, inSeconds, 30*minute, 6*hour, lookInactiveSlots),
		standard("slot_wal", replication, inBytes, gigabyte, 10*gigabyte, lookSlotWAL),
		standard("slot_invalidated", replication, inCount, neverReach, neverReach, lookInvalidSlots),
		standard("archiver", archiving, inSeconds, neverReach, neverReach, lookArchiver),
		standard("archive_backlog", archiving, inCount, 10, 100, lookBacklog).deeper(),
		standard("wal_size", archiving, inRatio, 2, 5, lookWALSize).deeper(),
		standard("forced_checkpoints", archiving, inPercent, 50, neverReach, lookCheckpoints).primary().deeper(),
	}
}

func maintenanceChecks() []check {
	return []check{
		standard("autovacuum", vacuum, inCount, neverReach, neverReach, lookAutovacuum),
		standard("dead_tuples", vacuum, inRatio, 2, 5, lookDead).primary().deeper(),
		standard("insert_vacuum_lag", vacuum, inRatio, 2, 5, lookInserted).primary().deeper(),
		standard("last_vacuum", vacuum, inSeconds, day, 2*day, lookAnalyzed).primary().deeper(),
		standard("sequences", storage, inPercent, 75, 90, lookSequences),
		standard("invalid_indexes", storage, inCount, anyAtAll, neverReach, lookInvalidIndexes),
		standard("unused_indexes", storage, inCount, neverReach, neverReach, lookUnused).deeper(),
		standard("duplicate_indexes", storage, inCount, neverReach, neverReach, lookDuplicates).deeper(),
		standard("disk_forecast", storage, inDays, 30, 7, lookDisk).lower().deeper(),
		standard("partition_size", storage, inBytes, 50*gigabyte, 200*gigabyte, lookPartitionSize).deeper(),
		standard("checksum_failures", storage, inCount, neverReach, anyAtAll, lookChecksumFailures),
		standard("checksums", storage, "", neverReach, neverReach, lookChecksums).deeper(),
		standard("unlogged", storage, inCount, neverReach, anyAtAll, lookUnlogged).deeper(),
		standard("collation", storage, inCount, anyAtAll, neverReach, lookCollation).deeper(),
		standard("cache_hit", storage, inPercent, 98, 90, lookCacheHit).lower().deeper(),
		standard("deadlocks", locks, perMinute, 1, 5, lookDeadlocks).deeper(),
		standard("temp_files", storage, bytesHour, gigabyte, 10*gigabyte, lookTempFiles).deeper(),
		standard("durability", settings, "", neverReach, neverReach, lookDurability),
		standard("pending_restart", settings, inCount, anyAtAll, neverReach, lookPendingRestart).deeper(),
		standard("pg_stat_statements", settings, "", neverReach, neverReach, lookStatements).deeper(),
		standard("disabled_triggers", security, inCount, anyAtAll, neverReach, lookTriggers),
		standard("write_grants", security, inCount, neverReach, anyAtAll, lookGrants).deeper(),
	}
}

func ownChecks() []check {
	return []check{
		standard("partition_coverage", partitioning, inPeriods, neverReach, neverReach, lookCoverage).lower().byItself(),
		standard("partition_gaps", partitioning, inCount, anyAtAll, neverReach, lookGaps).byItself(),
		standard("default_rows", partitioning, inCount, anyAtAll, neverReach, lookDefaultRows).byItself(),
		standard("pending_detach", partitioning, inCount, neverReach, neverReach, lookPending),
		standard("orphan_tables", partitioning, inCount, anyAtAll, neverReach, lookOrphans).byItself().deeper(),
		standard("schema_drift", partitioning, inCount, anyAtAll, neverReach, lookDrift).byItself().deeper(),
		standard("retention_overdue", retaining, inPeriods, 1, 3, lookOverdue).byItself(),
		standard("holds", retaining, inCount, anyAtAll, neverReach, lookHolds),
		standard("archive_missing", retaining, inCount, neverReach, anyAtAll, lookUnarchived).byItself().deeper(),
		standard("integrity", evidence, inSeconds, day, 7*day, lookIntegrity),
		standard("anchor_drift", evidence, inRecords, neverReach, neverReach, lookAnchors).byItself().deeper(),
		standard("migrations", settings, inCount, anyAtAll, neverReach, lookMigrations).byItself(),
		standard("jobs", jobs, inRatio, 1.5, 3, lookJobs),
	}
}
