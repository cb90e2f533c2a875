package archive

const (
	generationSQL = `
SELECT coalesce(max(generation), 0) + 1, (SELECT url FROM auditdb.archive WHERE table_id = $1 AND part_from = $2::timestamptz AND part_to = $3::timestamptz ORDER BY generation DESC LIMIT 1)
FROM auditdb.archive WHERE table_id = $1 AND part_from = $2::timestamptz AND part_to = $3::timestamptz`
	recordSQL = `
INSERT INTO auditdb.archive (table_id, part_name, part_from, part_to, generation, url, format, rows, bytes, sha256, root, log_size, made_at, verified_at)
VALUES ($1, $2, $3::timestamptz, $4::timestamptz, $5, $6, 'parquet', $7, $8, $9, $10, $11, $12, $12)
ON CONFLICT (url) DO UPDATE SET generation = EXCLUDED.generation, rows = EXCLUDED.rows, bytes = EXCLUDED.bytes, sha256 = EXCLUDED.sha256, root = EXCLUDED.root,
  log_size = EXCLUDED.log_size, made_at = EXCLUDED.made_at, verified_at = EXCLUDED.verified_at, deleted_at = NULL`
	redactedSQL   = `SELECT id FROM auditdb.redaction WHERE table_id = $1 AND id BETWEEN $2 AND $3`
	redactedOfSQL = `SELECT id FROM auditdb.redaction WHERE table_id = $1 AND id = ANY ($2::bigint[])`
	recordedSQL   = `SELECT count(*) FROM auditdb.archive WHERE starts_with(url, $1) AND deleted_at IS NULL`
	listSQL       = `
SELECT a.archive_id, m.schema_name || '.' || m.table_name, a.part_name, CASE WHEN isfinite(a.part_from) THEN a.part_from END, CASE WHEN isfinite(a.part_to) THEN a.part_to END,
  a.generation, a.url, a.rows, a.bytes, a.sha256, a.root, a.made_at, a.verified_at,
  EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relname = a.part_name AND i.inhparent = to_regclass(quote_ident(m.schema_name) || '.' || quote_ident(m.table_name)))
FROM auditdb.archive a JOIN auditdb.managed_table m USING (table_id) WHERE a.deleted_at IS NULL AND ($1::smallint IS NULL OR a.table_id = $1) ORDER BY 2, a.part_from, a.generation`
)
