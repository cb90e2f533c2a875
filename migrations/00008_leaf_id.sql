-- The leaf set of one row is found by its id: by the block of ingest, or among the sets of other writers' rows.

-- +goose Up
CREATE INDEX leaf_id_idx ON auditdb.leaf (table_id, block, min_id, max_id);

-- +goose Down
DROP INDEX auditdb.leaf_id_idx;
