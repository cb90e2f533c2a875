package pgtest

import (
	"context"
	"time"

	"auditdb/internal/postgres"
	"auditdb/migrations"
)

// migrate brings a database to the newest schema, as migrate up does.
func migrate(ctx context.Context, url string) error {
	db, err := postgres.Open(ctx, postgres.Options{URL: url, Application: "migrate.up", MaxConns: 2})
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = migrations.Up(ctx, db, migrations.Options{Wait: time.Minute})
	return err
}
