package health

// Every statement only reads catalogs and statistics. Names are qualified by the empty search_path of auditdb's sessions. Where servers differ, SQL is
// chosen by server_version_num.
const (
	clockSQL  = `SELECT clock_timestamp()`
	serverSQL = `
SELECT current_setting('server_version_num')::int, split_part(current_setting('server_version'), ' ', 1), quote_ident(current_user), pg_is_in_recovery(),
  pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), s.oid IS NOT NULL, coalesce(has_schema_privilege(s.oid, 'USAGE') AND has_table_privilege(m.oid, 'SELECT'), false),
  coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), inet_server_addr() IS NULL OR inet_server_addr() << '127.0.0.0/8' OR inet_server_addr() = '::1'
FROM (SELECT 1) one LEFT JOIN pg_namespace s ON s.nspname = 'auditdb' LEFT JOIN pg_class m ON m.relnamespace = s.oid AND m.relname = 'managed_table'`

	// Reserved connections have a setting of their own since 16.
	connectionsSQL = `
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - coalesce(current_setting('reserved_connections', true)::int, 0)`
	lockTableSQL = `
SELECT (SELECT count(DISTINCT (locktype, database, relation, page, tuple, virtualxid, transactionid::text, classid, objid, objsubid))
  FROM pg_locks WHERE NOT fastpath AND mode <> 'SIReadLock'), current_setting('max_locks_per_transaction')::float8
  * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)`
	diskSQL   = `SELECT current_setting('data_directory', true), (SELECT sum(pg_database_size(oid)) FROM pg_database WHERE has_database_privilege(oid, 'CONNECT'))::float8`
	growthSQL = `
SELECT coalesce(regr_slope(value, extract(epoch FROM taken_at)), 0)::float8, count(*), coalesce(extract(epoch FROM max(taken_at) - min(taken_at)), 0)::float8
FROM auditdb.health_sample WHERE check_name = 'disk_forecast' AND object = '' AND taken_at > $1`

	// A session of this program is named, and does not raise an alarm: what it holds up is shown by other checks.
	idleSQL = `
SELECT count(*) FILTER (WHERE NOT own), coalesce(max(age) FILTER (WHERE NOT own), 0)::float8, count(*) FILTER (WHERE own),
  coalesce((array_agg(format('pid %s of %s%s', pid, coalesce(usename, '?'), coalesce(' (' || nullif(application_name, '') || ')', '')) ORDER BY age DESC) FILTER (WHERE NOT own))[1], '')
FROM (SELECT pid, usename, application_name, application_name LIKE 'auditdb/%' AS own, extract(epoch FROM clock_timestamp() - state_change) AS age
  FROM pg_stat_activity WHERE backend_type = 'client backend' AND state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()) s`
	longSQL = `
SELECT count(*) FILTER (WHERE NOT own), coalesce(max(age) FILTER (WHERE NOT own), 0)::float8, coalesce(max(application_name || ', pid ' || pid || ', ' || age::int || ' s') FILTER (WHERE own AND age > 60), ''),
  coalesce((array_agg(format('pid %s of %s%s, %s', pid, coalesce(usename, '?'), coalesce(' (' || nullif(application_name, '') || ')', ''), state) ORDER BY age DESC) FILTER (WHERE NOT own))[1], '')
FROM (SELECT pid, usename, application_name, state, application_name LIKE 'auditdb/%' AS own, extract(epoch FROM clock_timestamp() - xact_start) AS age
  FROM pg_stat_activity WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()) s`
	xminSQL = `
SELECT age, what FROM (
  SELECT age(backend_xmin) AS age, format('%s, pid %s of %s', coalesce(backend_type, 'a session'), pid, coalesce(usename, '?')) AS what FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
  UNION ALL SELECT greatest(age(xmin), age(catalog_xmin)), 'replication slot ' || slot_name FROM pg_replication_slots
  UNION ALL SELECT age(transaction), 'prepared transaction ' || gid FROM pg_prepared_xacts) h
WHERE age IS NOT NULL ORDER BY age DESC LIMIT 1`
	preparedSQL = `SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - prepared)), 0)::float8, coalesce(min(gid) FILTER (WHERE prepared = (SELECT min(prepared) FROM pg_prepared_xacts)), '') FROM pg_prepared_xacts`

	blockedSQL = `
SELECT count(*), coalesce(max(waited), 0)::float8, coalesce((array_agg(format('pid %s has waited for pid %s', pid, array_to_string(pg_blocking_pids(pid), ', ')) ORDER BY waited DESC))[1], '')
FROM (SELECT pid, max(extract(epoch FROM clock_timestamp() - waitstart)) AS waited FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL GROUP BY pid) w`
	stuckLockSQL = `
SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - a.backend_start)), 0)::float8, coalesce((array_agg(a.application_name || ', pid ' || a.pid ORDER BY a.backend_start))[1], '')
FROM pg_stat_activity a WHERE a.application_name LIKE 'auditdb/%' AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted)`

	xidSQL       = `SELECT age(datfrozenxid)::float8, datname FROM pg_database ORDER BY 1 DESC LIMIT 1`
	multixactSQL = `SELECT mxid_age(datminmxid)::float8, datname FROM pg_database ORDER BY 1 DESC LIMIT 1`
	freezeSQL    = `
SELECT used, oid::regclass::text FROM (SELECT 100 * greatest(age(c.relfrozenxid), age(t.relfrozenxid)) / current_setting('autovacuum_freeze_max_age')::float8 AS used, c.oid
FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.relkind IN ('r', 'm') AND c.relfrozenxid <> '0' ORDER BY 1 DESC LIMIT 1) w`

	standbysSQL = `
SELECT count(*) FILTER (WHERE state IN ('streaming', 'catchup')), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')), coalesce(max(extract(epoch FROM replay_lag)), 0)::float8,
  coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::float8, coalesce((array_agg(coalesce(nullif(application_name, ''), host(client_addr), 'a standby') ORDER BY replay_lsn NULLS FIRST))[1], ''),
  current_setting('synchronous_standby_names') <> ''
FROM pg_stat_replication WHERE state <> 'backup'`
	replaySQL = `
SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0) END::float8,
  coalesce(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), 0)::float8, pg_is_wal_replay_paused(), (SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming')`
	// Since when a slot has no consumer is known from 17 on.
	slotsSQL = `
SELECT slot_name, active, coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::float8, coalesce(wal_status, ''),
  safe_wal_size::float8, %s, %s, pg_size_bytes(current_setting('max_slot_wal_keep_size'))::float8, pg_size_bytes(current_setting('max_wal_size'))::float8
FROM pg_replication_slots WHERE NOT temporary ORDER BY 3 DESC`
	idleSince  = `extract(epoch FROM clock_timestamp() - inactive_since)::float8`
	idleNever  = `NULL::float8`
	reason     = `coalesce(invalidation_reason, '')`
	reason16   = `CASE WHEN conflicting THEN 'conflict' ELSE '' END`
	reasonNone = `''`

	walSizeSQL  = `SELECT coalesce(sum(size), 0)::float8, pg_size_bytes(current_setting('max_wal_size'))::float8 FROM pg_ls_waldir()`
	archiverSQL = `
SELECT current_setting('archive_mode'), coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false), coalesce(extract(epoch FROM clock_timestamp() - coalesce(last_archived_time, stats_reset)), 0)::float8,
  failed_count, coalesce(last_failed_wal, ''), last_archived_time IS NULL FROM pg_stat_archiver`
	backlogSQL = `SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'`

	// pg_stat_user_tables adds up the indexes of every table: it takes ten times as long as the functions that it calls.
	deadSQL = `
SELECT n_dead_tup / (current_setting('autovacuum_vacuum_threshold')::float8 + current_setting('autovacuum_vacuum_scale_factor')::float8 * greatest(reltuples, 0)) AS ratio, oid::regclass::text, n_dead_tup
FROM (SELECT c.oid, c.reltuples, pg_stat_get_dead_tuples(c.oid) AS n_dead_tup` + userTables + `) s WHERE n_dead_tup > 10000 ORDER BY ratio DESC LIMIT 1`
	insertedSQL = `
SELECT n_ins_since_vacuum / (current_setting('autovacuum_vacuum_insert_threshold')::float8 + current_setting('autovacuum_vacuum_insert_scale_factor')::float8 * greatest(reltuples, 0)) AS ratio, oid::regclass::text, n_ins_since_vacuum
FROM (SELECT c.oid, c.reltuples, pg_stat_get_ins_since_vacuum(c.oid) AS n_ins_since_vacuum` + userTables + `) s
WHERE n_ins_since_vacuum > 100000 AND current_setting('autovacuum_vacuum_insert_threshold')::float8 >= 0 ORDER BY ratio DESC LIMIT 1`
	analyzedSQL = `
SELECT coalesce(extract(epoch FROM clock_timestamp() - greatest(pg_stat_get_last_analyze_time(oid), pg_stat_get_last_autoanalyze_time(oid))), extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()))::float8,
  oid::regclass::text, n_mod_since_analyze
FROM (SELECT c.oid, pg_stat_get_mod_since_analyze(c.oid) AS n_mod_since_analyze` + userTables + `) s
WHERE n_mod_since_analyze > 100000 AND n_mod_since_analyze > 0.1 * pg_stat_get_live_tuples(oid) ORDER BY 1 DESC LIMIT 1`
	userTables = `
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'`
	autovacuumSQL = `
SELECT current_setting('autovacuum')::bool, current_setting('track_counts')::bool, current_setting('autovacuum_max_workers')::int, count(*), coalesce(min(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'`

	// A sequence wraps at its own end, or before that at the end of the type of the column that owns it.
	sequencesSQL = `
SELECT 100 * s.last_value::float8 / least(s.max_value, CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 ELSE 9223372036854775807 END),
  format('%I.%I', s.schemaname, s.sequencename), least(s.max_value, CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 ELSE 9223372036854775807 END) - s.last_value
FROM pg_sequences s JOIN pg_class c ON c.relname = s.sequencename AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = s.schemaname)
  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
  LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE s.last_value IS NOT NULL AND NOT s.cycle AND s.increment_by > 0 ORDER BY 1 DESC LIMIT 1`
	sequenceCountSQL = `SELECT count(*), count(*) FILTER (WHERE NOT has_sequence_privilege(oid, 'SELECT') AND NOT has_sequence_privilege(oid, 'USAGE')) FROM pg_class WHERE relkind = 'S'`
	// An index that is being built is not broken, and neither is a partitioned one while its partitions get theirs.
	invalidSQL = `
SELECT count(*), count(*) FILTER (WHERE i.indisunique), coalesce((array_agg(i.indexrelid::regclass::text ORDER BY i.indisunique DESC, 1))[1], ''), count(*) FILTER (WHERE c.relkind = 'I')
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT (i.indisvalid AND i.indisready) AND c.relpersistence <> 't'
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p JOIN pg_stat_activity a USING (pid) WHERE p.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (p.index_relid = i.indexrelid OR a.application_name LIKE 'auditdb/index.apply%'))`
	unusedSQL = `
SELECT count(*), coalesce(sum(pg_relation_size(c.oid)), 0)::float8, coalesce(extract(epoch FROM clock_timestamp() - (SELECT stats_reset FROM pg_stat_database WHERE datname = current_database())), 30 * 86400)::float8
FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'i' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast' AND NOT i.indisunique AND i.indisvalid AND pg_stat_get_numscans(c.oid) = 0
  AND c.relpages > 10485760 / current_setting('block_size')::int -- to ask for the size of thousands takes seconds
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)`
	duplicateSQL = `
SELECT coalesce(sum(n - 1), 0)::bigint, coalesce(min(k.indrelid::regclass::text || ' ' || k.keys), '') FROM (SELECT i.indrelid, i.indkey::text AS keys, count(*) AS n
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indisvalid AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
  GROUP BY i.indrelid, i.indkey::text, i.indclass, i.indcollation::text, i.indoption::text, i.indexprs::text, i.indpred::text, c.relam HAVING count(*) > 1) k`
	partitionSizeSQL = `
SELECT coalesce(pg_total_relation_size(oid), 0)::float8, oid::regclass::text FROM (SELECT c.oid FROM pg_class c WHERE c.relispartition AND c.relkind = 'r' ORDER BY c.relpages DESC LIMIT 1) p`
	checksumSQL = `
SELECT current_setting('data_checksums')::bool, coalesce(sum(checksum_failures), 0)::bigint, coalesce(max(checksum_last_failure)::text, ''), coalesce(max(coalesce(datname, 'shared objects')) FILTER (WHERE checksum_failures > 0), '') FROM pg_stat_database`
	deltaSQL = `
SELECT coalesce(sum(deadlocks), 0)::float8, coalesce(sum(temp_bytes), 0)::float8, coalesce(sum(blks_hit), 0)::float8, coalesce(sum(blks_read), 0)::float8, coalesce(max(stats_reset)::text, ''), pg_postmaster_start_time()::text
FROM pg_stat_database`
	checkpointsSQL   = `SELECT checkpoints_timed::float8, checkpoints_req::float8 FROM pg_stat_bgwriter`
	checkpoints17SQL = `SELECT num_timed::float8, num_requested::float8 FROM pg_stat_checkpointer`
	sampleSQL        = `SELECT value, extract(epoch FROM clock_timestamp() - taken_at)::float8 FROM auditdb.health_sample WHERE check_name = $1 AND object = $2 AND taken_at < $3 ORDER BY taken_at DESC LIMIT 1`
	keepSQL          = `INSERT INTO auditdb.health_sample (check_name, object, taken_at, value) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`
	forgetSQL        = `DELETE FROM auditdb.health_sample WHERE taken_at < $1`

	durabilitySQL = `SELECT current_setting('fsync')::bool, current_setting('full_page_writes')::bool, (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'), -- this session has set its own
  coalesce((SELECT string_agg(coalesce(r.rolname, d.datname, '?'), ', ') FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE 'synchronous_commit=off' = ANY (s.setconfig)), '')`
	restartSQL      = `SELECT count(*), coalesce(string_agg(name, ', ' ORDER BY name), '') FROM pg_settings WHERE pending_restart`
	mayReadFilesSQL = `SELECT has_table_privilege('pg_catalog.pg_file_settings', 'SELECT') AND has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')
  AND has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT') AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE')`
	filesSQL = `
SELECT count(*), coalesce(min(what), '') FROM (SELECT coalesce(name, sourcefile) || ': ' || error AS what FROM pg_file_settings WHERE error IS NOT NULL
  UNION ALL SELECT 'pg_hba.conf line ' || line_number || ': ' || error FROM pg_hba_file_rules WHERE error IS NOT NULL) e`
	statementsSQL = `SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements'), position('pg_stat_statements' IN coalesce(current_setting('shared_preload_libraries', true), '')) > 0`
	triggersSQL   = `
SELECT count(*), coalesce(min(t.tgname || ' on ' || t.tgrelid::regclass), ''), count(*) FILTER (WHERE t.tgrelid = ANY ($1::oid[]) OR n.nspname = 'auditdb')
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgenabled = 'D' AND (NOT t.tgisinternal OR t.tgparentid <> 0)`
	constraintsSQL = `SELECT count(*), coalesce(min(conname || ' on ' || conrelid::regclass), '') FROM pg_constraint WHERE NOT convalidated AND conrelid <> 0 AND contype IN ('c', 'f')`
	unloggedSQL    = `SELECT count(*), coalesce(min(oid::regclass::text), '') FROM pg_class WHERE relpersistence = 'u' AND oid = ANY ($1::oid[])`
	collationSQL   = `SELECT datcollversion, pg_database_collation_actual_version(oid), (SELECT count(*) FROM pg_collation WHERE collversion IS NOT NULL AND collversion <> pg_collation_actual_version(oid)) FROM pg_database WHERE datname = current_database()`
	collation14SQL = `SELECT NULL::text, NULL::text, (SELECT count(*) FROM pg_collation WHERE collversion IS NOT NULL AND collversion <> pg_collation_actual_version(oid))`
	// Roles of auditdb's own may expire and erase; the owner may do anything.
	grantsSQL = `
SELECT count(DISTINCT (a.grantee, c.oid)), coalesce(min(coalesce(r.rolname, 'PUBLIC') || ' on ' || c.oid::regclass), '') FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE c.oid = ANY ($1::oid[]) AND a.privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE') AND a.grantee <> c.relowner AND coalesce(r.rolname, '') NOT LIKE 'auditdb\_%'`

	pendingSQL = `
SELECT count(*), coalesce((array_agg(i.inhrelid::regclass::text ORDER BY 1))[1], ''), coalesce((array_agg(i.inhparent::regclass::text ORDER BY i.inhrelid::regclass::text))[1], ''),
  EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query ~* 'DETACH PARTITION')
FROM pg_inherits i WHERE i.inhdetachpending`

	verdictsSQL = `
SELECT count(*), count(*) FILTER (WHERE NOT v.ok), coalesce(extract(epoch FROM clock_timestamp() - max(v.checked_at)), -1)::float8,
  coalesce(min(m.schema_name || '.' || m.table_name || ' from ' || v.part_from::date) FILTER (WHERE NOT v.ok AND isfinite(v.part_from)), min(m.schema_name || '.' || m.table_name) FILTER (WHERE NOT v.ok), '')
FROM auditdb.verdict v JOIN auditdb.managed_table m USING (table_id) WHERE m.integrity = 'on'`
	firstRecordSQL = `SELECT coalesce(extract(epoch FROM clock_timestamp() - min(appended_at)), -1)::float8 FROM auditdb.log WHERE seq = 0`

	// A run that other runs kept from working (5) is no failure of the job.
	jobsSQL = `
WITH runs AS (SELECT job, started_at, finished_at, exit_code, heartbeat_at FROM auditdb.job_run WHERE started_at > $1),
  gaps AS (SELECT job, extract(epoch FROM started_at - lag(started_at) OVER (PARTITION BY job ORDER BY started_at)) AS gap FROM runs WHERE exit_code = 0)
SELECT r.job, coalesce(extract(epoch FROM clock_timestamp() - max(r.started_at) FILTER (WHERE r.exit_code = 0)), -1)::float8,
  (SELECT coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY gap), 0) FROM gaps g WHERE g.job = r.job)::float8,
  (SELECT coalesce(percentile_cont(0.9) WITHIN GROUP (ORDER BY gap), 0) FROM gaps g WHERE g.job = r.job)::float8, count(*) FILTER (WHERE r.exit_code = 0),
  coalesce((array_agg(r.exit_code ORDER BY r.started_at DESC) FILTER (WHERE r.finished_at IS NOT NULL AND r.exit_code <> 5))[1], 0),
  count(*) FILTER (WHERE r.finished_at IS NULL AND coalesce(r.heartbeat_at, r.started_at) < clock_timestamp() - interval '10 minutes' AND r.started_at > clock_timestamp() - interval '1 day')
FROM runs r GROUP BY r.job ORDER BY r.job`
)

const (
	auditOIDsSQL = `
SELECT t.relid::oid FROM auditdb.managed_table m JOIN pg_namespace n ON n.nspname = m.schema_name JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = m.table_name,
  LATERAL (SELECT c.oid::regclass AS relid UNION SELECT relid FROM pg_partition_tree(c.oid)) t`
	shortLockSQL = `SET LOCAL lock_timeout = '1s'`
	someRowsSQL  = `SELECT EXISTS (SELECT FROM %s)`
	nearRowsSQL  = `SELECT EXISTS (SELECT FROM %[1]s WHERE %[2]s >= $1 AND %[2]s < $2)`
)
