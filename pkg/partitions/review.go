package partitions

import (
	"context"
	"slices"
	"time"
)

// Review is what rules say about the partitions of a table. Nil pointers: auditdb's schema is not there to say.
type Review struct {
	Cutoff *time.Time // key value; nil: no policy
	rule   Rule
	own    bool // auditdb's schema is there
	kept   map[uint32]Reason
}

// Review reads the rules that apply to t and what they say about its partitions.
func (w *Worker) Review(ctx context.Context, t Table, c *Catalog) (*Review, error) {
	db := w.o.DB.Pool()
	own, err := hasOwnTable(ctx, db, "hold")
	if err != nil {
		return nil, err
	}
	r := &Review{own: own, kept: map[uint32]Reason{}}
	if r.rule, _, err = w.rule(ctx, db, t, PruneOptions{lenient: true}); err != nil {
		return nil, err
	}
	if !r.rule.Known {
		return r, nil
	}
	r.Cutoff = &r.rule.Cutoff
	_, kept := Expired(c.All(), r.rule, t.KeyTime(w.o.Now()))
	for _, k := range kept {
		if k.Reason != KeptNotExpired && k.Reason != KeptFuture {
			r.kept[k.OID] = k.Reason
		}
	}
	return r, nil
}

// Held says whether an active hold keeps p.
func (r *Review) Held(p Partition) *bool {
	return r.known(!p.Default && slices.ContainsFunc(r.rule.Holds, p.Overlaps))
}

// Archived says whether p has a verified archive.
func (r *Review) Archived(p Partition) *bool {
	return r.known(!p.Default && slices.ContainsFunc(r.rule.Archived, p.Equal))
}

func (r *Review) known(b bool) *bool {
	if !r.own {
		return nil
	}
	return &b
}

// KeptBecause says why p has not been pruned although it has expired; nil for a partition that has not, or may go.
func (r *Review) KeptBecause(p Partition) *Reason {
	if reason, ok := r.kept[p.OID]; ok {
		return &reason
	}
	return nil
}
