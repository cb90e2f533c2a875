package pgtest

import (
	"context"

	"auditdb/migrations"
)

// migrate brings a database to the newest schema.
func migrate(ctx context.Context, url string) error { return migrations.Apply(ctx, url) }
