-- The verdicts of past verifications go where only the verifier writes; prune goes by them.

-- +goose Up
INSERT INTO auditdb.verdict (table_id, part_from, part_to, ok, log_size, checked_at, checked_by)
SELECT DISTINCT ON (1, 2, 3) (e->>'table_id')::smallint, CASE e->>'from' WHEN 'min' THEN '-infinity' ELSE (e->>'from')::timestamptz END,
  CASE e->>'to' WHEN 'max' THEN 'infinity' ELSE (e->>'to')::timestamptz END, (e->>'ok')::boolean, 0, r.started_at, r.db_user
FROM auditdb.job_run r, jsonb_array_elements(CASE WHEN jsonb_typeof(r.summary->'partitions') = 'array' THEN r.summary->'partitions' ELSE '[]' END) e
WHERE r.job = 'verify-integrity' AND r.finished_at IS NOT NULL AND jsonb_typeof(e->'ok') = 'boolean'
  AND e->>'from' ~ '^(min|\d{4}-\d\d-\d\dT[\d:.]+Z)$' AND e->>'to' ~ '^(max|\d{4}-\d\d-\d\dT[\d:.]+Z)$'
  AND (e->>'table_id') IN (SELECT table_id::text FROM auditdb.managed_table)
ORDER BY 1, 2, 3, r.started_at DESC
ON CONFLICT DO NOTHING;

-- +goose Down
DELETE FROM auditdb.verdict;
