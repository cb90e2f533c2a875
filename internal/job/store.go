package job

const (
	startSQL = `
INSERT INTO auditdb.job_run (job, table_id, heartbeat_at, os_user, host, pid, version)
VALUES ($1, $2, pg_catalog.clock_timestamp(), $3, $4, $5, $6) RETURNING run_id::text`
	heartbeatSQL = `UPDATE auditdb.job_run SET heartbeat_at = pg_catalog.clock_timestamp() WHERE run_id = $1::text::uuid`
	finishSQL    = `
UPDATE auditdb.job_run SET heartbeat_at = pg_catalog.clock_timestamp(), finished_at = pg_catalog.clock_timestamp(), exit_code = $2, summary = $3::text::jsonb
WHERE run_id = $1::text::uuid`
	killedSQL = `
SELECT job, started_at, coalesce(heartbeat_at, started_at), coalesce(os_user, ''), coalesce(host, ''), coalesce(pid, 0)
FROM auditdb.job_run WHERE finished_at IS NULL AND coalesce(heartbeat_at, started_at) < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1)
ORDER BY started_at DESC LIMIT $2`
)
