package integrity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// Rotate introduces the key that writes in next, made by Keys.Next of the log's keys: both count from then on, until the older one is
// revoked. A key that the log knows already is left at that: the result has no sequence numbers then.
func Rotate(ctx context.Context, db *postgres.DB, at time.Time, wait time.Duration, next *Keys) (Appended, error) {
	_, ctl, err := NewLog(next).look(ctx, db)
	if err == nil { // an earlier run has come that far
		if _, ok := ctl.keys[next.id]; ok {
			cp, err := NewLog(next).Current(ctx, db)
			return Appended{Checkpoint: cp}, err
		}
	}
	old := next.before()
	if old == nil {
		return Appended{}, fault.New(fault.Internal, "", "rotate: the new keys are without the ones before")
	}
	body := &Key{KeyID: next.id, Check: next.check, Public: next.pub.Encode()}
	return NewLog(old).manage(ctx, db, at, wait, func(_ control, size int64) ([]Body, error) {
		if size == 0 {
			return nil, fault.New(fault.Refused, "make another with auditdb integrity keygen", "rotate: nothing was ever logged with key %s", old.id)
		}
		return []Body{body}, nil
	})
}

// Revoke ends a key: records after it are not authenticated by that key.
func (l *Log) Revoke(ctx context.Context, db *postgres.DB, at time.Time, id, reason string) (Appended, error) {
	return l.manage(ctx, db, at, l.wait, func(c control, _ int64) ([]Body, error) {
		if id == l.keys.id {
			return nil, fault.New(fault.Refused, "auditdb integrity rotate makes another first", "revoke: key %s is the one that writes", id)
		}
		if _, ok := c.keys[id]; !ok {
			return nil, fault.New(fault.Usage, "auditdb integrity log --kind key", "revoke: the log has no key %q that counts", id)
		}
		return []Body{&Revoke{KeyID: id, Reason: reason}}, nil
	})
}

// AcceptLoss records that external checkpoints of up to size records are of a log whose end is lost. after is how many records both have
// in common for certain; negative: as many as there were when the server began its timeline, else as many as there are.
func (l *Log) AcceptLoss(ctx context.Context, db *postgres.DB, at time.Time, after, size int64, reason string) (Appended, error) {
	return l.manage(ctx, db, at, l.wait, func(c control, now int64) ([]Body, error) {
		if after < 0 {
			after = now
			if c.began > 0 {
				after = c.began
			}
		}
		if after >= size {
			return nil, fault.New(fault.Usage, "give the size of the external checkpoint that is not met; --after says how many records it has in common with the log",
				"accept-loss: a checkpoint of %d records is not beyond the %d that are there", size, after)
		}
		return []Body{&Recovery{Event: EventLoss, After: after, Size: size, Origin: c.origin, System: c.system, Timeline: c.timeline, Reason: reason}}, nil
	})
}

// Fork makes the log of a copied database go on under the origin and the key of next, which was made by Keys.Next.
func Fork(ctx context.Context, db *postgres.DB, at time.Time, wait time.Duration, next *Keys, reason string) (Appended, error) {
	old := next.before()
	if old == nil || old.origin == next.origin {
		return Appended{}, fault.New(fault.Usage, "give a name of its own with --origin", "fork: the copy needs another origin than %q", next.origin)
	}
	if _, ctl, err := NewLog(next).look(ctx, db); err == nil {
		if _, ok := ctl.keys[next.id]; ok { // an earlier run has come that far
			cp, err := NewLog(next).Current(ctx, db)
			return Appended{Checkpoint: cp}, err
		}
	}
	l := NewLog(old)
	l.anyServer = true
	return l.manage(ctx, db, at, wait, func(control, int64) ([]Body, error) {
		return []Body{
			&Key{KeyID: next.id, Check: next.check, Public: next.pub.Encode()},
			&Recovery{Event: EventFork, Origin: next.origin, Reason: reason},
		}, nil
	})
}

// Move makes the log go on under its own origin on this server, which has taken the place of the one before.
func (l *Log) Move(ctx context.Context, db *postgres.DB, at time.Time, reason string) (Appended, error) {
	here := &Log{keys: l.keys, wait: l.wait, anyServer: true, ctl: newControl(), appended: l.appended}
	return here.manage(ctx, db, at, l.wait, func(c control, _ int64) ([]Body, error) {
		return []Body{&Recovery{Event: EventMoved, Origin: c.origin, Reason: reason}}, nil
	})
}

// manage appends records about the log itself, decided by what it says under its lock. Recovery records get the server's identity.
func (l *Log) manage(ctx context.Context, db *postgres.DB, at time.Time, wait time.Duration, decide func(c control, size int64) ([]Body, error)) (done Appended, err error) {
	l.wait = max(wait, minLockWait)
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		end, err := lockTail(ctx, tx, l.wait, tail{}, []int16{})
		if err != nil {
			return fmt.Errorf("lock the integrity log: %w", err)
		}
		ctl, err := l.controlAt(ctx, tx, end)
		if err != nil {
			return err
		}
		began := end.size // the timeline's record, or the one that says it all
		if ctl.timeline != end.server.timeline {
			ctl.began = began
		}
		ctl.timeline = end.server.timeline
		bodies, err := decide(ctl, end.size)
		if err != nil {
			return err
		}
		entries := make([]Entry, len(bodies))
		for i, b := range bodies {
			if r, ok := b.(*Recovery); ok {
				r.System, r.Timeline = end.server.system, end.server.timeline
			}
			entries[i] = Entry{Body: b}
		}
		done, err = l.Append(ctx, tx, at, entries, nil)
		return err
	})
	return done, Held(ctx, db, err)
}

// Current signs the checkpoint of the log as it is now, with all keys at hand that count. An empty log has none: that is a refusal.
func (l *Log) Current(ctx context.Context, db *postgres.DB) (Checkpoint, error) {
	cur, ctl, err := l.look(ctx, db)
	if err != nil {
		return Checkpoint{}, err
	}
	if cur.edge.size == 0 {
		return Checkpoint{}, emptyLog()
	}
	return l.keys.signAll(cur.edge.size, cur.root, ctl)
}

// ErrEmptyLog says that the log has not begun.
var ErrEmptyLog = errors.New("the integrity log is empty")

func emptyLog() error {
	return fault.New(fault.Refused, "ingest and integrity seal begin it", "%w: it has no checkpoint yet", ErrEmptyLog)
}

// RootAt gives the root of the log's tree as it was at a size, in base64 as checkpoints have it.
func RootAt(ctx context.Context, db *postgres.DB, size int64) (root string, err error) {
	err = db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		h, err := tlog.TreeHash(size, treeReader(ctx, tx))
		root = h.String()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("compute the root of the log's first %d records: %w", size, err)
	}
	return root, nil
}

// AcceptedLoss gives what tells whether a checkpoint that covers so many records may be of records whose loss was accepted. It goes by
// the log as it is stored, unchecked.
func AcceptedLoss(ctx context.Context, q Querier) (func(size int64) bool, error) {
	list, err := readControlRecords(ctx, q)
	if err != nil {
		return nil, err
	}
	c := newControl()
	for _, rec := range list {
		if r, err := Parse([]byte(rec.text)); err == nil {
			c.apply(r)
		}
	}
	return c.lost, nil
}

// Newest reads the newest signed checkpoint of the log as it is stored. With a public key its signature is checked.
func Newest(ctx context.Context, q Querier, public *PublicKey) (Checkpoint, error) {
	end, err := readLogSize(ctx, q)
	if err != nil {
		return Checkpoint{}, err
	}
	if end.note == "" {
		return Checkpoint{}, emptyLog()
	}
	cp, _, err := ParseCheckpoint(end.note)
	if err == nil && public != nil {
		_, _, err = public.Verify(end.note)
	}
	if err != nil {
		return cp, fault.New(fault.Integrity, "auditdb verify-integrity", "the log's newest checkpoint: %w", err)
	}
	return cp, nil
}
