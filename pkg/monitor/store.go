package monitor

// Every statement only reads catalogs and statistics. Names are qualified by the empty search_path of auditdb's sessions.
const (
	// A prepared transaction blocks as pid 0. Queued sessions that wait for the same lock block each other as well.
	locksSQL = `
WITH waiting AS (SELECT a.pid, pg_blocking_pids(a.pid) AS by FROM pg_stat_activity a WHERE a.wait_event_type = 'Lock'),
  involved AS (SELECT pid FROM waiting UNION SELECT unnest(by) FROM waiting)
SELECT i.pid, coalesce(w.by, '{}'), coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(a.datname, ''), coalesce(host(a.client_addr), ''),
  coalesce(a.backend_type, ''), coalesce(a.state, ''), extract(epoch FROM clock_timestamp() - l.waitstart)::float8, extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
  coalesce(l.mode, ''), coalesce(CASE WHEN l.locktype <> 'relation' THEN l.locktype WHEN l.database IN (0, d.oid) THEN l.relation::regclass::text ELSE 'relation ' || l.relation END, ''),
  coalesce(a.query, '')
FROM involved i LEFT JOIN waiting w USING (pid) LEFT JOIN pg_stat_activity a ON a.pid = i.pid AND i.pid <> 0
  LEFT JOIN LATERAL (SELECT * FROM pg_locks k WHERE k.pid = i.pid AND NOT k.granted AND i.pid <> 0 LIMIT 1) l ON true
  JOIN pg_database d ON d.datname = current_database()
ORDER BY a.xact_start NULLS FIRST, i.pid`

	statementsWhereSQL = `SELECT n.nspname, to_regclass(quote_ident(n.nspname) || '.pg_stat_statements_info') IS NOT NULL
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'`
	// Arguments of fmt: the view, or periodSQL, and the order.
	statementsSQL = `
SELECT s.queryid, s.calls, s.total_exec_time / 1000, s.mean_exec_time / 1000, %[3]s, s.rows, s.shared_blks_hit, s.shared_blks_read,
  s.temp_blks_written, s.wal_bytes::bigint, coalesce(pg_get_userbyid(s.userid), ''), s.query, %[4]s
FROM %[1]s s WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.calls >= $1 AND s.mean_exec_time >= $2 * 1000
  AND s.query <> '<insufficient privilege>' ORDER BY %[2]s DESC, s.queryid LIMIT $3`
	statementsHiddenSQL = `SELECT count(*) FROM %s s WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.query = '<insufficient privilege>'`
	statementsSinceSQL  = `SELECT stats_reset FROM %s`

	// Samples of statements: each figure of each statement is a row.
	keepStatementsSQL = `
INSERT INTO auditdb.health_sample (check_name, object, taken_at, value)
SELECT v.name, s.key, $1, v.value
FROM (SELECT %[2]s AS key, s.* FROM %[1]s s WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.queryid IS NOT NULL ORDER BY s.total_exec_time DESC LIMIT $3) s,
  LATERAL (VALUES ('statement:calls', s.calls::float8), ('statement:ms', s.total_exec_time), ('statement:rows', s.rows), ('statement:hit', s.shared_blks_hit),
    ('statement:read', s.shared_blks_read), ('statement:temp', s.temp_blks_written), ('statement:wal', s.wal_bytes::float8)) v (name, value)
WHERE NOT EXISTS (SELECT FROM auditdb.health_sample h WHERE h.check_name = 'statement:calls' AND h.taken_at > $2)
ON CONFLICT DO NOTHING`
	forgetStatementsSQL = `DELETE FROM auditdb.health_sample WHERE check_name IN ('statement:calls', 'statement:ms', 'statement:rows', 'statement:hit', 'statement:read', 'statement:temp', 'statement:wal') AND taken_at < $1`
	statementSampleSQL  = `
SELECT coalesce(max(taken_at) FILTER (WHERE taken_at <= $1), min(taken_at)), pg_is_in_recovery() FROM auditdb.health_sample WHERE check_name = 'statement:calls'`
	// A statement whose counters are less than they were had been dropped from the view since. Where the sample has fewer statements than it may have, what is not in it is
	// new. After a reset there is no sample of that time.
	periodSQL = `(
WITH before AS (SELECT h.object, max(h.value) FILTER (WHERE h.check_name = 'statement:calls') AS calls, max(h.value) FILTER (WHERE h.check_name = 'statement:ms') AS ms,
    max(h.value) FILTER (WHERE h.check_name = 'statement:rows') AS rows, max(h.value) FILTER (WHERE h.check_name = 'statement:hit') AS hit, max(h.value) FILTER (WHERE h.check_name = 'statement:read') AS read,
    max(h.value) FILTER (WHERE h.check_name = 'statement:temp') AS temp, max(h.value) FILTER (WHERE h.check_name = 'statement:wal') AS wal
  FROM auditdb.health_sample h WHERE h.check_name LIKE 'statement:%%' AND h.taken_at = $4 GROUP BY h.object)
SELECT s.dbid, s.userid, s.queryid, s.query, d.*, d.total_exec_time / nullif(d.calls, 0) AS mean_exec_time, b.object IS NULL AND (SELECT count(*) FROM before) >= $5 AS unrecorded
FROM %[1]s s LEFT JOIN before b ON b.object = %[2]s AND b.calls <= s.calls AND b.ms <= s.total_exec_time,
  LATERAL (SELECT s.calls - coalesce(b.calls, 0)::bigint AS calls, s.total_exec_time - coalesce(b.ms, 0) AS total_exec_time, s.rows - coalesce(b.rows, 0)::bigint AS rows,
    s.shared_blks_hit - coalesce(b.hit, 0)::bigint AS shared_blks_hit, s.shared_blks_read - coalesce(b.read, 0)::bigint AS shared_blks_read,
    s.temp_blks_written - coalesce(b.temp, 0)::bigint AS temp_blks_written, s.wal_bytes - coalesce(b.wal, 0)::bigint AS wal_bytes) d
WHERE d.calls > 0)`

	roleSQL     = `SELECT pg_is_in_recovery()`
	standbysSQL = `
SELECT coalesce(application_name, ''), coalesce(host(client_addr), 'local'), coalesce(state, ''), coalesce(sync_state, ''), pg_wal_lsn_diff(pg_current_wal_lsn(), sent_lsn)::bigint,
  pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::bigint, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint, extract(epoch FROM replay_lag)::float8
FROM pg_stat_replication ORDER BY 7 DESC NULLS FIRST, 1`
	// An idle primary writes nothing, so the time of the last transaction says nothing where all that was received is replayed.
	receiverSQL = `
SELECT r.status, coalesce(r.sender_host, ''), CASE WHEN pg_last_wal_receive_lsn() IS NULL THEN NULL ELSE pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint END,
  CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::float8, pg_is_wal_replay_paused()
FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver r ON true`
	slotsSQL = `
SELECT slot_name, slot_type, active, CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint END, coalesce(wal_status, '')
FROM pg_replication_slots ORDER BY 4 DESC NULLS LAST, 1`

	// Reserved connections have a setting of their own since 16.
	capacitySQL = `
SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0)`
	connectionsSQL = `
SELECT coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.datname, ''), coalesce(a.state, ''), count(*),
  max(extract(epoch FROM clock_timestamp() - a.xact_start))::float8, max(extract(epoch FROM clock_timestamp() - a.state_change))::float8
FROM pg_stat_activity a WHERE a.backend_type = 'client backend' GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4`

	missingGrantSQL = `SELECT CASE WHEN pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN '' ELSE 'GRANT pg_monitor TO ' || quote_ident(current_user) END`
	activitySQL     = `
SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(a.datname, ''), coalesce(a.state, ''), coalesce(a.wait_event_type || ':' || a.wait_event, ''),
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8, extract(epoch FROM clock_timestamp() - a.query_start)::float8, coalesce(a.query, '')
FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND a.state <> 'idle' AND a.pid <> pg_backend_pid()
ORDER BY a.xact_start NULLS LAST, a.pid LIMIT $1`
	countersSQL = `
SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8, pg_is_in_recovery(), coalesce(sum(d.xact_commit + d.xact_rollback), 0)::bigint,
  coalesce(sum(d.blks_hit), 0)::bigint, coalesce(sum(d.blks_read), 0)::bigint, coalesce(sum(d.tup_inserted), 0)::bigint, clock_timestamp()
FROM pg_stat_database d`

	// A sample that is at least as old as a period is what the newest is compared with.
	recordedSQL = `
WITH s AS (SELECT taken_at, value FROM auditdb.health_sample WHERE check_name = 'disk_forecast' AND object = '' AND taken_at > $1::timestamptz - interval '31 days' AND taken_at <= $1),
  newest AS (SELECT taken_at, value FROM s ORDER BY taken_at DESC LIMIT 1)
SELECT (SELECT count(*) FROM s), (SELECT min(taken_at) FROM s), n.taken_at, n.value::bigint,
  (n.value - (SELECT value FROM s WHERE s.taken_at <= n.taken_at - interval '1 day' ORDER BY s.taken_at DESC LIMIT 1))::bigint,
  (n.value - (SELECT value FROM s WHERE s.taken_at <= n.taken_at - interval '7 days' ORDER BY s.taken_at DESC LIMIT 1))::bigint,
  (n.value - (SELECT value FROM s WHERE s.taken_at <= n.taken_at - interval '30 days' ORDER BY s.taken_at DESC LIMIT 1))::bigint,
  (SELECT CASE WHEN count(*) >= 3 AND max(taken_at) - min(taken_at) >= interval '1 day' THEN regr_slope(value, extract(epoch FROM taken_at)) * 86400 END FROM s)::float8,
  (SELECT greatest(h.value - extract(epoch FROM $1::timestamptz - h.taken_at) / 86400, 0) FROM auditdb.health_sample h WHERE h.check_name = 'value:disk_forecast' AND h.taken_at = n.taken_at)::float8
FROM (SELECT 1) one LEFT JOIN newest n ON true`
)
