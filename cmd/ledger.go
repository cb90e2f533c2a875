package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// loadKeys reads the configured integrity key; it is nil when none is configured.
func loadKeys(app *App) (*integrity.Keys, error) {
	c := app.Config.Integrity
	path := keyFile(app)
	if path == "" {
		return nil, nil
	}
	keys, err := integrity.LoadKeys(path)
	if err != nil {
		return nil, err
	}
	if c.Origin != "" && c.Origin != keys.Origin() {
		return keys.WithOrigin(c.Origin)
	}
	return keys, nil
}

// credential is the name under which systemd hands the key over (LoadCredential=integrity.key:…).
const credential = "integrity.key"

// keyFile is the configured key file, else systemd's credential of that name, "" without either.
func keyFile(app *App) string {
	if file := app.Config.Integrity.KeyFile; file != "" {
		return file
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	path := filepath.Join(dir, credential)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// newLog returns the integrity log under the configured key; it is nil when no key is configured.
func newLog(app *App) (*integrity.Log, error) {
	keys, err := loadKeys(app)
	if err != nil || keys == nil {
		return nil, err
	}
	log := integrity.NewLog(keys)
	app.mu.Lock()
	defer app.mu.Unlock()
	app.logs = append(app.logs, log)
	return log, nil
}

// requireLog is newLog for work that needs a key.
func requireLog(ctx context.Context, app *App, work string) (*integrity.Log, error) {
	log, err := newLog(app)
	if err == nil && log == nil {
		err = fault.New(fault.Config, missingKeyHint(ctx, app, work), "%s: no integrity key is configured", work)
	}
	return log, err
}

// missingKeyHint asks the database which key its log has. Where that cannot be seen it proposes no new key for a log that may have begun.
func missingKeyHint(ctx context.Context, app *App, work string) string {
	const unseen = "set integrity.key_file (AUDITDB_INTEGRITY_KEY_FILE) to the file of the log's key; only for a log that has not begun make one: auditdb integrity keygen -f FILE"
	db, err := app.Postgres(ctx, work)
	if err != nil {
		return unseen
	}
	key, err := partitions.LogKey(ctx, db.Pool())
	if err != nil {
		return unseen
	}
	return integrity.KeyHint(key)
}

// newLedger returns what records partition work in the integrity log. Without a key it lets work through as long as nothing has ever
// been logged, and refuses it from then on.
func newLedger(app *App, db *postgres.DB) (partitions.Ledger, error) {
	log, err := newLog(app)
	if err != nil {
		return nil, err
	}
	return ledger{log: log, db: db, now: app.Now}, nil
}

// ledger writes partition events to the integrity log.
type ledger struct {
	log *integrity.Log // nil: no key
	db  *postgres.DB
	now func() time.Time
}

func noKey(t partitions.Table, logKey string) error {
	return fault.New(fault.Config, integrity.KeyHint(logKey), "change partitions of %s: it has integrity on and the log has begun, but no integrity key is configured", t)
}

// Check implements partitions.Ledger.
func (l ledger) Check(ctx context.Context, q partitions.Querier, t partitions.Table) error {
	if t.ManagedID == nil || !t.Integrity {
		return nil
	}
	logs, err := partitions.LogKey(ctx, q)
	switch {
	case err != nil || logs == "":
		return err
	case l.log == nil:
		return noKey(t, logs)
	}
	if err := l.log.Check(ctx, l.db); err != nil {
		return fmt.Errorf("change partitions of %s: %w", t, err)
	}
	return nil
}

// Dropping implements partitions.Ledger: it finds the rows that are in leaf sets of other ranges, as after a split.
func (l ledger) Dropping(ctx context.Context, tx pgx.Tx, t partitions.Table, p partitions.Partition) (any, error) {
	if t.ManagedID == nil || !t.Integrity || l.log == nil {
		return nil, nil
	}
	return l.log.Expiring(ctx, tx, logTable(t), partitionRef(p.Name, p.Bounds, p.Default), p.OID)
}

func logTable(t partitions.Table) *integrity.Table {
	return &integrity.Table{ID: *t.ManagedID, OID: t.OID, Schema: t.Schema, Name: t.Name, KeyColumn: t.Key.Column}
}

// Record implements partitions.Ledger.
func (l ledger) Record(ctx context.Context, tx pgx.Tx, t partitions.Table, events []partitions.Event) error {
	if t.ManagedID == nil || !t.Integrity || len(events) == 0 {
		return nil
	}
	if l.log == nil {
		empty, err := integrity.IsEmpty(ctx, tx)
		if err != nil || empty {
			return err
		}
		key, err := partitions.LogKey(ctx, tx)
		if err != nil {
			return err
		}
		return noKey(t, key)
	}
	table := logTable(t)
	entries := make([]integrity.Entry, 0, len(events))
	for _, e := range events {
		if expired, ok := e.Evidence.([]integrity.Entry); ok {
			entries = append(entries, expired...)
		}
		body, err := eventBody(ctx, tx, table, e)
		if err != nil {
			return err
		}
		entries = append(entries, integrity.Entry{Table: table, Body: body})
	}
	if err := integrity.Lock(ctx, tx); err != nil {
		return err
	}
	_, err := l.log.Append(ctx, tx, l.now(), entries, nil)
	return err
}

func eventBody(ctx context.Context, tx pgx.Tx, t *integrity.Table, e partitions.Event) (integrity.Body, error) {
	part := partitionRef(e.Name, e.Bounds, e.Default)
	switch e.Kind {
	case partitions.EventAttached:
		return &integrity.Partition{Table: t.ID, Event: integrity.EventCreated, Partition: part}, nil
	case partitions.EventReturned: // created would be another one, and its rows would be missed
		return &integrity.Partition{Table: t.ID, Event: integrity.EventAttached, Partition: part}, nil
	case partitions.EventDetached:
		oid, err := integrity.ChildOID(ctx, tx, t.OID, e.Name)
		return &integrity.Detach{Table: t.ID, Partition: part, OID: int64(oid)}, err
	case partitions.EventPruned:
		return &integrity.Prune{Table: t.ID, Partition: part, Rows: e.Rows}, nil
	case partitions.EventMoved:
		return &integrity.Move{Table: t.ID, From: part, To: partitionRef(e.To, e.ToBounds, e.ToDefault), Rows: e.Rows}, nil
	}
	return nil, fmt.Errorf("partition event %q is not known to the integrity log", e.Kind)
}

func partitionRef(name string, b partitions.Bounds, isDefault bool) integrity.PartitionRef {
	if isDefault {
		return integrity.PartitionRef{Name: name, Range: integrity.DefaultRange()}
	}
	return integrity.PartitionRef{Name: name, Range: integrity.Range{From: b.From, To: b.To, FromMin: b.FromMin, ToMax: b.ToMax}}
}
