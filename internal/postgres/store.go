package postgres

const (
	inRecoverySQL       = `SELECT pg_catalog.pg_is_in_recovery()`
	backendPIDSQL       = `SELECT pg_catalog.pg_backend_pid()`
	originalSettingsSQL = `SELECT pg_catalog.current_setting('search_path'), pg_catalog.pg_backend_pid()`
	// How many connections this user can still have here, besides this one: what is kept for superusers and monitoring is not asked for, and
	// the sessions of others stay as they are. Without rights one sees of them only that they have a database and a user.
	roomSQL = `
WITH other AS MATERIALIZED (SELECT datid, usesysid FROM pg_catalog.pg_stat_get_activity(NULL) WHERE pid <> pg_catalog.pg_backend_pid() AND datid > 0 AND usesysid > 0)
SELECT least(pg_catalog.current_setting('max_connections')::int - pg_catalog.current_setting('superuser_reserved_connections')::int
    - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) - (SELECT count(*) FROM other),
  CASE WHEN d.datconnlimit >= 0 AND NOT r.rolsuper THEN d.datconnlimit - (SELECT count(*) FROM other WHERE datid = d.oid) END,
  CASE WHEN r.rolconnlimit >= 0 AND NOT r.rolsuper THEN r.rolconnlimit - (SELECT count(*) FROM other WHERE usesysid = r.oid) END)
FROM pg_catalog.pg_database d, pg_catalog.pg_roles r WHERE d.datname = pg_catalog.current_database() AND r.rolname = session_user`
	setConfigSQL = `pg_catalog.set_config(%s, %s, %s)`
	setLocalSQL  = `SELECT pg_catalog.set_config($1, $2, true)`
	// A commit must be on disk before it is reported; what waits for standbys as well is left alone.
	durableCommitSQL = `CASE WHEN pg_catalog.current_setting('synchronous_commit') IN ('off', 'local') THEN pg_catalog.set_config('synchronous_commit', 'on', %s) END`

	tryLockSQL = `SELECT pg_catalog.pg_try_advisory_lock($1)`
	unlockSQL  = `SELECT pg_catalog.pg_advisory_unlock($1)`
	// A session keeps its lock connection for nothing else, so that the start of the session is when the run began.
	lockHoldersSQL = `
SELECT coalesce(l.pid, 0), coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(pg_catalog.host(a.client_addr), a.client_hostname, ''), a.backend_start
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = $1
ORDER BY l.pid`

	blockersSQL = `
SELECT coalesce(a.pid, l.pid, 0), coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(pg_catalog.host(a.client_addr), ''), coalesce(a.backend_type, ''),
  coalesce(a.state, ''), coalesce(l.mode, ''), coalesce(pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), ''),
  a.xact_start, coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::float8, coalesce(a.query, '')
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1::oid[]) AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
ORDER BY a.xact_start NULLS LAST, 1`

	blockingSQL = `
SELECT b.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(pg_catalog.host(a.client_addr), ''), coalesce(a.backend_type, ''),
  coalesce(a.state, ''), '', '', a.xact_start, coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::float8, coalesce(a.query, '')
FROM (SELECT DISTINCT pid FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) AS pid) b
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
ORDER BY a.xact_start NULLS LAST, 1`

	startDDLSQL = `SELECT pg_catalog.set_config('lock_timeout', $1, true), pg_catalog.pg_backend_pid()`

	infoSQL = `
SELECT pg_catalog.current_setting('server_version_num')::int, pg_catalog.current_setting('server_version'), pg_catalog.current_database(), d.oid, pg_catalog.pg_is_in_recovery(),
  session_user::text, coalesce(pg_catalog.current_setting('is_superuser') = 'on', false), pg_catalog.clock_timestamp(), pg_catalog.current_setting('max_locks_per_transaction')::int,
  pg_catalog.current_setting('max_connections')::int, pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'execute'),
  pg_catalog.has_function_privilege('pg_catalog.pg_control_checkpoint()', 'execute')
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`
	positionSQL = `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.pg_current_wal_insert_lsn()::text END, pg_catalog.pg_is_in_recovery()`
	// The insert position lies behind the header of a page on which no record has begun: 24 bytes, 40 on the first one of a file.
	replicaSQL = `
SELECT standby, CASE WHEN behind IN (24, 40) AND (replayed - '0/0'::pg_lsn) % 8192 = 0 THEN 0 ELSE behind END::bigint,
  coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()), 1e9)::float8, CASE WHEN standby THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END,
  coalesce((SELECT status FROM pg_catalog.pg_stat_wal_receiver), '')
FROM (SELECT standby, replayed, pg_catalog.pg_wal_lsn_diff($1::text::pg_lsn, replayed) AS behind
  FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby, pg_catalog.pg_last_wal_replay_lsn() AS replayed) r) s`
	systemIDSQL = `SELECT system_identifier FROM pg_catalog.pg_control_system()`
	timelineSQL = `SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()`
	// The control file's timeline lags behind a promotion until the next checkpoint; the name of the WAL file in use does not.
	walTimelineSQL = `SELECT pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)`
)
