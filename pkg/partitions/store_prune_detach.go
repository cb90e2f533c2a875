package partitions

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	schemaSQL   = `SELECT nspname::text FROM pg_namespace WHERE ARRAY[nspname::text] = parse_ident($1)`
	inSchemaSQL = `
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($2)
UNION SELECT t.typname::text FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = $1 AND t.typname = ANY ($2)`

	// vacuumPatience is longer than a server's usual deadlock_timeout, after which autovacuum gives way to who waits for it.
	vacuumPatience = 1500 * time.Millisecond
)

// findSchema looks the schema up that detached partitions go to; "" is none.
func findSchema(ctx context.Context, q Querier, name string, action Action) (found string, err error) {
	if name == "" {
		return "", nil
	}
	if action != Detach {
		return "", fault.New(fault.Usage, "add --action detach", "only detached partitions go to schema %s: these are going to be dropped", name)
	}
	err = q.QueryRow(ctx, schemaSQL, name).Scan(&found)
	if errors.Is(err, pgx.ErrNoRows) || strings.HasPrefix(postgres.SQLState(err), "22") {
		return "", fault.New(fault.Usage, "CREATE SCHEMA makes one; write its name as in SQL", "schema %s does not exist", name)
	}
	if strings.Contains(found, "\n") {
		return "", fault.New(fault.Usage, "", "the name of schema %q cannot be noted in a comment", found)
	}
	return found, wrap(err, "look for schema %s", name)
}

// namesIn says which names of partitions belong to something in a schema already; "" has none.
func namesIn(ctx context.Context, q Querier, schema string, parts []Partition) (map[string]bool, error) {
	taken := map[string]bool{}
	if schema == "" {
		return taken, nil
	}
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.Name
	}
	found, err := texts(ctx, q, inSchemaSQL, schema, names)
	for _, name := range found {
		taken[name] = true
	}
	return taken, wrap(err, "look for names in schema %s", schema)
}

// move brings a detached table to its schema. Its mark stays, and the evidence knows it by its oid.
func (x *pruning) move(ctx context.Context, p Partition) error {
	err := x.ddl(ctx, p, "move", func(tx pgx.Tx) error {
		if err := lockOnly(ctx, tx, p); err != nil {
			return err
		}
		if err := x.same(ctx, tx, p, Detached); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, moveSchemaSQL(p))
		return err
	})
	for i := range x.done {
		if err == nil && x.done[i].OID == p.OID {
			x.done[i].Schema = p.attic
		}
	}
	return err
}

// lockOnly locks a detached table, which has no partitions of the table's, for a transaction.
func lockOnly(ctx context.Context, tx pgx.Tx, p Partition) error {
	_, err := tx.Exec(ctx, "LOCK TABLE ONLY "+p.Ident()+" IN ACCESS EXCLUSIVE MODE")
	return err
}

// vacuumPatience is as long as autovacuum takes to give way, or what is left of Options.Wait.
func (w *Worker) vacuumPatience(ctx context.Context) time.Duration {
	return max(min(vacuumPatience, postgres.Patience(ctx, w.o.Wait)), w.o.LockTimeout)
}

// stopVacuum has autovacuum give way, if it is at work on one of tables (nil: none), ahead of every attempt at a lock that others queue behind:
// it does so only for who waits longer than such an attempt may take, and the next worker may come while attempts fail. For this lock nobody but
// other maintenance queues. Autovacuum to prevent wraparound stays, and is named later as what is in the way, as is a missing right.
func (w *Worker) stopVacuum(tables ...*Partition) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, p := range tables {
			if p == nil {
				continue
			}
			busy, err := w.o.DB.Blockers(ctx, []uint32{p.OID})
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(busy, func(b postgres.Blocker) bool { return b.Backend == postgres.Autovacuum }) {
				continue
			}
			o := postgres.DDLOptions{LockTimeout: w.vacuumPatience(ctx), Role: p.Owner, What: "wait for autovacuum of " + p.String()}
			err = w.o.DB.DDL(ctx, o, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "LOCK TABLE ONLY "+p.Ident()+" IN SHARE UPDATE EXCLUSIVE MODE")
				return err
			})
			if err != nil && fault.ClassOf(err) != fault.Locked && postgres.Class(err) != fault.Permission {
				return err
			}
		}
		return nil
	}
}
